"""Golden values of ICD, and that its directions part an object from its background."""

from __future__ import annotations

import math

import pytest
import torch
from torch.nn import functional
from wsss_methods.icd import ICD, ICDNet, ICDParams, agreed, fading_in, side_loss, spread_loss

from harness import Batch, Step
from harness.backbones import Weights, build_backbone

POINTS = torch.tensor([[2.0, 0], [-2, 0], [0, 1], [0, -1]]).T.view(1, 2, 2, 2)
ONE = torch.ones(1, 1)


def spread(direction: torch.Tensor) -> torch.Tensor:
    along = torch.einsum("bdhw,kd->bkhw", POINTS, functional.normalize(direction, dim=1))
    return spread_loss(along, ONE, 10.0)


def test_the_direction_of_most_variance() -> None:
    direction = torch.tensor([[0.6, 0.8]], requires_grad=True)
    loss = spread(direction)
    loss.backward()
    assert float(loss.detach()) == pytest.approx(-5.2)
    assert direction.grad is not None
    assert direction.grad[0].tolist() == pytest.approx([-5.76, 4.32], abs=1e-4)
    for _ in range(100):
        direction = (direction - 0.1 * torch.autograd.grad(spread(direction), direction)[0]).detach().requires_grad_()
    assert float(spread(direction).detach()) == pytest.approx(-10)


def test_images_of_several_classes_move_no_direction() -> None:
    scores = torch.ones(2, 2, 1, 1, requires_grad=True)
    loss = spread_loss(scores, torch.tensor([[1.0, 1], [1, 0]]), 10.0)
    loss.backward()
    assert scores.grad is not None
    assert scores.grad[:, :, 0, 0].tolist() == [[0, 0], [-10, 0]]
    assert float(spread_loss(scores, torch.ones(2, 2), 10.0).detach()) == 0


def test_a_place_is_of_one_present_class_at_most() -> None:
    scores = torch.tensor([[[4.0, 1, -2]], [[1.0, 3, -1]], [[9.0, 9, 9]]])[None]
    found = agreed(scores, torch.tensor([[1.0, 1, 0]]))[0, :, 0]
    assert found.tolist() == [[4, 0, -2], [0, 3, -1], [0, 0, 0]]


def test_scores_near_0_teach_nothing() -> None:
    """4, 1, -.1 and -2 are 1, .25, .05 and 1 of the largest on their side: the third is not used."""
    logits = torch.zeros(1, 1, 1, 4, requires_grad=True)
    loss = side_loss(logits, torch.tensor([[[[4.0, 1, -0.1, -2]]]]), ONE, 0.2)
    loss.backward()
    assert float(loss.detach()) == pytest.approx(3 * math.log(2) / 4)
    assert logits.grad is not None
    assert logits.grad.flatten().tolist() == pytest.approx([-0.125, -0.125, 0, 0.125])


def test_the_warm_up() -> None:
    assert [fading_in(done, 0.1) for done in (0.0, 0.05, 0.1, 1.0)] == pytest.approx([4.54e-5, 0.0067, 1, 1], rel=0.01)


def built() -> tuple[ICD, ICDNet]:
    torch.manual_seed(0)
    method = ICD(ICDParams(image_size=64, width=8))
    model = method.build(build_backbone("test_resnet", Weights("random")), 4)
    assert isinstance(model, ICDNet)
    return method, model


def test_the_object_is_where_the_maps_are_larger() -> None:
    _, model = built()
    scores = torch.tensor([[[[1.0, -1]], [[1.0, -1]], [[1.0, -1]]]])
    maps = torch.tensor([[[[3.0, 1]], [[1.0, 3]], [[1.0, 3]]]])
    model.watch(scores, maps, torch.tensor([[1.0, 1, 0]]), 0.9)
    assert model.signs.tolist() == [1, -1, 1]  # the third is not shown, and keeps its side
    assert model.averages.tolist() == [pytest.approx([0.3, 0.1, 0]), pytest.approx([0.1, 0.3, 0])]


def test_directions_learn_from_single_classes_and_features_from_the_head() -> None:
    method, model = built()
    images = torch.rand(2, 3, 64, 64)
    losses = method.training_step(
        model, Batch(images, torch.tensor([[1.0, 1, 0, 0]] * 2), ["a", "b"]), Step(0, 1, 9, 10)
    )
    losses["bottom_up"].backward(retain_graph=True)
    assert model.directions.grad is not None
    assert all(parameter.grad is None for parameter in model.backbone.parameters())
    losses["top_down"].backward()
    assert any(parameter.grad is not None for parameter in model.backbone.parameters())


def test_a_direction_finds_the_object_of_noisy_features() -> None:
    """Two clouds of eight-dimensional features in each image: the variance between them is what is found."""
    generator = torch.Generator().manual_seed(0)
    centre = functional.normalize(torch.randn(8, generator=generator), dim=0)
    inside = torch.rand(16, 10, 10, generator=generator) < 0.4
    features = 0.3 * torch.randn(16, 8, 10, 10, generator=generator)
    features += torch.where(inside[:, None], 1.0, -1.0) * centre[None, :, None, None]
    direction = torch.nn.Parameter(torch.randn(1, 8, generator=generator))
    optimizer = torch.optim.SGD([direction], lr=0.05)
    for _ in range(150):
        optimizer.zero_grad()
        along = torch.einsum("bdhw,kd->bkhw", features, functional.normalize(direction, dim=1))
        spread_loss(along, torch.ones(16, 1), 10.0).backward()
        optimizer.step()
    assert float((functional.normalize(direction.detach(), dim=1)[0] @ centre).abs()) > 0.99
