"""Counts against the arithmetic of the published architectures, not against another call of the same code."""

from __future__ import annotations

import pytest
import torch
from wsss_methods.cam import CAM, CAMParams
from wsss_methods.vitpcm import VitPCM, VitPCMParams

from harness.backbones import Weights, build_backbone
from harness.parameter_count import CONVENTIONS, count_parameters
from harness.registry import Registry


def vit(dim: int, grid: int = 24, patch: int = 16, blocks: int = 12, classes: int = 0) -> int:
    """Count a ViT by hand: patch embedding, class token, positions, blocks, last norm, head."""
    block = 4 * dim + (3 * dim * dim + 3 * dim) + (dim * dim + dim) + (4 * dim * dim + 4 * dim) + (4 * dim * dim + dim)
    embedding = 3 * patch * patch * dim + dim + dim + (grid * grid + 1) * dim
    return embedding + blocks * block + 2 * dim + (dim * classes + classes)


@pytest.mark.parametrize(("name", "dim", "millions"), [("vit_s16", 384, 23.60), ("vit_b16", 768, 89.06)])
def test_vitpcm_as_the_official_sizes_give_it(name: str, dim: int, millions: float) -> None:
    identifier = Registry().load("backbone", name)["timm"]
    method = VitPCM(VitPCMParams())
    with torch.device("meta"):
        model = method.build(build_backbone(identifier, Weights("random")), 21)
    found = count_parameters(model, identifier)
    lstm = 4 * 192 * (dim + 192 + 1)  # four gates; input, recurrent, one bias
    assert found["backbone"] == vit(dim)
    assert found["added"] == 4 * lstm + 4 * 192 * 21
    assert found["total"] == found["backbone"] + found["added"]
    assert round(found["total"] / 1e6, 2) == millions
    assert found["backbone_with_head"] == vit(dim, classes=1000)
    assert found.keys() == CONVENTIONS.keys()


@pytest.mark.parametrize(
    ("name", "millions"), [("vit_s16", 22.20), ("vit_b16", 86.86), ("resnet50v2", 25.55), ("xception", 22.86)]
)
def test_backbones_with_head_as_their_cards_say(name: str, millions: float) -> None:
    identifier = Registry().load("backbone", name)["timm"]
    assert round(count_parameters(torch.nn.Module(), identifier)["backbone_with_head"] / 1e6, 2) == millions


def test_frozen_parameters_are_not_trainable_and_a_head_counts_nothing_twice() -> None:
    model = CAM(CAMParams()).build(build_backbone("test_vit", Weights("random")), 5)
    model.backbone.requires_grad_(False)
    found = count_parameters(model, "test_vit")
    assert found["trainable"] == found["added"] == 4 * model.backbone.dim
