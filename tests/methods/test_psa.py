"""Golden values of PSA's affinities and of what is walked over them."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import nn
from wsss_methods.irn import pair_loss
from wsss_methods.irn.walk import offsets
from wsss_methods.psa import PSA, AffinityNet, PSAParams, alike

from harness.backbones import Weights, build_backbone


def test_affinities_fall_with_the_difference_of_features() -> None:
    features = torch.zeros(1, 448, 4, 4)
    assert alike(features, 2)[0, 0, 1, 1] == 1
    features[:, :, :, 2:] = 1
    right = alike(features, 2)[0, offsets(2).index((0, 1))]
    assert right[0].tolist()[:3] == pytest.approx([1, math.exp(-1), 1])


@pytest.mark.parametrize(("affinity", "expected"), [(1.0, -1e-5), (0.0, 11.5129)])
def test_what_a_pair_of_equal_labels_costs(affinity: float, expected: float) -> None:
    count = len(offsets(2))
    labels = torch.ones(1, 6, 6, dtype=torch.long)
    assert 4 * pair_loss(torch.full((1, count, 6, 6), affinity), labels, 2) == pytest.approx(expected, abs=1e-3)


class Flat(nn.Module):
    """Features that are the same everywhere but for a wall down the middle."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(30.0))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        height, width = images.shape[-2] // 8, images.shape[-1] // 8
        return (torch.arange(width) >= width // 2).float().expand(1, 448, height, width) * self.scale


def test_maps_spread_up_to_a_wall_and_the_background_takes_the_rest() -> None:
    refiner = PSA(PSAParams(squarings=6))
    refiner.model = Flat()
    maps = np.zeros((1, 12, 16), np.float32)
    maps[0, 4:8, 2:5] = 1
    refined = refiner.refine(np.zeros((96, 128, 3), np.uint8), maps)
    assert refined.shape == (1, 12, 16)
    assert refined[0, :, 8:].max() < 0.01
    assert refined[0, 4:8, 2:5].min() > refined[0, :, 8:].max()
    assert refined.max() <= 1


def test_a_map_without_a_background_stays() -> None:
    refiner = PSA(PSAParams(squarings=3))
    refiner.model = Flat()
    refined = refiner.refine(np.zeros((64, 64, 3), np.uint8), np.ones((1, 8, 8), np.float32))
    assert refined == pytest.approx(np.ones((1, 8, 8)), abs=1e-4)


@pytest.mark.parametrize("name", ["test_resnet", "test_vit"])
def test_features_are_at_stride_8(name: str) -> None:
    net = AffinityNet(build_backbone(name, Weights("random")))
    assert net(torch.rand(1, 3, 60, 70)).shape == (1, 448, 8, 9)
