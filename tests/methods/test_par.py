"""Golden values of PAR, by hand and from the authors' formula on small tensors."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from wsss_methods.par import PAR, PARParams


def test_a_constant_gains_one_percent_each_iteration() -> None:
    image = np.random.default_rng(0).integers(0, 255, (9, 8, 3), np.uint8)
    once, ten = (PAR(PARParams(iterations=n)).refine(image, np.ones((2, 9, 8), np.float32)) for n in (1, 10))
    assert once == pytest.approx(1.01, abs=1e-5)
    assert ten == pytest.approx(1.104622, abs=1e-4)


def test_without_colour_neighbours_count_by_their_distance() -> None:
    """Dilation 1 on a constant image: axial .1275, diagonal .1250, of an impulse in the middle."""
    impulse = np.zeros((1, 5, 5), np.float32)
    impulse[0, 2, 2] = 1
    spread = PAR(PARParams(dilations=(1,), iterations=1)).refine(np.full((5, 5, 3), 7, np.uint8), impulse)[0]
    assert spread[2, 2] == 0
    assert spread[1, 2] == spread[2, 3] == pytest.approx(0.1275, abs=5e-5)
    assert spread[1, 1] == spread[3, 3] == pytest.approx(0.1250, abs=5e-5)


def test_distances_of_six_dilations() -> None:
    """The position softmax alone: a constant image leaves 1/48 each from colour."""
    weights = PAR(PARParams(position=1)).weights(torch.zeros(3, 3, 3))[:, 1, 1] - 1 / 48
    axial, diagonal = weights[1::8], weights[0::8]
    assert axial[:4].tolist() == pytest.approx([0.07645, 0.05441, 0.01396, 6.1e-5], abs=6e-6)
    assert diagonal[:3].tolist() == pytest.approx([0.06826, 0.03458, 0.00228], abs=6e-6)


def test_a_mask_stops_at_an_edge_of_colour() -> None:
    image = np.zeros((6, 6, 3), np.uint8)
    image[:, 3:] = 200
    mask = np.zeros((1, 6, 6), np.float32)
    mask[:, :, 3:] = 1
    refined = PAR(PARParams(dilations=(1,), iterations=3)).refine(image, mask)[0]
    assert refined[:, :3].max() < 0.06
    assert refined[:, 3:].min() > 0.97
