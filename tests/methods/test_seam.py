"""Golden values of SEAM."""

from __future__ import annotations

import pytest
import torch
from wsss_methods.seam import SEAM, SEAMNet, SEAMParams, smallest, spread, stretched

from harness import Batch, Step
from harness.backbones import Weights, build_backbone


@pytest.fixture
def net() -> SEAMNet:
    torch.manual_seed(0)
    return SEAMNet(build_backbone("test_resnet", Weights("random")), 4, 0.5)


def test_what_looks_alike_shares_its_scores() -> None:
    impulse = torch.tensor([1.0, 0, 0, 0]).view(1, 1, 2, 2)
    alike, apart = torch.ones(1, 3, 2, 2), torch.eye(4).view(1, 4, 2, 2)
    groups = torch.eye(2).repeat_interleave(2, 1).view(1, 2, 2, 2)
    assert spread(impulse, alike).flatten().tolist() == pytest.approx([0.25] * 4, abs=1e-4)
    assert spread(impulse, apart).flatten().tolist() == pytest.approx([1, 0, 0, 0], abs=1e-4)
    assert spread(impulse, groups).flatten().tolist() == pytest.approx([0.5, 0.5, 0, 0], abs=1e-4)


def test_the_smallest_quarter() -> None:
    maps = torch.stack([torch.full((4, 4), 99.0), torch.arange(16.0).view(4, 4)])[None]
    assert float(smallest(maps)) == 1.5


@pytest.mark.parametrize(
    ("values", "expected"),
    [((0, 1, 2, 4), (0, 0.25, 0.5, 1)), ((-3, 1, 2, 4), (0, 0.25, 0.5, 1)), ((2, 2, 2, 2), (0, 0, 0, 0))],
)
def test_maps_are_stretched(values: tuple[float, ...], expected: tuple[float, ...]) -> None:
    found = stretched(torch.tensor(values, dtype=torch.float32).view(1, 1, 2, 2))
    assert found.flatten().tolist() == pytest.approx(expected, abs=1e-4)


def test_refined_maps_teach_the_module_that_refines_and_nothing_else(net: SEAMNet) -> None:
    _, refined = net(torch.rand(2, 3, 64, 64))
    refined.square().sum().backward()
    reached = {
        name for name, parameter in net.named_parameters() if parameter.grad is not None and parameter.grad.any()
    }
    assert reached == {"near.weight", "far.weight", "joint.weight"}


def test_the_classifier_of_the_background_learns_nothing(net: SEAMNet) -> None:
    method = SEAM(SEAMParams(image_size=64))
    batch = Batch(torch.rand(2, 3, 64, 64), torch.tensor([[1.0, 1, 0, 0], [1, 0, 1, 1]]), ["a", "b"])
    losses = method.training_step(net.train(), batch, Step(0, 1, 0, 1))
    assert list(losses) == ["cls", "min", "er", "ecr"]
    sum(losses.values()).backward()  # type: ignore[union-attr]
    gradient = net.classifier.weight.grad
    assert gradient is not None
    assert not gradient[0].any()
    assert gradient[1:].flatten(1).any(1).all()


def test_equal_views_agree() -> None:
    method = SEAM(SEAMParams())
    maps = torch.rand(1, 4, 8, 8)
    view = (maps, maps)
    assert float(method.losses(view, view, torch.ones(1, 4), 8)["er"]) == 0
