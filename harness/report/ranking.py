"""Which methods can be told apart, on the same images, and how well each finds what is small and what is large."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cached_property
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
    "of several seeds: the mean",
]


class Difference(NamedTuple):
    """By how many points one lies above another, with the 95 % interval over the same images, and of which seeds."""

    points: float
    low: float
    high: float
    seeds: list[int]


@dataclass(frozen=True, eq=False)
class Ranked:
    """A method in a ranking.

    Attributes
    ----------
    series : Series
        Its seeds that have confusion matrices.
    miou : ndarray
        (seeds,) in per cent.
    drawn : ndarray
        (resamples, seeds): the same over images drawn with replacement, the same for all methods.
    """

    series: Series
    miou: np.ndarray
    drawn: np.ndarray

    def above(self, other: Ranked) -> Difference | None:
        """Return by how much it lies above another over the seeds that both have; None where they have none."""
        own, others = list(self.series.rows.seed), list(other.series.rows.seed)
        common = sorted(set(own) & set(others))
        if not common:
            return None
        here, there = [own.index(seed) for seed in common], [others.index(seed) for seed in common]
        points = float((self.miou[here] - other.miou[there]).mean())
        return Difference(points, *interval((self.drawn[:, here] - other.drawn[:, there]).mean(1)), common)


@dataclass(frozen=True, eq=False)
class Ranking:
    """Methods by their mIoU, the mean over seeds, the best first, and which of them the images can tell apart.

    Attributes
    ----------
    methods : list of Ranked
    """

    methods: list[Ranked]

    @property
    def series(self) -> list[Series]:
        """The records of each."""
        return [one.series for one in self.methods]

    @cached_property
    def miou(self) -> np.ndarray:
        """(n,): of each, in per cent."""
        return np.array([one.miou.mean() for one in self.methods])

    @cached_property
    def drawn(self) -> np.ndarray:
        """(resamples, n): of each over images drawn with replacement."""
        return np.stack([one.drawn.mean(1) for one in self.methods], 1)

    @cached_property
    def intervals(self) -> np.ndarray:
        """(n, 2): the 95 % interval over images of each."""
        return np.array([interval(drawn) for drawn in self.drawn.T])

    @cached_property
    def tied(self) -> np.ndarray:
        """(n, n) bool: whether the 95 % interval of the difference over the same images holds 0."""
        found = np.zeros((len(self.methods),) * 2, bool)
        for first, second in product(range(len(self.methods)), repeat=2):
            low, high = interval(self.drawn[:, first] - self.drawn[:, second])
            found[first, second] = low <= 0 <= high
        return found


def runs(tied: np.ndarray) -> list[tuple[int, int]]:
    """Return the longest runs of neighbours of which no two can be told apart: first and last, none inside another."""
    found: list[tuple[int, int]] = []
    for first in range(len(tied)):
        last = first
        while last + 1 < len(tied) and tied[first : last + 2, first : last + 2].all():
            last += 1
        if last > first and (not found or last > found[-1][1]):
            found.append((first, last))
    return found


def ranked(rows: pd.DataFrame, split: str, store: Store, without: list[str] | None = None) -> Ranking:
    """Rank what was scored on a split, from the confusion matrices of all seeds.

    Parameters
    ----------
    rows : DataFrame
        Of one dataset and protocol, as `load_results` gives them.
    split : str
    store : Store
    without : list of str, optional
        Takes the labels of those whose matrices are gone, or are of other images.
    """
    kept = _kept(rows, split, store, without if without is not None else [])
    if not kept:
        return Ranking([])
    counts = np.stack([confusions.counts() for _, own in kept for confusions in own], 1)
    ends = np.cumsum([len(own) for _, own in kept])[:-1]
    whole, drawn = np.split(100 * mean_iou(counts.sum(0)), ends), np.split(100 * resample(counts), ends, axis=1)
    methods = [Ranked(series, *scores) for (series, _), *scores in zip(kept, whole, drawn, strict=True)]
    return Ranking(sorted(methods, key=lambda one: (one.series.sees_masks, -np.nan_to_num(one.miou.mean()))))


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
    """Return, for the key of each ranked record, the others of its table: name, difference in points, low, high.

    The others' scores are means over their seeds.
    """
    return {
        key: [
            (other.series.label, float(miou - other.miou.mean()), *interval(drawn - other.drawn.mean(1)))
            for other in ranking.methods
            if other is not one
        ]
        for ranking in found
        for one in ranking.methods
        for key, miou, drawn in zip(one.series.rows.key, one.miou, one.drawn.T, strict=True)
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
        kept = _kept(rows, stand.split, store, [])
        if len(kept) > 1:
            tables.append(_size_table(stand.title("by size of region"), kept))
    return tables


def _size_table(title: str, kept: Sequence[tuple[Series, list[Confusions]]]) -> Table:
    counted = size_iou(kept[0][1][0])
    columns = ["method", *(f"{name} ({count})" for name, (_, count) in zip(_SIZES, counted, strict=True))]
    table = Table(title, columns, [], notes=list(_NOTES))
    for row, (series, own) in enumerate(kept):
        means = np.mean([[mean for mean, _ in size_iou(confusions)] for confusions in own], 0)
        table.rows.append([series.label, *map(_percent, means)])
        table.sources |= {(row, column): list(series.rows.key) for column in range(1, len(columns))}
    return table


def _kept(rows: pd.DataFrame, split: str, store: Store, without: list[str]) -> list[tuple[Series, list[Confusions]]]:
    """Return what has confusion matrices of the images that the best of them was scored on, those of each seed."""
    from harness.report.figures.canvas import LeftOut

    found: list[tuple[Series, list[Confusions]]] = []
    for one in contenders(scored(rows, split), LeftOut()):
        own = {}
        for place, record in one.rows.record.items():
            with suppress(UserError):
                own[place] = split_confusions(store, record["artefacts"]["splits"][split])
        if not own or (found and one.record["data"][split] != found[0][0].record["data"][split]):
            without.append(one.label)
            continue
        without += [f"{one.label} seed {seed}" for seed in one.rows.seed.drop([*own])]
        found.append((replace(one, rows=one.rows.loc[[*own]]), [*own.values()]))
    return found


def _percent(share: float) -> str:
    return "–" if np.isnan(share) else f"{100 * share:.1f}"
