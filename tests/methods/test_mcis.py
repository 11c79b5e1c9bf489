"""Golden values of MCIS."""

from __future__ import annotations

import math

import pytest
import torch
from wsss_methods.mcis import MCIS, MCISNet, MCISParams, attended, falling

from harness import Batch, Step
from harness.backbones import Weights, build_backbone


def built(**params: object) -> tuple[MCIS, MCISNet]:
    torch.manual_seed(0)
    method = MCIS(MCISParams.model_validate({"image_size": 64, "width": 8} | params))
    model = method.build(build_backbone("test_resnet", Weights("random")), 4)
    assert isinstance(model, MCISNet)
    return method, model


def test_a_place_is_rebuilt_from_the_places_that_are_like_it() -> None:
    two = torch.eye(2).view(1, 2, 1, 2)
    assert attended(torch.eye(2)[None], two)[0, 0].tolist() == pytest.approx([0.7311, 0.2689], abs=1e-4)
    assert attended(torch.zeros(1, 3, 2), two)[0].tolist() == [[0.5, 0.5]] * 3  # nothing is like anything: the mean


def test_content_is_the_partners_and_the_grid_is_the_own() -> None:
    _, model = built()
    own, other = torch.rand(1, 8, 2, 3), torch.rand(1, 8, 4, 5)
    model.likeness.weight.data.zero_()
    rebuilt = model.rebuilt(own, other)
    assert rebuilt.shape == own.shape
    assert torch.allclose(rebuilt, other.mean((2, 3), keepdim=True).expand_as(own))


LABELS = torch.tensor([[1.0, 1, 0, 1], [1, 1, 1, 0]])  # one pair: the first class is shared, each has another


def test_zero_logits_cost_as_the_authors_do() -> None:
    """Eight terms of ln 2 in four pairs, and two of contrast."""
    method, model = built(contrast_from=0.5)
    for layer in (model.classifier, model.shared):
        for parameter in layer.parameters():
            parameter.data.zero_()
    batch = Batch(torch.rand(2, 3, 64, 64), LABELS, ["a", "b"])
    before, after = (method.training_step(model, batch, Step(0, 2, n, 10)) for n in (0, 5))
    assert list(before) == [f"{kind}{view}" for view in ("", "_mirror", "_0.75", "_2") for kind in ("cls", "co")]
    assert float(torch.stack([*before.values()]).sum().detach()) == pytest.approx(8 * math.log(2))
    assert set(after) - set(before) == {"contrast"}
    assert float(torch.stack([*after.values()]).sum().detach()) == pytest.approx(10 * math.log(2))


def test_without_a_class_of_its_own_there_is_no_contrast() -> None:
    method, model = built(contrast_from=0.0)
    batch = Batch(torch.rand(2, 3, 64, 64), LABELS[:1].repeat(2, 1), ["a", "b"])
    assert float(method.training_step(model, batch, Step(0, 2, 0, 10))["contrast"].detach()) == 0


def test_maps_of_other_sizes_count_where_their_class_is_trusted() -> None:
    images = torch.rand(1, 3, 64, 64)
    method, model = built(trusted=0.0)
    all_views = method.score(model.eval(), images, None)[0]
    method, model = built(trusted=1.0)
    mirror_alone = method.score(model.eval(), images, None)[0]
    assert (mirror_alone <= all_views + 1e-6).all()
    assert mirror_alone.max() <= 2 + 1e-6 < all_views.max()


def test_the_learning_rate_falls_twice() -> None:
    assert [falling(epoch / 15) for epoch in (0, 4, 5, 9, 10, 14)] == pytest.approx([1, 1, 0.1, 0.1, 0.01, 0.01])
