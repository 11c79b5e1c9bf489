from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from harness.backbones import Weights, build_backbone, read_state, resolve_weights
from harness.errors import EnvironmentUnfitError, UserError
from harness.registry import Registry
from harness.timm_models import family, family_of, timm_id
from tests.conftest import run_here

REGISTRY = Registry()


@pytest.fixture(scope="module")
def tiny_state() -> dict[str, torch.Tensor]:
    """Weights of a tiny ViT, with a head, as timm saves them."""
    from harness.timm_models import import_timm

    torch.manual_seed(0)
    return import_timm().create_model("test_vit").state_dict()


@pytest.mark.parametrize(
    ("name", "kind", "stride", "dim"),
    [
        ("timm:test_vit", "vit", 16, 64),
        ("vit_t16", "vit", 16, 192),
        ("timm:vit_small_patch14_dinov2", "vit", 14, 384),
        ("timm:test_resnet", "cnn", 16, 96),
        ("xception", "cnn", 16, 2048),
        ("resnet50v2", "cnn", 16, 2048),
    ],
)
def test_features_are_dense_at_any_size(name: str, kind: str, stride: int, dim: int) -> None:
    identifier = timm_id(name, REGISTRY)
    backbone = build_backbone(identifier, Weights("random")).eval()
    assert (family(identifier), backbone.family, backbone.stride, backbone.dim) == (kind, kind, stride, dim)
    with torch.no_grad():
        features = backbone(torch.rand(2, 3, 96, 128))
    assert features.shape[:2] == (2, dim)
    assert abs(features.shape[2] - 96 / stride) <= 1
    assert abs(features.shape[3] - 128 / stride) <= 1


@pytest.mark.parametrize("name", REGISTRY.names("backbone"))
def test_an_entry_says_the_family_that_timm_knows(name: str) -> None:
    assert REGISTRY.load("backbone", name)["family"] == family(timm_id(name, REGISTRY))


def test_an_entry_without_a_family_is_looked_up(tmp_path: Path) -> None:
    path = tmp_path / "backbones" / "mine.yaml"
    path.parent.mkdir()
    path.write_text("{timm: test_resnet, summary: of somebody}")
    assert family_of("mine", Registry((str(path),))) == "cnn"


@pytest.mark.parametrize(
    ("entry", "expected"),
    [
        ("summary: x", "mine.yaml:1: timm"),
        ("timm: test_vit\nfamly: vit", "mine.yaml:2: unknown key 'famly': did you mean 'family'?"),
        ("timm: test_vitt", "timm has no model 'test_vitt': did you mean 'test_vit'?"),
        ("timm: test_vit\nfamily: mlp", "mine.yaml:2: family"),
    ],
)
def test_a_wrong_entry_is_one_line_that_says_where(tmp_path: Path, entry: str, expected: str) -> None:
    path = tmp_path / "backbones" / "mine.yaml"
    path.parent.mkdir()
    path.write_text(entry)
    ran = run_here(tmp_path, "run", "--plugins", str(path), "--methods", "cam", "--backbones", "mine", "--dry-run")
    assert ran.returncode == 2
    assert expected in ran.stderr


def test_a_dry_run_of_named_backbones_is_quick_because_it_imports_no_timm(tmp_path: Path) -> None:
    command = ["run", "--methods", "vitpcm,cam", "--backbones", "vit_s16,resnet50", "--weights", "random", "--dry-run"]
    ran = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "harness", *command],
        cwd=tmp_path, text=True, capture_output=True, check=True,
    )  # fmt: skip
    imported = {line.rpartition("|")[2].strip() for line in ran.stderr.splitlines()}
    assert "harness.cli.run" in imported
    assert not imported & {"timm", "torchvision", "ray"}
    assert "4 cells" in ran.stdout


def test_a_feature_stands_where_its_patch_is() -> None:
    backbone = build_backbone("test_vit", Weights("random")).eval()
    for block in backbone.net.blocks:  # no mixing between patches
        torch.nn.init.zeros_(block.attn.proj.weight)
        torch.nn.init.zeros_(block.attn.proj.bias)
    image = torch.full((1, 3, 64, 96), 0.5)
    changed = image.clone()
    changed[:, :, 16:32, 64:80] = 1.0
    with torch.no_grad():
        moved = (backbone(changed) - backbone(image)).abs().sum(1)[0] > 1e-4
    assert moved.nonzero().tolist() == [[1, 4]]


def test_images_are_normalised_as_the_weights_expect() -> None:
    backbone = build_backbone("test_vit", Weights("random"))
    assert backbone.mean.flatten().tolist() == pytest.approx(list(backbone.net.pretrained_cfg["mean"]))
    assert "mean" not in backbone.state_dict()


