"""CLIP's vectors of names: what is said, and a file that a small CLIP of our own makes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from harness.data.prepare.text import Words, write_vectors
from harness.errors import UserError
from harness.registry import Registry
from harness.strict import parse
from harness.torchvision_ops import ensure_importable
from tests.conftest import Run

SMALL = {
    "embed_dim": 16,
    "quick_gelu": True,
    "vision_cfg": {"image_size": 32, "layers": 1, "width": 64, "patch_size": 16},
    "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 1},
}


@pytest.fixture
def small(tmp_path: Path) -> Path:
    """A CLIP of one layer each, known to open_clip as `wsss-small`, and its weights."""
    ensure_importable()
    open_clip = pytest.importorskip("open_clip")
    (tmp_path / "wsss-small.json").write_text(json.dumps(SMALL))
    open_clip.add_model_config(tmp_path / "wsss-small.json")
    torch.manual_seed(0)
    torch.save(open_clip.create_model("wsss-small").state_dict(), tmp_path / "small.pt")
    return tmp_path / "small.pt"


def test_names_are_put_into_words() -> None:
    said = parse(Words, Registry().load("text", "clip-es"), "words").sentences(("cat", "person"))
    assert said["classes"] == ["a clean origami cat.", "a clean origami person with clothes,people,human."]
    assert len(said["background"]) == 25
    assert said["background"][0] == "a clean origami ground."
    assert len(parse(Words, Registry().load("text", "clims"), "words").background) == 10


@pytest.mark.parametrize("words", Registry().names("text"))
def test_only_classes_of_a_dataset_have_other_names(words: str) -> None:
    renamed = parse(Words, Registry().load("text", words), words).names
    assert renamed.keys() <= set(Registry().load("dataset", "voc12").classes)


def test_vectors_are_those_of_the_model(small: Path, tmp_path: Path) -> None:
    import open_clip

    sentences = {"classes": ["a cat.", "a dog."], "background": ["grass."]}
    shapes = write_vectors(tmp_path / "new" / "texts.safetensors", sentences, "wsss-small", str(small))
    assert shapes == {"classes": (2, 16), "background": (1, 16), "projection": (16, 64)}
    found = load_file(tmp_path / "new" / "texts.safetensors")
    model = open_clip.create_model("wsss-small", pretrained=str(small)).eval()
    with torch.no_grad():
        expected = model.encode_text(open_clip.get_tokenizer("wsss-small")(["a dog."]))
        image = torch.rand(1, 3, 32, 32)
        pooled, _ = model.visual._pool(model.visual.transformer(model.visual._embeds(image)))
        projected = model.encode_image(image)
    assert torch.allclose(found["classes"][1:], expected, atol=1e-6)
    assert torch.allclose(pooled @ found["projection"].T, projected, atol=1e-4)


def test_the_command_writes_the_file_and_says_what_is_next(small: Path, here: Run, tmp_path: Path) -> None:
    command = "prepare", "text", "--names", "voc12", "--model", "wsss-small", "--clip", str(small)
    done = here(*command, "--out", "mine.safetensors")
    assert done.returncode == 0, done.stderr
    assert "mine.safetensors: 20 classes, 25 backgrounds, 16 numbers each" in done.stderr + done.stdout
    assert load_file(tmp_path / "mine.safetensors")["classes"].shape == (20, 16)
    told = json.loads(here(*command, "--words", "clims", "--names", "cat, dog", "--json").stdout)
    assert told["sentences"]["classes"] == ["a photo of cat.", "a photo of dog."]
    assert told["shapes"]["background"] == [10, 16]
    mine = tmp_path / "texts" / "short.yaml"
    mine.parent.mkdir()
    mine.write_text('template: "the {}"\nbackground: [rest]\n')
    told = json.loads(here(*command, "--words", "short", "--plugins", str(mine), "--names", "cat", "--json").stdout)
    assert told["sentences"] == {"classes": ["the cat"], "background": ["the rest"]}


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (
            ["--model", "ViT-B-16-quickgel"],
            "open_clip has no model 'ViT-B-16-quickgel': did you mean 'ViT-B-16-quickgelu'?",
        ),
        (["--clip", "openia"], "no file 'openia', and ViT-B-16-quickgelu has no such weights: did you mean 'openai'?"),
        (["--words", "clipes"], "unknown text 'clipes': did you mean 'clip-es'?"),
        (["--names", "cat,,dog"], "no classes in --names 'cat,,dog'"),
    ],
)
def test_what_is_not_there_is_said_in_a_line(here: Run, options: list[str], says: str) -> None:
    pytest.importorskip("open_clip")
    failed = here("prepare", "text", *options)
    assert failed.returncode == 2
    assert says in failed.stderr
    assert failed.stderr.count("\n") <= 2


def test_a_file_that_is_no_clip_is_refused(small: Path, tmp_path: Path) -> None:
    (tmp_path / "bad.pt").write_bytes(b"no weights")
    with pytest.raises(UserError, match=r"^cannot read .*bad\.pt as wsss-small: "):
        write_vectors(tmp_path / "texts.safetensors", {"classes": ["a"]}, "wsss-small", str(tmp_path / "bad.pt"))
    assert not (tmp_path / "texts.safetensors").exists()


def test_a_dataset_wants_a_folder(here: Run) -> None:
    failed = here("prepare", "voc12")
    assert failed.returncode == 2
    assert "harness prepare voc12 --root FOLDER" in failed.stderr
