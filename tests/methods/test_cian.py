"""Golden values of CIAN, and that its refiner answers for the classes it is asked for."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from wsss_methods.cian import CIAN, CIANNet, CIANParams, by_epoch, completed, entropy, retrieved

from harness import Batch, Step
from harness.backbones import Weights, build_backbone


@pytest.fixture
def built() -> tuple[CIAN, CIANNet]:
    torch.manual_seed(0)
    refiner = CIAN(CIANParams(width=8, crop=64, stride=16))
    model = refiner.build(build_backbone("test_resnet", Weights("random")), 5)
    assert isinstance(model, CIANNet)
    return refiner, model


def test_a_place_takes_the_values_of_places_that_are_like_it() -> None:
    unit = torch.eye(2).view(1, 2, 1, 2)
    found = retrieved(unit, 3 * unit, torch.tensor([1.0, 2.0]).view(1, 1, 1, 2))
    assert found.flatten().tolist() == pytest.approx([1.0474, 1.9526], abs=1e-4)


def test_at_first_a_partner_changes_nothing(built: tuple[CIAN, CIANNet]) -> None:
    _, model = built
    features = torch.randn(2, model.backbone.dim, 5, 4)
    model.eval()
    plain = model.classifier(features)
    assert torch.equal(model(features), plain)
    assert torch.equal(model(features, features.flip(0)), plain)


def test_only_seen_classes_complete_an_image() -> None:
    logits = torch.tensor([[2.0, 1, 0], [0, 1, 3]]).T.view(1, 3, 1, 2).requires_grad_()
    seeds = torch.tensor([[[0, 1]]])
    wanted = completed(logits, seeds)
    assert wanted.tolist() == [[[0, 255]]]
    assert float(entropy(logits, wanted).detach()) == pytest.approx(0.4076, abs=1e-4)
    assert not wanted.requires_grad


def test_unknown_places_bring_no_class_and_cost_nothing() -> None:
    logits = torch.randn(1, 3, 2, 2)
    nothing = torch.full((1, 2, 2), 255)
    assert completed(logits, nothing).tolist() == nothing.tolist()
    assert float(entropy(logits, nothing)) == 0


def test_the_rate_falls_once_an_epoch() -> None:
    rates = [5e-4 * by_epoch(epoch / 20 + share, 20) for epoch in (0, 10, 19) for share in (0, 0.04)]
    assert rates == pytest.approx([5e-4, 5e-4, 2.679e-4, 2.679e-4, 3.37e-5, 3.37e-5], rel=1e-3)


def test_a_step_teaches_alone_with_help_and_what_help_found(built: tuple[CIAN, CIANNet]) -> None:
    refiner, model = built
    pseudo = torch.zeros(4, 2, 64, 64, dtype=torch.long)
    pseudo[:, :, 20:40] = 2
    pseudo[:, 0, 50:] = 0
    pseudo[:, 1, 50:] = 1  # one background says class 1, the other none: unknown
    losses = refiner.training_step(
        model, Batch(torch.rand(4, 3, 64, 64), torch.ones(4, 5), list("abcd"), pseudo=pseudo), Step(0, 1, 0, 1)
    )
    assert losses.keys() == {"self", "cross", "completion"}
    assert float(losses["self"].detach()) == pytest.approx(float(losses["cross"].detach()), abs=1e-5)  # as it starts
    sum(losses.values()).backward()  # type: ignore[union-attr]
    assert model.norm.weight.grad is not None
    assert model.norm.weight.grad.abs().sum() > 0


def test_what_comes_back_is_the_background_and_the_open_classes(built: tuple[CIAN, CIANNet]) -> None:
    refiner, model = built
    refiner.model = model.eval()
    image = np.random.default_rng(0).integers(0, 255, (70, 90, 3), np.uint8)
    refiner.classes = [1, 2, 3, 4]
    every = refiner.refine(image, np.ones((4, 5, 6), np.float32))
    refiner.classes = [4, 2]
    two = refiner.refine(image, np.ones((2, 5, 6), np.float32))
    assert every.shape == (5, 70, 90)
    assert np.array_equal(two, every[[0, 4, 2]])
