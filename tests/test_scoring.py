"""How images go through a model at several scales: worked by hand."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from harness import Method
from harness.stages.score import Passes, merged_scores


class Means(Method):
    """A map of the mean brightness of each 8 by 8 pixels."""

    name = "means"

    def build(self, backbone: Any, num_classes: int) -> nn.Module:
        return nn.Identity()

    def losses(self, model: Any, batch: Any, step: Any) -> dict[str, Tensor]:
        return {}

    def score(self, model: Any, images: Tensor, labels: Tensor | None = None) -> Any:
        return functional.avg_pool2d(images.float().mean(1, keepdim=True), 8).relu()


def merged(scales: tuple[float, ...], merge: str) -> Tensor:
    image = torch.zeros(16, 16, 3, dtype=torch.uint8)
    image[:, 8:] = 255  # dark on the left, bright on the right
    params = Means.Params()
    maps, _ = merged_scores(Means(params), nn.Identity(), [image], None, Passes(16, scales, "none", merge), "cpu")
    return maps[0, 0]


def test_scales_are_averaged_at_the_grid_of_the_first_or_at_the_size_of_the_image() -> None:
    whole, half = merged((1.0,), "grid"), merged((0.5,), "grid")
    assert whole.shape == (2, 2)
    assert half.shape == (1, 1)
    left, right, middle = whole[0, 0].item(), whole[0, 1].item(), half.item()
    assert left < middle < right
    grid, image = merged((1.0, 0.5), "grid"), merged((1.0, 0.5), "image")
    assert grid.flatten().tolist() == pytest.approx([(left + middle) / 2, (right + middle) / 2] * 2)
    assert image.shape == (16, 16)
    # centre of column 7 lies at 7.5 * 2 / 16 - 0.5 = 0.4375 of the way from the left cell's centre to the right one's
    expected = {0: left, 7: 0.5625 * left + 0.4375 * right, 8: 0.4375 * left + 0.5625 * right, 15: right}
    for column, value in expected.items():
        assert image[:, column].tolist() == pytest.approx([(value + middle) / 2] * 16)
    assert merged((0.5,), "image").shape == (16, 16)  # one scale comes to image size too
