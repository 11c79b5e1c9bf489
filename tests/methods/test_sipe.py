"""Golden values of SIPE's seeds and prototypes."""

from __future__ import annotations

import pytest
import torch
from wsss_methods.sipe import SIPE, SIPEParams, by_prototypes, seeds

from harness import Batch, Step
from harness.backbones import Weights, build_backbone

GROUPS = torch.eye(2).repeat_interleave(2, 1).view(1, 2, 2, 2)  # the upper row is of one kind, the lower of another


def test_seeds_follow_what_looks_alike() -> None:
    upper = torch.tensor([[1.0, 0.4], [0, 0]])
    maps = torch.stack([1 - upper, upper])[None]
    assert seeds(maps, GROUPS, 0.5)[0, 1].tolist() == [[1, 1], [0, 0]]


def test_where_all_looks_alike_the_class_takes_it_all() -> None:
    upper = torch.tensor([[1.0, 1], [0, 0]])
    maps = torch.stack([1 - upper, upper])[None]
    assert seeds(maps, torch.ones(1, 3, 2, 2), 0.5)[0, 1].tolist() == [[1, 1], [1, 1]]  # .5 against .5 * .5
    assert seeds(maps, torch.ones(1, 3, 2, 2), 1.1)[0, 0].tolist() == [[1, 1], [1, 1]]


def test_maps_by_prototypes() -> None:
    found = torch.zeros(1, 3, 2, 2)
    found[0, 0, 1], found[0, 1, 0, 0] = 1, 1
    maps = by_prototypes(GROUPS, found)
    assert maps[0, 0].flatten().tolist() == pytest.approx([0, 0, 1, 1], abs=1e-4)
    assert maps[0, 1].flatten().tolist() == pytest.approx([1, 1, 0, 0], abs=1e-4)
    assert maps[0, 2].eq(0).all()  # no seed
    torch.testing.assert_close(by_prototypes(GROUPS * 3, found), maps)


def test_prototypes_teach_the_sides_alone_and_maps_the_rest() -> None:
    torch.manual_seed(0)
    method = SIPE(SIPEParams(image_size=64))
    net = method.build(build_backbone("test_resnet", Weights("random")), 4).train()
    batch = Batch(torch.rand(2, 3, 64, 64), torch.tensor([[1.0, 1, 0, 0], [1, 0, 1, 1]]), ["a", "b"])
    losses = method.training_step(net, batch, Step(0, 1, 0, 1))
    _, _, hierarchy = net(batch.images)
    hierarchy.sum().backward()
    reached = {name.partition(".")[0] for name, p in net.named_parameters() if p.grad is not None and p.grad.any()}
    assert reached == {"sides"}
    losses["gsc"].backward()
    reached = {name.partition(".")[0] for name, p in net.named_parameters() if p.grad is not None and p.grad.any()}
    assert reached == {"sides", "classifier", "backbone"}