@pytest.mark.parametrize("suffix", ["safetensors", "pt"])
def test_a_weights_file_is_loaded_strictly_head_aside(
    tmp_path: Path, tiny_state: dict[str, torch.Tensor], suffix: str
) -> None:
    path = tmp_path / f"w.{suffix}"
    half = {name: value.half() for name, value in tiny_state.items()}
    save_file(half, path) if suffix == "safetensors" else torch.save({"state_dict": half}, path)
    weights = resolve_weights(str(path), "test_vit")
    assert (weights.source, len(weights.sha256)) == ("file", 64)
    net = build_backbone("test_vit", weights).net
    assert torch.equal(net.blocks[0].attn.qkv.weight, tiny_state["blocks.0.attn.qkv.weight"].half().float())


def test_weights_of_pooling_are_left_out_like_a_classifiers(tmp_path: Path) -> None:
    from harness.timm_models import import_timm

    state = import_timm().create_model("test_vit3").state_dict()
    assert "attn_pool.latent" in state
    save_file(state, tmp_path / "w.safetensors")
    net = build_backbone("test_vit3", resolve_weights(str(tmp_path / "w.safetensors"), "test_vit3")).net
    assert torch.equal(net.norm.weight, state["norm.weight"])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda state: state.pop("norm.weight"), "it lacks norm.weight"),
        (lambda state: state.update({"extra.weight": torch.ones(1)}), "it has unknown extra.weight"),
        (lambda state: state.update({"norm.weight": torch.ones(3)}), "size mismatch for norm.weight"),
    ],
)
def test_weights_that_do_not_fit_name_the_keys(tmp_path: Path, tiny_state, change, message: str) -> None:  # type: ignore[no-untyped-def]
    state = dict(tiny_state)
    change(state)
    save_file(state, tmp_path / "w.safetensors")
    with pytest.raises(UserError, match=message):
        build_backbone("test_vit", resolve_weights(str(tmp_path / "w.safetensors"), "test_vit"))


class Evil:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return (Path.touch, (Path("/tmp/owned-by-a-pickle"),))  # type: ignore[return-value]  # noqa: S108


def test_a_checkpoint_that_holds_more_than_tensors_is_refused_and_not_run(tmp_path: Path) -> None:
    torch.save({"a": Evil()}, tmp_path / "evil.pt")
    with pytest.raises(UserError, match=r"cannot read weights evil\.pt"):
        read_state(tmp_path / "evil.pt")
    assert not Path("/tmp/owned-by-a-pickle").exists()  # noqa: S108


@pytest.mark.parametrize("name", ["w.pt", "w.safetensors"])
def test_a_damaged_file_is_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(b"not a checkpoint at all, not even nearly")
    with pytest.raises(UserError, match="cannot read weights"):
        read_state(tmp_path / name)


def test_a_missing_file_and_an_unreachable_hub_say_what_to_do() -> None:
    with pytest.raises(UserError, match="no weights file w.pth: --weights takes random, hub or a file"):
        resolve_weights("w.pth", "test_vit")
    with pytest.raises(
        EnvironmentUnfitError, match=r"fetch model\.safetensors of the hub's repository timm/test_vit.*--weights FILE"
    ):
        resolve_weights("hub", "test_vit.r160_in1k")


def test_a_model_without_dense_features_is_refused() -> None:
    with pytest.raises(UserError, match="has no output_stride"):
        build_backbone("swin_tiny_patch4_window7_224", Weights("random"))


def test_position_embeddings_are_resized_with_a_cubic_of_minus_one_half() -> None:
    """From the 24x24 of 384 pixels to the 60x60 of 960, as TensorFlow does and unlike plain PyTorch."""
    backbone = build_backbone("vit_tiny_patch16_384", Weights("random"))
    dim, old, new = 192, 24, 60
    embeddings = torch.randn(1, 1 + old * old, dim, generator=torch.Generator().manual_seed(0))
    backbone.net.pos_embed.data.copy_(embeddings)
    tokens = backbone.net._pos_embed(torch.zeros(1, new, new, dim))[:, 1:]
    grid = embeddings[0, 1:].double().reshape(old, old, dim).numpy()

    def cubic(x: np.ndarray, a: float = -0.5) -> np.ndarray:
        x = np.abs(x)
        near = (a + 2) * x**3 - (a + 3) * x**2 + 1
        far = a * x**3 - 5 * a * x**2 + 8 * a * x - 4 * a
        return np.where(x <= 1, near, np.where(x < 2, far, 0.0))

    centres = (np.arange(new) + 0.5) * old / new - 0.5
    weights = cubic(centres[:, None] - np.arange(old))
    weights /= weights.sum(1, keepdims=True)
    expected = np.einsum("ri,sj,ijd->rsd", weights, weights, grid).reshape(new * new, dim)
    np.testing.assert_allclose(tokens[0].detach().numpy(), expected, atol=1e-4)
