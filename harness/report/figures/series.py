"""Records that are drawn as one: those that differ in their seed only."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd

from harness.report.dataframe import variant, varying, version_of, without_verification
from harness.report.figures.canvas import COLOURS, LeftOut
from harness.report.notes import protocol_name, refiner_words
from harness.results.record import Record
from harness.strict import canonical


@dataclass(frozen=True, eq=False)
class Series:
    """Cells that differ in their seed only.

    Attributes
    ----------
    label : str
        The method, and whatever distinguishes it from the others that are drawn with it.
    rows : DataFrame
        As `load_results` gives them, by seed.
    """

    label: str
    rows: pd.DataFrame

    @property
    def record(self) -> Record:
        """The record of the first seed."""
        return self.rows.record.iloc[0]

    @property
    def sees_masks(self) -> bool:
        """Whether its scores come from ground truth."""
        return "masks" in self.record["supervision"]

    @property
    def refiner(self) -> str:
        """What its masks are refined with; `none` for none."""
        return str(self.rows.refine.iloc[0])

    @property
    def preferred(self) -> int:
        """The colour that it has in all figures of a report, by number; 0 outside of one."""
        return int(self.rows.colour.iloc[0]) if "colour" in self.rows else 0

    @property
    def miou(self) -> float:
        """The mean over its seeds."""
        return float(self.rows.miou.mean())


def scored(results: pd.DataFrame, split: str) -> list[Series]:
    """Return what was scored on a split, the best first, but what is shown masks last.

    Parameters
    ----------
    results : DataFrame
        Rows of one dataset, as `load_results` gives them.
    split : str
    """
    rows = results[results.split == split]
    if rows.empty:
        return []
    changing = {method: varying(own.settings) for method, own in rows.groupby("method")}
    shown = {name for name in ("backbone", "weights", "limit") if len({*rows[name]} - {"", "none"}) > 1}
    protocols = [_protocol(record) for record in rows.record]
    if len(set(protocols)) > 1:
        shown.add("protocol")
    by_name = len(set(protocols)) == rows.protocol.nunique()  # names tell them apart
    refiners, found = refiner_words(rows.refine), []
    for _, same in rows.groupby([series_of(record) for record in rows.record], sort=True):
        first = same.iloc[0]
        parts = [
            first["name"] or first.method,
            first.backbone.removeprefix("timm:") if "backbone" in shown and first.backbone != "none" else "",
            "" if first["name"] else variant(first.settings, changing[first.method]),
            f"from {first.weights}" if "weights" in shown and first.weights != "none" else "",
            f"of {first.limit or 'all'} images" if "limit" in shown else "",
            (first.protocol if by_name else _protocol(first.record)) if "protocol" in shown else "",
            f"+{refiners[first.refine]}" if first.refine != "none" else "",
        ]
        found.append(Series(" ".join(filter(None, parts)), same.sort_values("seed")))
    return sorted(_told_apart(found), key=lambda one: (one.sees_masks, -np.nan_to_num(one.miou), one.label))


def coloured(results: pd.DataFrame) -> pd.DataFrame:
    """Return scored rows with the number of a colour for each method and its settings, the best first."""
    made = [canonical([row.method, row.settings, row.backbone]) for row in results.itertuples()]
    best = results.miou.groupby(made).max().sort_values(ascending=False, kind="stable")
    numbers = {key: number % len(COLOURS) for number, key in enumerate(best.index)}
    return results.assign(colour=[numbers[key] for key in made])


def colours(shown: Sequence[Series]) -> list[int]:
    """Return the number of each series' colour in one figure: its own, or the next that none before it has."""
    taken: list[int] = []
    for one in shown:
        order = [(one.preferred + step) % len(COLOURS) for step in range(len(COLOURS))]
        taken.append(next(number for number in order if number not in taken))
    return taken


def contenders(found: Sequence[Series], left: LeftOut) -> list[Series]:
    """Return those that are neither a floor nor the ceiling of what a score can be; all where there are only such."""
    methods = [one for one in found if not one.record["spec"]["method"].startswith("sanity")] or list(found)
    left.add("a floor or the ceiling", *(one.label for one in found if one not in methods))
    return methods


def _told_apart(found: list[Series]) -> list[Series]:
    """Give those that share a label their records' first digits too."""
    labels = [one.label for one in found]
    return [
        one if labels.count(one.label) == 1 else replace(one, label=f"{one.label} ({one.record['key'][:8]})")
        for one in found
    ]


def series_of(record: Record) -> str:
    """Return what distinguishes a series from others: its source, and all of a cell but its seed and verification."""
    spec = {key: value for key, value in without_verification(record["spec"]).items() if key != "seed"}
    return canonical([spec, record["weights"], record.get("checkpoint"), record["data"], version_of(record)])


def _protocol(record: Record) -> str:
    """Return a protocol's name with what was changed of it but the refiner."""
    origins = {key: value for key, value in record["origins"].items() if key != "protocol.refine"}
    return protocol_name(record | {"origins": origins}).removeprefix("protocol ")
