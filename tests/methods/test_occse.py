"""Golden values of OC-CSE."""

from __future__ import annotations

import math

import pytest
import torch
from wsss_methods.cam import CAM, CAMNet, CAMParams
from wsss_methods.occse import OCCSE, OCCSENet, OCCSEParams, erase

from harness import Batch, Step
from harness.backbones import Weights, build_backbone

GREY = torch.full((1, 3, 1, 1), 0.5)


def built(**settings: float) -> tuple[OCCSE, OCCSENet]:
    torch.manual_seed(0)
    method = OCCSE(OCCSEParams(image_size=64, **settings))
    parent = CAM(CAMParams()).build(build_backbone("test_resnet", Weights("random")), 4)
    net = method.build_from(parent, build_backbone("test_resnet", Weights("random")), 4)
    assert isinstance(net, OCCSENet)
    return method, net


def test_a_map_with_half_of_the_peak_of_its_batch_erases_half() -> None:
    images = torch.ones(2, 3, 4, 4)
    maps = torch.stack([torch.full((4, 4), 2.0), torch.full((4, 4), 1.0)])
    by_batch = erase(images, maps, GREY, "batch")
    assert by_batch[0].mean() == pytest.approx(0.5, abs=1e-4)
    assert by_batch[1].mean() == pytest.approx(0.75, abs=1e-4)
    assert erase(images, maps, GREY, "image")[1].mean() == pytest.approx(0.5, abs=1e-4)


def test_a_map_is_enlarged_before_it_loses_what_is_negative() -> None:
    maps = torch.tensor([[[1.0, -1.0], [-1.0, -1.0]]])
    mask = 1 - erase(torch.ones(1, 3, 4, 4), maps, torch.zeros(1, 3, 1, 1), "image")[0, 0]
    assert float(mask.sum()) == pytest.approx(2.125, abs=1e-3)


@pytest.mark.parametrize(("epoch", "expected"), [(0, 1.3 * math.log(2)), (14, 2 * math.log(2))])
def test_classifiers_of_zeros_know_nothing(epoch: int, expected: float) -> None:
    method, net = built()
    net.classifier.weight.data.zero_()
    ordinary = net.ordinary
    assert isinstance(ordinary, CAMNet)
    ordinary.classifier.weight.data.zero_()
    batch = Batch(torch.rand(2, 3, 64, 64), torch.tensor([[1.0, 1, 0, 0], [1, 0, 1, 1]]), ["a", "b"])
    losses = method.training_step(net, batch, Step(epoch, 15, 0, 15))
    assert (losses["cls"] + losses["erased"]).item() == pytest.approx(expected, abs=1e-4)


def test_the_erased_image_teaches_the_target_alone_and_the_ordinary_classifier_nothing() -> None:
    method, net = built()
    net.ordinary.requires_grad_(False)
    net.classifier.weight.data.abs_()  # so that every map erases something
    batch = Batch(torch.rand(2, 3, 64, 64), torch.tensor([[1.0, 0, 1, 0], [1, 0, 1, 0]]), ["a", "b"])
    method.training_step(net.train(), batch, Step(0, 1, 0, 1))["erased"].backward()
    gradient = net.classifier.weight.grad
    assert gradient is not None
    assert gradient.flatten(1).any(1).tolist() == [False, True, False]
    assert not net.ordinary.training


def test_an_image_without_a_class_is_no_trouble() -> None:
    method, net = built()
    batch = Batch(torch.rand(2, 3, 64, 64), torch.tensor([[1.0, 0, 0, 0], [1, 0, 1, 0]]), ["a", "b"])
    assert all(torch.isfinite(loss) for loss in method.training_step(net, batch, Step(0, 1, 0, 1)).values())
