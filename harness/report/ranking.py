"""Which methods can be told apart, on the same images, and how well each finds what is small and what is large."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from typing import NamedTuple

import numpy as np
import pandas as pd

from harness.bootstrap import interval, resample
from harness.errors import UserError
from harness.metrics import Confusions, mean_iou, size_iou
from harness.report.dataframe import once
from harness.report.figures.series import Series, contenders, scored
from harness.report.tables import Table, by_protocol, last_split
from harness.results.store import Store
from harness.run.record import split_confusions

_SIZES = ("small", "medium", "large")
_NOTES = [
    "mean IoU of regions, a region being all of a class in one image: small below 5 % of it, large from 20 % on",
    "of the first seed of each method",
]


@dataclass(frozen=True)
class Ranking:
    """Methods by their mIoU, the best first, with what is known of the differences between them.

    Attributes
    ----------
    series : list of Series
    low, high : list of float
        The 95 % interval over images of each, in per cent, of its first seed.
    differences : ndarray
        (n, n, 3): by how many points the first lies above the second on the same images, and the 95 % interval of that.
    drawn : ndarray
        (resamples, n): the mIoU of each, in per cent, over images drawn with replacement, the same for all.
    """

    series: list[Series]
    low: list[float]
    high: list[float]
    differences: np.ndarray
    drawn: np.ndarray

    @property
    def tied(self) -> np.ndarray:
        """(n, n) bool: whether the interval of the difference holds 0."""
        found: np.ndarray = (self.differences[..., 1] <= 0) & (self.differences[..., 2] >= 0)
        return found

    @property
    def groups(self) -> list[tuple[int, int]]:
        """The longest runs of neighbours of which no two can be told apart: first and last, none inside another."""
        found: list[tuple[int, int]] = []
        for first in range(len(self.series)):
            last = first
            while last + 1 < len(self.series) and self.tied[first : last + 2, first : last + 2].all():
                last += 1
            if last > first and (not found or last > found[-1][1]):
                found.append((first, last))
        return found


def ranked(rows: pd.DataFrame, split: str, store: Store, without: list[str] | None = None) -> Ranking:
    """Rank what was scored on a split, from the confusion matrices of first seeds.

    Parameters
    ----------
    rows : DataFrame
        Of one dataset and protocol, as `load_results` gives them.
    split : str
    store : Store
    without : list of str, optional
        Takes the labels of those whose matrices are gone, or are of other images.
    """
    series, kept = _kept(rows, split, store, without if without is not None else [])
    count = len(series)
    differences = np.zeros((count, count, 3))
    if not series:
        return Ranking([], [], [], differences, np.zeros((0, 0)))
    counts = np.stack([confusions.counts() for confusions in kept], 1)
    whole, drawn = 100 * mean_iou(counts.sum(0)), 100 * resample(counts)
    limits = [interval(drawn[:, number]) for number in range(count)]
    for first, second in product(range(count), repeat=2):
        low, high = interval(drawn[:, first] - drawn[:, second])
        differences[first, second] = whole[first] - whole[second], low, high
    return Ranking(series, [low for low, _ in limits], [high for _, high in limits], differences, drawn)


class Stand(NamedTuple):
    """What stands in one table."""

    dataset: str
    split: str
    protocol: str

    def title(self, what: str) -> str:
        """Return the title of a table of something."""
        return f"{self.dataset} {self.split}, {what}, {self.protocol}"


def _by_table(results: pd.DataFrame) -> Iterator[tuple[Stand, pd.DataFrame]]:
    """Yield the rows of each table, of its last split, the same masks once."""
    for dataset, rows in once(results[results.split != ""]).groupby("dataset"):
        for protocol, own in by_protocol(rows):
            yield Stand(str(dataset), last_split(rows), protocol), own


def rankings(results: pd.DataFrame, store: Store) -> dict[Stand, Ranking]:
    """Return the ranking of each dataset's last split, per protocol.

    Parameters
    ----------
    results : DataFrame
        As `load_results` gives it.
    store : Store
    """
    return {stand: ranked(rows, stand.split, store) for stand, rows in _by_table(results)}


def against_others(found: Iterable[Ranking]) -> dict[str, list[tuple[str, float, float, float]]]:
    """Return, for the key of each ranked record, the others of its table: name, difference in points, low, high."""
    return {
        one.record["key"]: [
            (other.label, float(points), float(low), float(high))
            for other, (points, low, high) in zip(ranking.series, differences, strict=True)
            if other is not one
        ]
        for ranking in found
        for one, differences in zip(ranking.series, ranking.differences, strict=True)
    }


def by_size(results: pd.DataFrame, store: Store) -> list[Table]:
    """Return tables of how well regions are found, by their size: of each dataset's last split, per protocol.

    Parameters
    ----------
    results : DataFrame
        As `load_results` gives it.
    store : Store
        Holds the confusion matrices; there is no table of fewer than two methods that have some.
    """
    tables = []
    for stand, rows in _by_table(results):
        series, kept = _kept(rows, stand.split, store, [])
        if len(series) > 1:
            tables.append(_size_table(stand.title("by size of region"), series, kept))
    return tables


def _size_table(title: str, series: Sequence[Series], kept: Sequence[Confusions]) -> Table:
    found = [size_iou(confusions) for confusions in kept]
    columns = ["method", *(f"{name} ({count})" for name, (_, count) in zip(_SIZES, found[0], strict=True))]
    rows = [[one.label, *(_percent(mean) for mean, _ in row)] for one, row in zip(series, found, strict=True)]
    table = Table(title, columns, rows)
    table.sources = {(r, c): [one.record["key"]] for r, one in enumerate(series) for c in range(1, len(columns))}
    table.notes = list(_NOTES)
    return table


def _kept(rows: pd.DataFrame, split: str, store: Store, without: list[str]) -> tuple[list[Series], list[Confusions]]:
    """Return what has confusion matrices of the images that the best of them was scored on."""
    from harness.report.figures.canvas import LeftOut

    series: list[Series] = []
    kept: list[Confusions] = []
    for one in contenders(scored(rows, split), LeftOut()):
        try:
            own = split_confusions(store, one.record["artefacts"]["splits"][split])
        except UserError:
            without.append(one.label)
            continue
        if series and one.record["data"][split] != series[0].record["data"][split]:
            without.append(one.label)
            continue
        series.append(one)
        kept.append(own)
    return series, kept


def _percent(share: float) -> str:
    return "–" if np.isnan(share) else f"{100 * share:.1f}"
