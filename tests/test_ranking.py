"""Which methods can be told apart, and regions by their size, against numbers by hand."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from harness.metrics import Confusions, size_iou
from harness.registry import Registry
from harness.report.dataframe import load_results
from harness.report.figures import ranking_figure
from harness.report.gains import refiner_gains
from harness.report.order import published_order, spearman
from harness.report.published import published
from harness.report.ranking import against_others, by_size, ranked, rankings, runs
from harness.results.store import Store
from tests.test_figures import BAD, GOOD, TRUTH, add, store

__all__ = ["store"]  # a fixture
WORSE = BAD | {"c": [[0, 0, 0, 0]] * 2}  # in every image


def test_regions_by_their_size() -> None:
    """Of 100 labelled pixels 4 are small, 5 and 19 are medium, 20 are large; of undefined truth none counts."""
    first = np.array([[70, 0, 1, 0], [2, 2, 0, 0], [0, 0, 20, 5]])  # class 1: 2 of 4; class 2: 20 of 26
    second = np.array([[70, 0, 0, 6], [0, 5, 0, 0], [9, 0, 10, 0]])  # class 1: 5 of 5; class 2: 10 of 19
    third = np.array([[50, 0, 0, 0], [0, 0, 0, 0], [0, 50, 0, 0]])  # class 2 is half of it and is not found
    small, medium, large = size_iou(Confusions.gather([first, second, third], 3))
    assert small == (0.5, 1)
    assert medium == (pytest.approx((1 + 10 / 19) / 2), 2)
    assert large == (pytest.approx((20 / 26 + 0) / 2), 2)


def test_without_a_region_of_a_size_there_is_no_number() -> None:
    (small, none), _, _ = size_iou(Confusions.gather([np.array([[1, 0, 0], [0, 9, 0]])], 2))
    assert np.isnan(small)
    assert none == 0


@pytest.mark.parametrize(
    ("apart", "groups"),
    [
        ([], [(0, 3)]),
        ([(0, 1), (1, 2), (2, 3), (0, 2), (1, 3), (0, 3)], []),
        ([(0, 3)], [(0, 2), (1, 3)]),
        ([(0, 2), (0, 3), (1, 3)], [(0, 1), (1, 2), (2, 3)]),
        ([(0, 1), (0, 2), (0, 3)], [(1, 3)]),
    ],
)
def test_bars_join_the_longest_runs_of_which_no_two_can_be_told_apart(
    apart: list[tuple[int, int]], groups: list[tuple[int, int]]
) -> None:
    tied = np.ones((4, 4), bool)
    for pair in apart:
        tied[pair] = tied[pair[::-1]] = False
    assert runs(tied) == groups


def test_equal_masks_are_tied_and_perfect_ones_are_not_tied_with_bad_ones(store: Store) -> None:
    for method, masks in (("vitpcm", GOOD), ("seam", GOOD), ("cam", WORSE)):
        add(store, method, masks)
    found = ranked(load_results(store.root), "val", store)
    assert [one.label for one in found.series] == ["seam", "vitpcm", "cam"]
    assert found.tied.tolist() == [[True, True, False], [True, True, False], [False, False, True]]
    low, high = found.intervals[2]
    assert low <= found.miou[2] <= high
    assert found.miou[2] == pytest.approx(100 * found.series[2].miou)


def test_the_figure_has_every_seed_and_says_what_is_missing(store: Store, tmp_path: Path) -> None:
    add(store, "vitpcm", GOOD)
    add(store, "vitpcm", TRUTH | {"c": GOOD["c"]}, seed=1)
    add(store, "cam", BAD)
    drawn = ranking_figure(load_results(store.root), store, tmp_path / "ranking", "val")
    (axis,) = drawn.figure.axes
    points = [line for line in axis.lines if line.get_marker() in ("o", ".")]
    assert [len(line.get_xdata()) for line in points] == [1, 2, 1, 0]  # the mean, and its two seeds
    assert points[0].get_xdata()[0] == pytest.approx(points[1].get_xdata().mean())
    assert [text.get_text() for text in axis.get_yticklabels()] == ["vitpcm", "cam"]
    for path in (store.root / "artefacts" / "evaluate").rglob("confusion.npy"):
        path.unlink()
    bare = ranking_figure(load_results(store.root), store, tmp_path / "bare", "val")
    assert bare.figure is None
    assert "without confusion matrices of these images: vitpcm, cam" in bare.left_out
    assert by_size(load_results(store.root), store) == []


def test_the_table_of_sizes_counts_regions(store: Store) -> None:
    add(store, "vitpcm", GOOD)
    add(store, "cam", BAD)
    (table,) = by_size(load_results(store.root), store)
    assert table.columns == ["method", "small (0)", "medium (0)", "large (4)"]
    assert table.rows == [["vitpcm", "–", "–", "100.0"], ["cam", "–", "–", "50.0"]]


def test_a_record_is_set_against_the_others_of_its_table(store: Store) -> None:
    add(store, "vitpcm", GOOD)
    add(store, "cam", WORSE)
    results = load_results(store.root)
    miou = {row.method: 100 * row.miou for row in results.itertuples()}
    found = against_others(rankings(results, store).values())
    keys = {row.method: row.key for row in results.itertuples()}
    ((label, difference, low, high),) = found[keys["cam"]]
    assert label == "vitpcm"
    assert difference == pytest.approx(miou["cam"] - miou["vitpcm"])
    assert low <= difference <= high < 0
    ((_, opposite, _, _),) = found[keys["vitpcm"]]
    assert opposite == pytest.approx(-difference)


def test_a_refiner_is_set_against_the_same_maps_without_it(store: Store) -> None:
    """What a method has with a refiner only, without one only, or with one of another seed, gains nothing."""
    add(store, "cam", WORSE)
    add(store, "cam", GOOD, refine="crf")
    add(store, "cam", WORSE, refine="pamr")
    add(store, "seam", WORSE)
    add(store, "sipe", GOOD, refine="crf")
    add(store, "ppc", WORSE)
    add(store, "ppc", GOOD, seed=3, refine="crf")
    results = load_results(store.root)
    (table,) = refiner_gains(rankings(results, store))
    miou = {row.refine: 100 * row.miou for row in results.itertuples() if row.method == "cam"}
    assert table.columns == ["method", "crf", "pamr"]
    ((label, gained, nothing),) = table.rows
    assert label == "cam"
    assert gained.startswith(f"{miou['crf'] - miou['none']:+.1f} [")
    assert nothing == "+0.0 [0.0 to 0.0]"
    keys = {row.refine: row.key for row in results.itertuples() if row.method == "cam"}
    assert table.sources[0, 1] == [keys["none"], keys["crf"]]


def test_what_a_refiner_adds_is_of_the_seeds_that_have_both(store: Store) -> None:
    """Seed 0 alone has both, and gains nothing: the mean over the seeds of either would say otherwise."""
    for seed, masks in enumerate((GOOD, WORSE, WORSE)):
        add(store, "cam", masks, seed=seed)
    add(store, "cam", GOOD, refine="crf")
    for seed, (before, after) in enumerate(((WORSE, GOOD), (WORSE, WORSE))):
        add(store, "seam", before, seed=seed)
        add(store, "seam", after, seed=seed, refine="crf")
    results = load_results(store.root)
    miou = {(row.method, row.refine, row.seed): 100 * row.miou for row in results.itertuples()}
    (table,) = refiner_gains(rankings(results, store))
    cells = dict(table.rows)
    assert cells["cam"] == "+0.0 [0.0 to 0.0] [a]"
    assert "[a] of seed 0 only" in table.notes
    half = (miou["seam", "crf", 0] - miou["seam", "none", 0]) / 2
    assert cells["seam"].startswith(f"{half:+.1f} [")
    (row,) = [number for number, (method, _) in enumerate(table.rows) if method == "cam"]
    used = results[results.key.isin(table.sources[row, 1])]
    assert sorted(zip(used.seed, used.refine, strict=True)) == [(0, "crf"), (0, "none")]


def test_methods_are_ranked_by_the_mean_over_seeds_and_so_are_intervals_and_sizes(store: Store) -> None:
    for seed, masks in enumerate((TRUTH, BAD, BAD)):
        add(store, "vitpcm", masks, seed=seed)
    add(store, "cam", GOOD)
    results = load_results(store.root)
    found = ranked(results, "val", store)
    assert [one.label for one in found.series] == ["cam", "vitpcm"]
    assert found.miou[1] == pytest.approx(100 * results[results.method == "vitpcm"].miou.mean())
    np.testing.assert_allclose(found.drawn[:, 1], found.methods[1].drawn.mean(1))
    against = against_others([found])
    for row in results[results.method == "vitpcm"].itertuples():  # each seed, against the mean of the other
        ((label, points, low, high),) = against[row.key]
        assert (label, points) == ("cam", pytest.approx(100 * row.miou - found.miou[0]))
        assert low <= points <= high
    (sizes,) = by_size(results, store)
    assert {row[0]: row[3] for row in sizes.rows} == {"vitpcm": "66.7", "cam": "100.0"}  # of 100, 50 and 50
    first = results[(results.method == "vitpcm") & (results.seed == 0)].record.iloc[0]
    (key,) = first["artefacts"]["splits"]["val"]["evaluate"]
    (store.root / "artefacts" / "evaluate" / key / "confusion.npy").unlink()
    without: list[str] = []
    assert len(ranked(results, "val", store, without).series) == 2
    assert without == ["vitpcm seed 0"]


def test_without_a_pair_there_is_no_table_of_gains(store: Store) -> None:
    add(store, "cam", GOOD)
    add(store, "sipe", GOOD, refine="crf")
    assert refiner_gains(rankings(load_results(store.root), store)) == []


def test_the_rank_correlation_of_numbers_by_hand() -> None:
    """One swap of neighbours among four: 1 - 6 * 2 / (4 * 15); two that are equal share 1.5."""
    found = spearman(np.array([1.0, 2, 3, 4]), np.array([[10.0, 20, 30, 40], [1, 2, 9, 3], [4, 3, 2, 1], [5, 5, 5, 5]]))
    np.testing.assert_allclose(found, [1, 0.8, -1, np.nan])
    np.testing.assert_allclose(spearman(np.array([1.0, 1, 2]), np.array([[1.0, 2, 3]])), [0.75**0.5])


def test_the_order_of_a_published_table_is_compared_with_the_one_here(store: Store) -> None:
    """Of Table A: 67.71, 61.50, 55.41 and 50.90; here the second and the third are the other way round."""
    two, one = GOOD | {"b": BAD["b"]}, WORSE | {"a": GOOD["a"]}
    for method, masks in (("vitpcm", GOOD), ("seam", two), ("ppc", one), ("sccam", WORSE)):
        add(store, method, masks)
    add(store, "sccam", TRUTH, refine="crf")  # a refined score is not what that column holds
    add(store, "dupl", TRUTH)  # is not in it
    tables = published_order(rankings(load_results(store.root), store), published(Registry()))
    ((name, count, agreement, chance, there, here),) = tables[0].rows
    assert name == "Table A (vit-pcm): BPM, train"
    assert count == "4"
    assert agreement.startswith("0.80 [")
    assert 14 < float(chance.removesuffix(" %")) < 20  # 4 of the 24 orders: 1 of 1.0 and 3 of 0.8
    assert there == "vitpcm, ppc, seam, sccam"
    assert here == "vitpcm, seam, ppc, sccam"


def test_three_methods_have_no_order_worth_a_table(store: Store) -> None:
    for method, masks in (("vitpcm", TRUTH), ("seam", GOOD), ("sccam", WORSE)):
        add(store, method, masks)
    assert published_order(rankings(load_results(store.root), store), published(Registry())) == []
