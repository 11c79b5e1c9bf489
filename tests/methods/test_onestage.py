"""Golden values of the single stage."""

from __future__ import annotations

import math

import pytest
import torch
from wsss_methods.onestage import OneStage, OneStageNet, OneStageParams, class_scores, mask_loss, sure

from harness import Batch, Step
from harness.backbones import Weights, build_backbone

MASKS = torch.tensor([[0.9, 0.5, 0.64, 0.1], [0.1, 0.5, 0.36, 0.9]]).view(1, 2, 2, 2)


def penalty(size: float) -> float:
    return (1 - size) ** 3 * math.log(0.01 + size)


def test_scores_of_logits_of_zero() -> None:
    logits = torch.zeros(1, 21, 4, 4)
    logits[:, 0] = 1
    assert penalty(1 / (20 + math.e)) == pytest.approx(-2.5498, abs=1e-4)
    assert class_scores(logits, 3)[0].tolist() == pytest.approx([-2.5498] * 20, abs=1e-4)


def test_scores_are_means_weighted_by_masks() -> None:
    logits = torch.tensor([1.0, 3, 0]).view(1, 3, 1, 1).expand(1, 3, 2, 2)
    found = class_scores(logits, 3)[0].tolist()
    assert found == pytest.approx([2.3143 + penalty(0.8438), penalty(0.0420)], abs=1e-3)


@pytest.mark.parametrize(("size", "expected"), [(0.0, -4.6052), (0.1, -1.6091), (0.5, -0.0842), (0.99, 0.0)])
def test_small_masks_are_punished(size: float, expected: float) -> None:
    assert penalty(size) == pytest.approx(expected, abs=1e-3)


def test_labels_are_where_masks_are_sure() -> None:
    assert sure(MASKS, 0.7, 0.6, 0.2)[0].flatten().tolist() == [0, 255, 0, 1]


@pytest.mark.parametrize("classes", [2, 5])
def test_what_uniform_logits_cost(classes: int) -> None:
    present = torch.zeros(1, classes)
    present[:, :2] = 1
    labels = sure(MASKS, 0.7, 0.6, 0.2)
    cost = mask_loss(torch.zeros(1, classes, 2, 2), labels, present)
    assert float(cost) == pytest.approx(0.25 * math.log(classes))


def test_an_image_of_which_a_class_is_nowhere_sure_does_not_count() -> None:
    labels = sure(MASKS, 0.7, 0.6, 0.2)
    assert float(mask_loss(torch.zeros(1, 3, 2, 2), labels, torch.ones(1, 3))) == 0


def test_the_gate_keeps_the_mean_in_training_and_mixes_otherwise() -> None:
    torch.manual_seed(0)
    net = OneStageNet(build_backbone("test_resnet", Weights("random")), 4, 0.3)
    deep, shallow = torch.ones(1, 8, 64, 64), torch.zeros(1, 8, 64, 64)
    assert float(net.train()._gated(deep, shallow).mean()) == pytest.approx(1, abs=0.02)
    assert float(net.eval()._gated(deep, shallow).mean()) == pytest.approx(0.7)


@pytest.mark.parametrize("name", ["test_resnet", "test_vit"])
def test_masks_are_at_stride_4_and_sum_to_one(name: str) -> None:
    torch.manual_seed(0)
    method = OneStage(OneStageParams(image_size=64, mask_epoch=1))
    net = method.build(build_backbone(name, Weights("random")), 4)
    batch = Batch(torch.rand(2, 3, 64, 64), torch.tensor([[1.0, 1, 0, 0], [1, 0, 1, 1]]), ["a", "b"])
    assert list(method.training_step(net.train(), batch, Step(0, 2, 0, 2))) == ["cls"]
    assert list(method.training_step(net.train(), batch, Step(1, 2, 1, 2))) == ["cls", "mask"]
    with torch.no_grad():
        masks, presence = method.score(net.eval(), batch.images, None)
    assert masks.shape == (2, 4, 16, 16)
    assert torch.allclose(masks.sum(1), torch.ones(2, 16, 16))
    assert presence.shape == (2, 3)


def test_images_of_one_colour_do_not_change_masks_by_pamr() -> None:
    method = OneStage(OneStageParams(iterations=2))
    masks = torch.tensor([0.3, 0.7]).view(1, 2, 1, 1).expand(1, 2, 32, 32)
    refined = method._refined(torch.full((1, 3, 128, 128), 0.5), masks)
    torch.testing.assert_close(refined, masks.contiguous())
