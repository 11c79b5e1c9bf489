"""Golden values of the walk and of IRN: by hand, from a dense reference, and from the authors' code."""

from __future__ import annotations

import math
from collections import Counter

import numpy as np
import pytest
import torch
from wsss_methods.irn import IRN, EdgeNet, IRNParams, pair_loss
from wsss_methods.irn.walk import affinities, offsets, path, walk
from wsss_methods.learned import confident

from harness import Batch, Step
from harness.backbones import Weights, build_backbone


def test_the_neighbours_of_a_radius() -> None:
    assert len(offsets(5)) == 34
    assert len(offsets(10)) == 152


@pytest.mark.parametrize(
    ("offset", "points"), [((0, 3), 4), ((1, 1), 4), ((2, 1), 6), ((1, 2), 6), ((2, 2), 7), ((3, -1), 8)]
)
def test_the_points_of_a_path(offset: tuple[int, int], points: int) -> None:
    assert len(path(offset)) == points


def test_the_lengths_of_all_paths_of_radius_5() -> None:
    assert Counter(len(path(offset)) for offset in offsets(5)) == {
        2: 2,
        3: 2,
        4: 4,
        5: 2,
        6: 4,
        7: 2,
        8: 8,
        10: 6,
        11: 4,
    }


def dense(maps: torch.Tensor, affinity: torch.Tensor, radius: int, beta: float, squarings: int) -> torch.Tensor:
    """The walk as it is published: a dense matrix, its columns normalised, squared again and again."""
    height, width = maps.shape[1:]
    matrix = torch.eye(height * width)
    for (down, right), weight in zip(offsets(radius), affinity, strict=True):
        for y in range(height):
            for x in range(width):
                if 0 <= y + down < height and 0 <= x + right < width:
                    a, b = y * width + x, (y + down) * width + x + right
                    matrix[a, b] = matrix[b, a] = weight[y, x] ** beta
    matrix = matrix / matrix.sum(0)
    for _ in range(squarings):
        matrix = matrix @ matrix
    return (maps.flatten(1) @ matrix).view_as(maps)


def test_sparse_steps_are_dense_squarings() -> None:
    generator = torch.Generator().manual_seed(0)
    edges, maps = torch.rand(1, 9, 11, generator=generator), torch.rand(3, 9, 11, generator=generator)
    affinity = affinities(edges, 4)[0]
    assert torch.allclose(walk(maps, affinity, 4, 3.0, 2**5), dense(maps, affinity, 4, 3.0, 5), atol=1e-5)


def test_two_places_by_hand() -> None:
    """A = [[1, .5], [.5, 1]]: one squaring of its normalised form is [[.5556, .4444], [.4444, .5556]]."""
    impulse = torch.tensor([[[1.0, 0.0]]])
    affinity = torch.zeros(len(offsets(2)), 1, 2)
    affinity[0, 0, 0] = 0.5  # of the left place with the right one
    assert walk(impulse, affinity, 2, 1.0, 2)[0, 0].tolist() == pytest.approx([0.5556, 0.4444], abs=1e-4)


def test_a_constant_stays_and_a_wall_holds() -> None:
    constant = torch.ones(1, 8, 10)
    assert torch.allclose(walk(constant, affinities(torch.zeros(1, 8, 10), 5)[0], 5, 10.0, 256), constant, atol=1e-5)
    edges = torch.zeros(1, 8, 10)
    edges[0, :, 5] = 1
    impulse = torch.zeros(1, 8, 10)
    impulse[0, 3, 2] = 1
    walked = walk(impulse * (1 - edges), affinities(edges, 5)[0], 5, 10.0, 256)[0]
    assert (walked[:, 5:] == 0).all()
    assert walked[:, :5].std() < 0.02 * walked[:, :5].mean()


def test_what_is_sure() -> None:
    high = torch.tensor([[[0, 0, 1, 2, 255]]])
    low = torch.tensor([[[0, 3, 1, 1, 0]]])
    assert confident(high, low)[0, 0].tolist() == [0, 255, 1, 2, 255]


def test_the_loss_of_pairs_by_hand() -> None:
    labels = torch.tensor([[[0, 0, 1, 1, 255]]])
    affinity = torch.full((1, len(offsets(2)), 1, 5), 0.5)
    half = -math.log(0.5)
    assert float(pair_loss(affinity, labels, 2)) == pytest.approx((half / 2 + half / 2 + half) / 2, abs=1e-4)
    assert torch.isfinite(pair_loss(affinity, torch.full_like(labels, 255), 2))


@pytest.mark.parametrize("name", ["test_resnet", "test_vit"])
def test_boundaries_are_learned_on_a_frozen_backbone(name: str) -> None:
    torch.manual_seed(0)
    method = IRN(IRNParams(radius=3, lr=0.1, crop=64, labels="none"))
    model = EdgeNet(build_backbone(name, Weights("random"))).train()
    before = [parameter.clone() for parameter in model.backbone.parameters()]
    images = torch.rand(2, 3, 64, 64) * 0.2
    images[:, :, :, 32:] += 0.8
    masks = torch.zeros(2, 2, 64, 64, dtype=torch.int64)
    masks[:, :, :, 32:] = 1
    batch = Batch(images, torch.ones(2, 2), ["a", "b"], torch.ones(2, 1, 64, 64, dtype=torch.bool), masks)
    (phase,) = method.phases(model)
    optimizer = torch.optim.SGD(phase.groups)
    losses = []
    for _ in range(40):
        loss = method.training_step(model, batch, Step(0, 1, 0, 1))["pairs"]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.7 * losses[0]
    assert all(torch.equal(a, b) for a, b in zip(before, model.backbone.parameters(), strict=True))
    method.model = model.eval()
    refined = method.refine((images[0].permute(1, 2, 0).numpy() * 255).astype(np.uint8), np.ones((2, 4, 4), np.float32))
    assert refined.shape == (2, 16, 16)
    assert refined.max() == pytest.approx(1)
