"""Golden values of CLIMS, and a run with a drawn encoder in the place of CLIP."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch.nn import functional
from wsss_methods.clims import losses

from harness.backbones import Weights, build_tower
from harness.torchvision_ops import ensure_importable
from tests.conftest import TINY, Run


def alike(cosine: float) -> torch.Tensor:
    return torch.tensor([[cosine, math.sqrt(1 - cosine**2), 0.0]])


NAME = torch.tensor([[1.0, 0, 0]])
NOWHERE = torch.tensor([[0.0, 0, 1]])


def test_a_quarter_of_likeness_costs() -> None:
    found = losses(alike(0.25), alike(0.25), NAME, NOWHERE, 0.26)
    assert float(found["object"]) == pytest.approx(1.3863, abs=1e-4)
    assert float(found["background"]) == pytest.approx(0.2877, abs=1e-4)
    assert float(found["co_occurring"]) == 0
    assert 10 * float(found["object"]) + 24 * float(found["background"]) + 0.2 * 0.5 == pytest.approx(20.8673, abs=1e-3)


def test_backgrounds_count_above_the_threshold_alone_and_are_added_up() -> None:
    inside = torch.eye(2)
    background = torch.tensor([[0.30, 0.27], [0.20, 0.26]])  # cosines of both vectors with two backgrounds
    found = losses(inside, inside, inside, background, 0.26)
    assert float(found["co_occurring"]) == pytest.approx(-math.log(0.7) - math.log(0.73), abs=1e-4)
    assert float(found["co_occurring"]) == pytest.approx(0.6714, abs=1e-4)


def test_what_is_nothing_like_its_name_has_no_gradient() -> None:
    inside = torch.tensor([[-0.5, 0.8, 0]], requires_grad=True)
    losses(inside, alike(0.2), NAME, NOWHERE, 0.26)["object"].backward()
    assert inside.grad is not None
    assert inside.grad.abs().sum() == 0


def test_only_the_background_loss_makes_a_map_cover_its_object() -> None:
    """An encoder that sees the mean colour of two pixels, the first of which is the object."""
    gates = torch.tensor([0.5, 0.5], requires_grad=True)

    def seen(gate: torch.Tensor) -> torch.Tensor:
        return functional.normalize((torch.eye(3)[:2] * gate[:, None]).mean(0, keepdim=True), dim=1)

    found = losses(seen(gates), seen(1 - gates), NAME, NOWHERE, 0.26)
    assert float(found["object"].detach()) == pytest.approx(0.3466, abs=1e-4)
    assert float(found["background"].detach()) == pytest.approx(1.2279, abs=1e-4)
    kept, left = (torch.autograd.grad(found[name], gates, retain_graph=True)[0] for name in ("object", "background"))
    assert kept.tolist() == pytest.approx([-1, 1], abs=1e-3)
    assert left.tolist() == pytest.approx([-2.414, 2.414], abs=1e-2)


@pytest.fixture
def clip(tmp_path: Path) -> Path:
    ensure_importable()
    import timm

    torch.manual_seed(0)
    save_file(timm.create_model("test_vit").state_dict(), tmp_path / "clip.safetensors")
    texts = {"classes": torch.randn(4, 1000), "background": torch.randn(2, 1000)}
    save_file(texts, tmp_path / "texts.safetensors")
    return tmp_path / "clip.safetensors"


def test_the_tower_is_frozen_and_lets_gradients_through(clip: Path) -> None:
    tower = build_tower("test_vit", clip)
    images = torch.rand(2, 3, 160, 160, requires_grad=True)
    vectors = tower(images)
    assert vectors.norm(dim=1).tolist() == pytest.approx([1, 1], abs=1e-5)
    vectors[:, 0].sum().backward()
    assert images.grad is not None
    assert images.grad.abs().sum() > 0
    assert all(parameter.grad is None for parameter in tower.parameters())
    assert Weights("random").path is None


def test_a_run_without_clip_is_skipped_and_one_with_it_says_so(here: Run, clip: Path, tmp_path: Path) -> None:
    run = (
        "run", "--methods", "clims", *TINY, "--limit", "4", "--set", "protocol.eval_splits=val",
        "--set", "clims.tower=test_vit.r160_in1k", "--results", "results",
    )  # fmt: skip
    (bare,) = json.loads(here(*run, "--dry-run", "--json").stdout)
    assert bare["why"] == "needs CLIP: --input texts=FILE --input clip=FILE; see docs/methods/clims.md"
    done = here(*run, "--input", "texts=texts.safetensors", "--input", "clip=clip.safetensors")
    assert done.returncode == 0, done.stderr
    records = [json.loads(path.read_text()) for path in (tmp_path / "results" / "records").iterdir()]
    (record,) = [record for record in records if record["status"] == "done"]
    assert record["supervision"] == ["image_labels", "text"]
    assert {"object", "background", "co_occurring", "area"} < record["curves"][0].keys()
