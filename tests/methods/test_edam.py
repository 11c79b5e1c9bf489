"""Golden values of EDAM."""

from __future__ import annotations

import math

import pytest
import torch
from wsss_methods.edam import EDAM, EDAMNet, EDAMParams, normed, positions

from harness import Batch, Step
from harness.backbones import Weights, build_backbone


@pytest.fixture
def built() -> tuple[EDAM, EDAMNet]:
    torch.manual_seed(0)
    method = EDAM(EDAMParams(image_size=64, width=16, hidden=8))
    model = method.build(build_backbone("test_resnet", Weights("random")), 4)
    assert isinstance(model, EDAMNet)
    return method, model


def test_masks_have_length_1_at_each_place() -> None:
    assert normed(torch.tensor([[-3.0, 4.0, 0.0]])[:, :, None, None]).flatten().tolist() == pytest.approx(
        [0.6, 0.8, 0.0]
    )
    drawn = normed(torch.randn(2, 5, 3, 4, generator=torch.Generator().manual_seed(0)))
    assert drawn.square().sum(1) == pytest.approx(torch.ones(2, 3, 4), abs=1e-5)
    assert (drawn >= 0).all()


def test_a_transformer_is_as_large_as_the_authors() -> None:
    model = EDAM(EDAMParams()).build(build_backbone("test_resnet", Weights("random")), 2)
    assert sum(p.numel() for p in model.transformers[0].parameters()) == 198_272  # type: ignore[union-attr, index]


def test_classifiers_of_zeros_cost_ln_2(built: tuple[EDAM, EDAMNet]) -> None:
    method, model = built
    for parameter in model.classifiers.parameters():
        parameter.data.zero_()
    batch = Batch(torch.rand(4, 3, 64, 64), torch.tensor([[1.0, 1, 0, 1]]).repeat(4, 1), list("abcd"))
    loss = method.training_step(model, batch, Step(0, 1, 0, 1))["bce"]
    assert float(loss.detach()) == pytest.approx(math.log(2))


def test_a_logit_is_of_the_first_image_and_listens_to_the_second(built: tuple[EDAM, EDAMNet]) -> None:
    _, model = built
    model.eval()
    with torch.no_grad():
        one, two, three = (model(torch.rand(1, 3, 64, 64)) for _ in range(3))
        first, alike, other = model.judged(*one, *two), model.judged(*one, *three), model.judged(*two, *one)
    assert not torch.allclose(first, other)
    assert not torch.allclose(first, alike)


def test_a_closed_mask_leaves_positions_alone(built: tuple[EDAM, EDAMNet]) -> None:
    _, model = built
    model.eval()
    with torch.no_grad():
        masks, embedded = model(torch.rand(2, 3, 64, 64))
        shut = torch.zeros_like(masks)
        logits = model.judged(shut, embedded, shut, embedded)
    assert torch.allclose(logits[0], logits[1], atol=1e-6)


def test_places_differ_and_are_bounded() -> None:
    found = positions(16, 3, 5)
    assert found.shape == (16, 3, 5)
    assert found.abs().max() <= 1
    assert len({tuple(row) for row in found.flatten(1).T.tolist()}) == 15


def test_scores_are_the_masks_of_classes_alone(built: tuple[EDAM, EDAMNet]) -> None:
    method, model = built
    maps, presence = method.score(model.eval(), torch.rand(2, 3, 64, 64), None)
    assert maps.shape[:2] == presence.shape == (2, 3)
    assert maps.square().sum(1).max() <= 1 + 1e-5
