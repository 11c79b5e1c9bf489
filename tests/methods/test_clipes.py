"""Golden values of CLIP-ES, and a run with a drawn encoder in the place of CLIP."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from wsss_methods.clipes import CLIPES, CLIPESNet, CLIPESParams, activation, competing

from harness.backbones import Weights, build_backbone
from harness.torchvision_ops import ensure_importable
from tests.conftest import TINY, Run

IMAGES = torch.rand(2, 3, 64, 96, generator=torch.Generator().manual_seed(1))


def texts(backgrounds: int = 3, classes: int = 4) -> dict[str, torch.Tensor]:
    """Vectors that point nearly the same way, as those of CLIP do."""
    drawn = torch.Generator().manual_seed(0)
    common = torch.randn(16, generator=drawn)
    return {
        "classes": common + 0.1 * torch.randn(classes, 16, generator=drawn),
        "projection": torch.randn(16, 64, generator=drawn),
        "background": common + 0.1 * torch.randn(backgrounds, 16, generator=drawn),
    }


def net(**changed: torch.Tensor) -> CLIPESNet:
    torch.manual_seed(0)
    return CLIPESNet(build_backbone("test_vit", Weights("random")), texts() | changed, 4).eval()


def test_classes_compete() -> None:
    logits = torch.tensor([[2.0, 1, 0]], requires_grad=True)
    competing(logits, torch.ones(1, 2))[0, 0].backward()
    assert logits.grad is not None
    assert logits.grad[0].tolist() == pytest.approx([0.2227, -0.1628, -0.0599], abs=1e-4)


def test_what_is_absent_takes_no_part_and_backgrounds_always_do() -> None:
    chances = competing(torch.tensor([[1.0, 5.0, 1.0]]), torch.tensor([[1.0, 0]]))
    assert chances[0].tolist() == pytest.approx([0.5, 0, 0.5])


def test_a_single_text_has_no_map() -> None:
    lone = net(background=torch.zeros(0, 16))
    maps, _ = CLIPES(CLIPESParams()).score(lone, IMAGES, torch.tensor([[1.0, 0, 1, 0, 0]] * 2))
    assert not maps.any()


def test_another_word_for_a_background_lowers_a_class() -> None:
    one = texts(1)["background"]
    logits, _, _ = net(background=one)(IMAGES, range(0))
    more, _, _ = net(background=torch.cat([one, one]))(IMAGES, range(0))
    present = torch.ones(2, 4)
    assert (competing(more, present)[:, :4].sum(1) < competing(logits, present)[:, :4].sum(1)).all()


def test_logits_are_cosines_of_the_mean_patch() -> None:
    model = net()
    logits, _, _ = model(IMAGES, range(0))
    mean = model.backbone(IMAGES).mean((2, 3)) @ texts()["projection"].T
    vectors = torch.cat([texts()["classes"], texts()["background"]])
    expected = 100 * torch.nn.functional.cosine_similarity(mean[:, None], vectors[None], dim=2)
    assert torch.allclose(logits, expected, atol=1e-3)


def test_gradients_are_by_what_enters_the_last_attention_alone() -> None:
    model = net()
    logits, watched, attention = model(IMAGES, range(1))
    assert watched.shape == (2, 1 + 4 * 6, 64)
    (gradient,) = torch.autograd.grad(logits[:, 0].sum(), watched)
    assert gradient[:, 1:].abs().sum() > 0
    assert attention is not None
    assert attention.shape == (2, 24, 24)
    assert not attention.requires_grad
    assert all(parameter.grad is None and not parameter.requires_grad for parameter in model.parameters())


def test_an_activation_goes_from_0_to_1_where_the_gradient_points() -> None:
    watched = torch.tensor([[[9.0, 9], [1, 0], [0, 1], [2, 0]]])  # a class token and three patches
    gradient = torch.tensor([[[5.0, 5], [1, -1], [1, -1], [1, -1]]])
    assert activation(watched, gradient, 1).tolist() == [[0.5, 0, 1]]


def test_absent_classes_have_empty_maps_and_one_image_does_not_change_another() -> None:
    method, model = CLIPES(CLIPESParams()), net()
    labels = torch.tensor([[1.0, 1, 0, 0, 1], [1, 0, 1, 0, 0]])
    maps, presence = method.score(model, IMAGES, labels)
    assert maps.shape == (2, 4, 4, 6)
    assert not maps[0, 1:3].any()
    assert maps[0, [0, 3]].amax((1, 2)).tolist() == [1, 1]
    assert ((presence > 0) & (presence < 1)).all()
    bare = CLIPES(CLIPESParams(blocks=0))  # without the attention of a random start, which spreads evenly
    plain, _ = bare.score(model, IMAGES, labels)
    assert not torch.allclose(plain, maps)
    alone, _ = bare.score(model, IMAGES[1:], labels[1:])
    assert torch.allclose(alone[0], plain[1], atol=1e-5)


@pytest.mark.parametrize(
    ("name", "shape", "says"),
    [("classes", (3, 16), "of 3 classes, the dataset has 4"), ("projection", (16, 32), "width of 32, not 64")],
)
def test_texts_of_something_else_are_refused(name: str, shape: tuple[int, int], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        net(**{name: torch.zeros(shape)})


def test_a_run_without_texts_is_skipped_and_one_with_them_says_so(here: Run, tmp_path: Path) -> None:
    ensure_importable()
    import timm

    save_file(timm.create_model("test_vit").state_dict(), tmp_path / "clip.safetensors")
    save_file(texts(), tmp_path / "texts.safetensors")
    run = ("run", "--methods", "clip-es", *TINY, "--limit", "4", "--results", "results")
    (bare,) = json.loads(here(*run, "--dry-run", "--json").stdout)
    assert bare["why"] == "needs CLIP's text vectors: --input texts=FILE; see docs/methods/clip-es.md"
    given = *run, "--input", "texts=texts.safetensors"
    (random,) = json.loads(here(*given, "--weights", "random", "--dry-run", "--json").stdout)
    assert random["why"] == "CLIP at a random start knows nothing: give --weights"
    done = here(*given, "--weights", "clip.safetensors")
    assert done.returncode == 0, done.stderr
    records = [json.loads(path.read_text()) for path in (tmp_path / "results" / "records").iterdir()]
    (record,) = [record for record in records if record["status"] == "done"]
    assert record["supervision"] == ["image_labels", "text"]
    assert record["metrics"]["train"]["miou"] > 0
