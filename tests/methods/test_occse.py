"""Golden values of OC-CSE: what is erased, what it costs, and whom the losses reach."""

from __future__ import annotations

import math
from typing import Literal

import pytest
import torch
from wsss_methods.cam import CAMNet
from wsss_methods.occse import OCCSE, OCCSENet, OCCSEParams, erasing_mask, one_of

from harness import Batch, Step
from harness.backbones import Weights, build_backbone

IMAGES = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
LABELS = torch.tensor([[1.0, 1, 0, 1, 0], [1, 0, 0, 1, 0]])
FIRST, LAST = Step(0, 15, 0, 30), Step(14, 15, 28, 30)


def built() -> tuple[OCCSE, OCCSENet]:
    torch.manual_seed(0)
    parent, backbone = (build_backbone("test_resnet", Weights("random")) for _ in range(2))
    method = OCCSE(OCCSEParams(image_size=64))
    model = method.build_from(CAMNet(parent, 4), backbone, 5)
    assert isinstance(model, OCCSENet)
    return method, model.train()


@pytest.mark.parametrize(("norm", "peaks"), [("batch", [1.0, 0.5]), ("image", [1.0, 1.0])])
def test_a_map_is_divided_by_the_maximum_of_its_image_or_of_the_batch(
    norm: Literal["image", "batch"], peaks: list[float]
) -> None:
    maps = torch.zeros(2, 3, 3)
    maps[0, 1, 1], maps[1, 1, 1] = 2, 1
    mask = erasing_mask(maps, (3, 3), norm)
    assert mask.amax((1, 2, 3)).tolist() == pytest.approx(peaks, abs=1e-4)


def test_a_map_is_resized_before_it_is_made_positive() -> None:
    mask = erasing_mask(torch.tensor([[[1.0, -1], [-1, -1]]]), (4, 4), "image")
    assert float(mask.sum()) == pytest.approx(2.125, abs=1e-4)  # 4.0 the other way round


def test_a_map_without_a_positive_value_erases_nothing() -> None:
    assert erasing_mask(-torch.ones(1, 2, 2), (4, 4), "image").tolist() == torch.zeros(1, 1, 4, 4).tolist()


def test_one_present_class_is_drawn_each_as_often_and_none_where_there_is_none() -> None:
    torch.manual_seed(0)
    drawn = one_of(torch.tensor([[1.0, 0, 1, 1], [0, 0, 0, 0]]).repeat(3000, 1)).view(3000, 2, 4)
    assert drawn[:, 0].sum(1).eq(1).all()
    assert drawn[:, 0].mean(0).tolist() == pytest.approx([1 / 3, 0, 1 / 3, 1 / 3], abs=0.03)
    assert not drawn[:, 1].any()


@pytest.mark.parametrize(("step", "expected"), [(FIRST, 0.9011), (LAST, 1.3863)])
def test_logits_of_zero_cost_ln_2_and_its_weight(step: Step, expected: float) -> None:
    method, model = built()
    for classifier in (model.classifier, model.ordinary.classifier):
        torch.nn.init.zeros_(classifier.weight)
    losses = method.training_step(model, Batch(IMAGES, LABELS, ["a", "b"]), step)
    assert sum(loss.item() for loss in losses.values()) == pytest.approx(expected, abs=1e-4)
    assert losses["bce"].item() == pytest.approx(math.log(2))


def test_the_loss_on_erased_images_reaches_the_row_of_the_erased_class_alone() -> None:
    method, model = built()
    model.ordinary.requires_grad_(False)
    only = torch.tensor([[1.0, 0, 0, 1, 0]] * 2)
    method.training_step(model, Batch(IMAGES, only, ["a", "b"]), LAST)["erased"].backward()
    assert model.classifier.weight.grad is not None
    assert model.classifier.weight.grad.flatten(1).abs().amax(1).gt(0).tolist() == [False, False, True, False]
    assert any(parameter.grad is not None and parameter.grad.any() for parameter in model.backbone.parameters())


def test_the_ordinary_classifier_stays_as_it_is() -> None:
    method, model = built()
    before = {name: value.clone() for name, value in model.ordinary.state_dict().items()}
    trained = {id(parameter) for phase in method.phases(model) for parameter in phase.groups[0]["params"]}
    assert not any(id(parameter) in trained for parameter in model.ordinary.parameters())
    method.training_step(model, Batch(IMAGES, LABELS, ["a", "b"]), FIRST)
    assert not any(module.training for module in model.ordinary.modules())
    assert all(torch.equal(value, before[name]) for name, value in model.ordinary.state_dict().items())


def test_an_image_without_classes_is_left_whole() -> None:
    method, model = built()
    empty = torch.tensor([[1.0, 0, 0, 0, 0]] * 2)
    losses = method.training_step(model, Batch(IMAGES, empty, ["a", "b"]), FIRST)
    whole = model.ordinary(IMAGES).mean((2, 3))
    expected = 0.3 * torch.nn.functional.binary_cross_entropy_with_logits(whole, torch.zeros(2, 4))
    assert losses["erased"].item() == pytest.approx(expected.item(), abs=1e-5)
