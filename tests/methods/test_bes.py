"""Golden values of BES."""

from __future__ import annotations

import pytest
import torch
from wsss_methods.bes import BOUNDARY, GROUND_BACKGROUND, GROUND_OBJECT, lessons, losses


def halves(left: int, right: int, gap: int = 0) -> torch.Tensor:
    labels = torch.full((1, 40, 40), left)
    labels[:, :, 20:] = right
    labels[:, :, 20 - gap // 2 : 20 + (gap + 1) // 2] = 255
    return labels


@pytest.mark.parametrize(("left", "interior"), [(0, GROUND_BACKGROUND), (1, GROUND_OBJECT)])
def test_boundaries_are_where_two_labels_meet(left: int, interior: int) -> None:
    row = lessons(halves(left, 2), 3, 13, 0.3, 0.1)[0, 20].tolist()
    assert row == [interior] * 19 + [BOUNDARY] * 2 + [GROUND_OBJECT] * 19


@pytest.mark.parametrize(("gap", "columns"), list(enumerate((2, 1, 2, 1, 2, 1, 0, 0, 0))))
def test_a_band_that_is_unknown_hides_the_boundary(gap: int, columns: int) -> None:
    assert (lessons(halves(0, 1, gap), 3, 13, 0.3, 0.1)[0, 20] == BOUNDARY).sum() == columns


@pytest.mark.parametrize(("pixels", "boundary", "ground"), [(4, 0.3921, 0.5545), (4000, 0.4901, 0.6931)])
def test_what_edges_of_a_half_cost(pixels: int, boundary: float, ground: float) -> None:
    taught = torch.tensor([GROUND_BACKGROUND, GROUND_OBJECT, BOUNDARY]).repeat_interleave(pixels)[None, None]
    found = losses(torch.full(taught.shape, 0.5), taught)
    assert float(found["boundary"]) == pytest.approx(boundary, abs=2e-4)
    assert float(found["ground"]) == pytest.approx(ground, abs=2e-4)


def test_an_image_of_which_nothing_is_known_teaches_nothing() -> None:
    assert (lessons(torch.full((1, 8, 8), 255), 3, 13, 0.3, 0.1) == 0).all()


def test_the_factor_of_a_boundary_has_no_gradient() -> None:
    edge = torch.tensor([[[0.25]]], requires_grad=True)
    losses(edge, torch.full((1, 1, 1), BOUNDARY))["boundary"].backward()
    assert edge.grad is not None
    assert float(edge.grad) == pytest.approx(-0.5 / 0.25 / 2)  # the square root of 1/4 over p, over a count of 2
