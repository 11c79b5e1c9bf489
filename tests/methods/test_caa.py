"""Golden values of the attention walk."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from wsss_methods.caa import CAA, CAAParams, affinity, boxed, spread

from harness.backbones import Weights, build_backbone


def test_attention_is_made_doubly_stochastic_symmetric_and_taken_twice() -> None:
    found = affinity(torch.tensor([[0.9, 0.1], [0.5, 0.5]]), 3)
    assert found.flatten().tolist() == pytest.approx([0.6294, 0.3750, 0.3750, 0.6206], abs=1e-4)
    assert affinity(torch.full((4, 4), 0.25), 3).unique().tolist() == pytest.approx([0.25])
    random = affinity(torch.randn(6, 6, generator=torch.Generator().manual_seed(0)).softmax(1), 3)
    assert torch.allclose(random, random.T)
    assert random.sum(1).tolist() == pytest.approx([1.0] * 6, abs=0.01)


def test_boxes_stand_around_each_group() -> None:
    strong = torch.tensor([[1, 0, 0, 0, 0], [0, 1, 0, 0, 1], [0, 0, 0, 0, 1]]).bool()
    expected = torch.tensor([[1, 1, 0, 0, 0], [1, 1, 0, 0, 1], [0, 0, 0, 0, 1]]).bool()
    assert torch.equal(boxed(strong), expected)
    assert not boxed(torch.zeros(2, 2, dtype=torch.bool)).any()


def test_only_what_is_inside_a_box_spreads() -> None:
    maps = torch.tensor([[[1.0, 0.0, 0.3]]])
    found = spread(maps, torch.full((3, 3), 1 / 3), 0.4)
    assert found.flatten().tolist() == pytest.approx([1 / 3] * 3)  # of the 1 alone
    torch.testing.assert_close(spread(maps, torch.eye(3), 0.0), maps)


def test_maps_of_an_image_come_back_at_the_grid_of_the_vit() -> None:
    torch.manual_seed(0)
    refiner = CAA(CAAParams(longest=64))
    refiner.model = build_backbone("test_vit", Weights("random")).eval()
    maps = np.random.default_rng(0).random((2, 5, 7)).astype(np.float32)
    refined = refiner.refine(np.zeros((96, 128, 3), np.uint8), maps)
    assert refined.shape == (2, 3, 4)
    assert refined.max() == pytest.approx(1)
