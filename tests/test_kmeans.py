"""Lloyd's algorithm and its fixed start, on points whose clusters are plain, and beside scikit-learn's."""

from __future__ import annotations

import pytest
import torch
from sklearn.cluster import KMeans

from harness.kmeans import lloyd, spread_start

LINE = torch.tensor([[0.0], [0.1], [5.0], [5.1]])


@pytest.mark.parametrize("start", [LINE[:2], LINE[2:], LINE[[0, 3]]])
def test_two_pairs_on_a_line_part(start: torch.Tensor) -> None:
    centres, nearest = lloyd(LINE, start)
    assert nearest[0] == nearest[1] != nearest[2] == nearest[3]
    assert sorted(centres.flatten().tolist()) == pytest.approx([0.05, 5.05])


def test_a_centre_that_is_nearest_to_no_point_stays() -> None:
    centres, nearest = lloyd(LINE, torch.tensor([[0.0], [100.0], [5.0]]))
    assert centres.flatten().tolist() == pytest.approx([0.05, 100, 5.05])
    assert nearest.tolist() == [0, 0, 2, 2]


def test_no_more_iterations_than_asked_for() -> None:
    centres, _ = lloyd(LINE, LINE[:2], 1)
    assert centres.flatten().tolist() == pytest.approx([0, 3.4])


def test_it_goes_where_scikit_learn_goes_from_the_same_start() -> None:
    points = torch.randn(200, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    start = spread_start(points, 10)
    centres, nearest = lloyd(points, start)
    expected = KMeans(10, init=start.numpy(), n_init=1, tol=0, algorithm="lloyd").fit(points.numpy())
    assert nearest.tolist() == expected.labels_.tolist()
    assert torch.allclose(centres, torch.from_numpy(expected.cluster_centers_))


def test_a_start_is_the_same_each_time_and_of_different_points() -> None:
    torch.manual_seed(1)
    before = torch.get_rng_state()
    start = spread_start(LINE, 4)
    assert sorted(start.flatten().tolist()) == sorted(LINE.flatten().tolist())
    assert torch.equal(start, spread_start(LINE, 4))
    assert torch.equal(before, torch.get_rng_state())


def test_equal_points_have_a_start() -> None:
    _, nearest = lloyd(torch.ones(5, 2), spread_start(torch.ones(5, 2), 3))
    assert len(set(nearest.tolist())) == 1
