"""Golden values of ReCAM and AdvCAM, and what binds them to CAM."""

from __future__ import annotations

import math

import pytest
import torch
from wsss_methods.advcam import AdvCAM, AdvCAMParams, climbed
from wsss_methods.cam import CAM, CAMNet, CAMParams
from wsss_methods.recam import ReCAM, ReCAMParams, reactivation

from harness.backbones import Weights, build_backbone

IMAGES = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def cam() -> CAMNet:
    torch.manual_seed(0)
    return CAMNet(build_backbone("test_resnet", Weights("random")), 4).eval()


@pytest.mark.parametrize(("classes", "expected"), [(20, 2.9957), (80, 4.3820), (1, 0.0)])
def test_a_second_classifier_of_zeros_knows_nothing(classes: int, expected: float) -> None:
    present = torch.zeros(3, classes)
    present[0, 0] = present[1, 0] = present[2, 0] = 1
    features, maps = torch.rand(3, 8, 4, 4), torch.randn(3, classes, 4, 4)
    loss = reactivation(features, maps, torch.zeros(classes, 8, 1, 1), present)
    assert float(loss) == pytest.approx(expected, abs=1e-4)
    assert expected == pytest.approx(math.log(classes), abs=1e-4)


def test_an_image_without_a_class_counts_nothing_but_in_the_size_of_the_batch() -> None:
    present = torch.tensor([[1.0, 1.0], [0.0, 0.0]])
    args = torch.rand(2, 8, 4, 4), torch.randn(2, 2, 4, 4), torch.zeros(2, 8, 1, 1)
    assert float(reactivation(*args, present)) == pytest.approx(math.log(2) / 2)


def test_the_scale_of_the_first_classifier_does_not_matter() -> None:
    features, maps, second = torch.rand(2, 8, 4, 4), torch.rand(2, 3, 4, 4) * 100, torch.randn(3, 8, 1, 1)
    present = torch.ones(2, 3)
    one, other = (float(reactivation(features, factor * maps, second, present)) for factor in (1, 7))
    assert one == pytest.approx(other, rel=1e-4)


def test_the_softmax_reaches_both_classifiers_and_the_features() -> None:
    features = torch.rand(2, 8, 4, 4, requires_grad=True)
    first, second = (torch.randn(3, 8, 1, 1, requires_grad=True) for _ in range(2))
    reactivation(features, torch.nn.functional.conv2d(features, first), second, torch.ones(2, 3)).backward()
    assert all(tensor.grad is not None and tensor.grad.abs().max() > 0 for tensor in (features, first, second))


def test_a_second_classifier_of_ones_gives_the_maps_of_cam(cam: CAMNet) -> None:
    method = ReCAM(ReCAMParams())
    model = method.build_from(cam, None, 5)
    torch.nn.init.ones_(model.second.weight)
    maps, presence = method.score(model, IMAGES, None)
    expected, known = CAM(CAMParams()).score(cam, IMAGES, None)
    assert torch.allclose(maps, expected, atol=1e-5)
    assert torch.allclose(presence, known)


def test_an_ascent_moves_by_its_step_and_stays_in_range() -> None:
    moved = climbed(torch.tensor([[-1.0, 0.0, 2.0]]), torch.tensor([[1.0, -0.5, 2.0]]), 0.08)
    assert moved[0].tolist() == pytest.approx([-0.96, -0.02, 2.0])


def test_one_step_is_cam_of_the_classes_that_are_asked_for(cam: CAMNet) -> None:
    labels = torch.tensor([[1.0, 0, 1, 0, 0], [1, 1, 0, 0, 1]])
    maps, presence = AdvCAM(AdvCAMParams(steps=1)).score(cam, IMAGES, labels)
    expected, known = CAM(CAMParams()).score(cam, IMAGES, None)
    assert torch.allclose(maps, expected * labels[:, 1:, None, None], atol=1e-6)
    assert torch.allclose(presence, known)


def test_the_ascent_raises_the_class_and_its_maps(cam: CAMNet) -> None:
    labels = torch.tensor([[1.0, 0, 1, 0, 0]])
    sums = []
    for steps in (1, 6):
        method = AdvCAM(AdvCAMParams(steps=steps, weight=0.0, step_size=0.02))
        maps, _ = method.score(cam, IMAGES[:1], labels)
        sums.append(float(maps.sum()) / steps)
    assert sums[1] > sums[0]
    assert all(parameter.grad is None for parameter in cam.parameters())


def test_without_labels_the_classes_are_those_with_a_positive_logit(cam: CAMNet) -> None:
    method = AdvCAM(AdvCAMParams(steps=1))
    maps, presence = method.score(cam, IMAGES, None)
    shown = maps.flatten(2).amax(2) > 0
    assert not shown[presence <= 0.5].any()
