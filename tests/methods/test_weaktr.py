"""Golden values of WeakTr."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn
from wsss_methods.weaktr import Fusion, WeakTr, WeakTrParams, seen

from harness import Batch, Step
from harness.backbones import Weights, build_backbone

IMAGES = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def model() -> nn.Module:
    torch.manual_seed(0)
    return WeakTr(WeakTrParams()).build(build_backbone("test_vit", Weights("random")), 5).eval()


def test_the_fusion_of_a_deit_s_has_as_many_weights_as_the_authors() -> None:
    assert sum(p.numel() for p in Fusion(12, 6, 384, 8).parameters()) == 1825


def test_weights_of_zero_weigh_every_head_by_half(model: nn.Module) -> None:
    for parameter in model.fusion.parameters():  # type: ignore[union-attr, operator]
        parameter.data.zero_()
    with torch.no_grad():
        _, patches, fine = seen(model, IMAGES)
        blocks = range(len(model.backbone.dims))  # type: ignore[union-attr, arg-type]
        features = model.backbone.features(IMAGES, attention=blocks, class_tokens=model.tokens)  # type: ignore[union-attr, operator]
        mean = torch.stack([one.mean(1) for one in features.attention]).mean(0)
        plain = (mean[:, :4, 4:] * patches.relu().flatten(2)) @ mean[:, 4:, 4:].transpose(1, 2)
    torch.testing.assert_close(fine.flatten(2), plain / 4)


def test_the_fine_map_teaches_the_fusion_alone(model: nn.Module) -> None:
    method = WeakTr(WeakTrParams())
    batch = Batch(IMAGES, torch.eye(5)[[1, 2]], ["a", "b"])
    losses = method.training_step(model.train(), batch, Step(0, 1, 0, 1))
    assert list(losses) == ["bce", "patches", "fine"]
    losses["fine"].backward()
    reached = {name for name, p in model.named_parameters() if p.grad is not None}
    assert len(reached) == 6
    assert all(name.startswith("fusion.") for name in reached)


def test_the_fine_loss_has_a_floor(model: nn.Module) -> None:
    """Its maps are not negative: each absent class costs ln 2 at least, so .6585 of 20 classes, one of them there."""
    assert 19 / 20 * math.log(2) == pytest.approx(0.6585, abs=1e-4)
    assert (seen(model, IMAGES)[2] >= 0).all()
