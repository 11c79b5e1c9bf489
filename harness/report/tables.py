"""Tables of records: what was measured, under which protocol, with everything a reader must know as footnotes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from functools import cached_property
from statistics import fmean, stdev
from typing import Any, NamedTuple

import pandas as pd

from harness.protocol import VERIFICATION
from harness.registry import Registry
from harness.report.dataframe import once, variant, varying, version_of, was_brought
from harness.report.notes import (
    Marks,
    forbidden,
    protocol_name,
    protocol_notes,
    refiner_notes,
    refiner_words,
    seed_notes,
    seeds_text,
)
from harness.report.verifiers import ignored_notes, start_notes, verifier_names
from harness.results.record import Record
from harness.strict import canonical

_METRICS = {"miou": "mIoU", "best": "best threshold", "pixacc": "pixAcc", "pxap": "PxAP"}
_ABOUT = ("backbone (timm id)", "params", "with verifier", "weights", "seeds")  # columns of what a row is made with
_ORACLE = "an oracle: the background threshold that is best on this split's own pixels, before any refiner"
_ENDS = {"miou": ("low", "high"), "verified": ("verified_low", "verified_high")}  # of an interval over images


@dataclass
class Table:
    """A table ready to be printed in any format.

    Attributes
    ----------
    title : str
    columns : list of str
    rows : list of list of str
    bold : set of tuple
        (row, column) of the best scores.
    notes : list of str
    sources : dict
        (row, column) of a score: the keys of the records that it comes from.
    bounds : int
        How many rows at the end are floors and ceilings of a score, which stand apart.
    """

    title: str
    columns: list[str]
    rows: list[list[str]]
    bold: set[tuple[int, int]] = field(default_factory=set)
    notes: list[str] = field(default_factory=list)
    sources: dict[tuple[int, int], list[str]] = field(default_factory=dict)
    bounds: int = 0

    @property
    def first_bound(self) -> int:
        """The row before which a line says that floors and ceilings follow; -1 where there is none."""
        return len(self.rows) - self.bounds if 0 < self.bounds < len(self.rows) else -1


class _Score(NamedTuple):
    """What a column shows: a metric of the masks, or the mIoU of a verifier that was trained on them."""

    split: str
    refine: str = "none"
    metric: str = "miou"
    verify: str = "none"

    def heading(self, refiner: str) -> str:
        """Return what stands over its column, given what its refiner is called there."""
        if self.verify != "none":
            refined = f"+{refiner} " if self.refine != "none" else ""
            return f"{self.split} {refined}{self.verify}"
        return f"{self.split} +{refiner}" if self.refine != "none" else f"{self.split} {_METRICS[self.metric]}"


@dataclass
class _Row:
    """A configuration: records that differ in seed and refiner only."""

    method: str
    name: str  # as an experiment calls it
    variant: str
    backbone: str
    timm: str
    weights: str
    parameters: float | None
    limit: int | None
    version: str  # of the method's source, where its rows have several
    records: pd.DataFrame

    @property
    def is_bound(self) -> bool:
        """Whether it is a floor or the ceiling of what a score can be, and no method."""
        return self.method.startswith("sanity-")

    def values(self, score: _Score, column: str = "") -> list[float]:
        """Return what its records have of a score, or of another column of the same records."""
        found = [getattr(one, column or score.metric) for one in self._shown(score)]
        return [100 * value for value in found if pd.notna(value)]

    def mean(self, score: _Score) -> float:
        """Return the mean of a score over its records; -1 where there is none."""
        values = self.values(score)
        return fmean(values) if values else -1.0

    def scored(self, score: _Score) -> list[Any]:
        """Return the rows of the records that a score comes from."""
        return [one for one in self._shown(score) if pd.notna(getattr(one, score.metric))]

    def _shown(self, score: _Score) -> list[Any]:
        same = [one for one in self._each if (one.split, one.refine) == (score.split, score.refine)]
        if score.verify == "none":
            return [one for one in same if not one.repeats]
        return [one for one in same if one.verify == score.verify]

    @cached_property
    def _each(self) -> list[Any]:
        return list(self.records.itertuples())


def comparison(results: pd.DataFrame, registry: Registry | None = None) -> list[Table]:
    """Return one table per dataset and protocol: scores are compared only where they are comparable.

    `registry` knows the datasets of plugins, for what they note under a table; None knows those that are installed.
    """
    done = results[(results.status == "done") & (results.split != "")].copy()
    if done.empty:
        return []
    done["declared"] = [declared(record) for record in done.record]
    tables = []
    for (dataset, _), group in done.groupby(["dataset", "declared"], sort=True):
        tables.append(_comparison(str(dataset), group, registry or Registry()))
    return tables


def unfinished(results: pd.DataFrame) -> Table | None:
    """Return the cells that have no score, with the reason."""
    bad = results[results.split == ""]
    if bad.empty:
        return None
    rows = [
        [row.title, row.status, row.reason or "no ground truth to score against; its masks are made", row.key[:8]]
        for row in bad.itertuples()
    ]
    sources = {(number, 3): [key] for number, key in enumerate(bad.key)}
    return Table("Not scored", ["cell", "status", "reason", "record"], rows, sources=sources)


def _comparison(dataset: str, group: pd.DataFrame, registry: Registry) -> Table:
    protocol = group.record.iloc[0]["spec"]["protocol"]
    splits = [split for split in protocol["eval_splits"] if split in set(group.split)]
    group = group.assign(verify=verifier_names(list(group.record)), repeats=~group.index.isin(once(group).index))
    scores = _scores(group, splits)
    rows = sorted(_configurations(group), key=lambda row: (row.is_bound, -row.mean(scores[0])))
    marks = Marks()
    words = refiner_words(["none", *group.refine])
    headings = [
        score.heading(words[score.refine])
        + marks.of([
            *start_notes(group, score.verify), *([_ORACLE] if score.metric == "best" else []),
            *refiner_notes(score.refine, words[score.refine]),
        ])
        for score in scores
    ]  # fmt: skip
    limited = {row.limit for row in rows}
    cells = []
    for row in rows:
        measured = [_text(row, score) + marks.of(_score_notes(row, score)) for score in scores]
        name = (row.name or row.method) + marks.of(_method_notes(row) + (_limit_notes(row) if len(limited) > 1 else []))
        cells.append([name, "" if row.name else row.variant, *measured, *_about(row, marks)])
    columns = ["method", "settings", *headings, *_ABOUT]
    shared = _shared(columns, cells, rows)
    kept = [number for number, column in enumerate(columns) if column not in shared]
    table = Table(
        f"{dataset}, {protocol_name(group.record.iloc[0])}",
        [columns[number] for number in kept],
        [[row[number] for number in kept] for row in cells],
        bounds=sum(row.is_bound for row in rows),
    )
    first = kept.index(2)
    for column, score in enumerate(scores, first):
        if score.metric != "best":
            _embolden(table, rows, column, score)
        for number, row in enumerate(rows):
            table.sources[number, column] = [one.key for one in row.scored(score)]
    said = [f"{column} {value}" for column, value in shared.items() if value not in ("", "–")]
    said += _limit_notes(rows[0]) if len(limited) == 1 else []
    table.notes = protocol_notes(dataset, group, splits, registry)
    table.notes += [f"all methods: {'; '.join(said)}"] if said else []
    table.notes += marks.notes
    return table


def _scores(group: pd.DataFrame, splits: list[str]) -> list[_Score]:
    """Return the columns of scores: the last split first, mIoU before everything else."""
    refiners = sorted(set(group.refine) - {"none"})
    verified = sorted({(one.refine, one.verify) for one in group.itertuples() if one.verify != "none"})
    found: list[_Score] = []
    for split in reversed(splits):
        found += [
            _Score(split),
            *(_Score(split, refiner) for refiner in refiners),
            *([_Score(split, metric="best")] if group.best.notna().any() else []),
            *(_Score(split, refine, "verified", verify) for refine, verify in verified),
        ]
    return [*found, *(_Score(split, metric="pixacc") for split in reversed(splits)), _Score(splits[-1], metric="pxap")]


def _about(row: _Row, marks: Marks) -> list[str]:
    """Return what a row is made with, in the order of `_ABOUT`."""
    return [
        _backbone(row),
        _millions([row.parameters]),
        _millions(row.records.pipeline),
        row.weights + marks.of(_weight_notes(row)),
        seeds_text(row.records.seed),
    ]


def _shared(columns: list[str], cells: list[list[str]], rows: list[_Row]) -> dict[str, str]:
    """Return the columns in which all methods have the same text, which the caption says once."""
    methods = [cell for cell, row in zip(cells, rows, strict=True) if not row.is_bound] or cells
    found = {}
    for number, column in enumerate(columns):
        values = {cell[number] for cell in methods}
        if column in ("settings", *_ABOUT) and len(values) == 1:
            found[column] = values.pop()
    return found


def _configurations(group: pd.DataFrame) -> list[_Row]:
    """Gather records into rows."""
    rows = []
    keys = [
        canonical([r.method, r.settings, r.backbone, r.weights, r.record["weights"], r.limit, version_of(r.record)])
        for r in group.itertuples()
    ]
    changing = {method: varying(own.settings) for method, own in group.groupby("method")}
    versions = {method: set(map(version_of, own.record)) for method, own in group.groupby("method")}
    for _, same in group.groupby(keys, sort=True):
        first = same.iloc[0]
        rows.append(
            _Row(
                first.method, next(filter(None, same.name), ""), variant(first.settings, changing[first.method]),
                first.backbone, first.timm, first.weights,
                first.parameters, first.limit,
                version_of(first.record) if len(versions[first.method]) > 1 else "", same,
            )
        )  # fmt: skip
    return rows


def declared(record: Record) -> str:
    """Return what the records of a table share: data, and the protocol but for refiner and verifier, its columns."""
    left_out = ("refine", "summary", "source", *VERIFICATION)
    protocol = {k: v for k, v in record["spec"]["protocol"].items() if k not in left_out}
    common = (protocol["fit_split"], *protocol["eval_splits"], protocol["background"].removeprefix("swept_on:"))
    return canonical([protocol, {split: content for split, content in record["data"].items() if split in common}])


def _text(row: _Row, score: _Score) -> str:
    values = row.values(score)
    if not values:
        return "–" if row.values(score, "miou") else "not run"
    spread = f" ± {stdev(values):.1f}" if len(values) > 1 else ""
    if score.metric not in _ENDS:
        return f"{fmean(values):.1f}{spread}"
    low, high = (fmean(row.values(score, end)) for end in _ENDS[score.metric])
    return f"{fmean(values):.1f}{spread} [{low:.1f}–{high:.1f}]"


def _embolden(table: Table, rows: list[_Row], column: int, score: _Score) -> None:
    """Mark the best score of a column among methods that see no masks."""
    fair = {n: row.mean(score) for n, row in enumerate(rows) if not _sees_masks(row) and not row.is_bound}
    best = max(fair.values(), default=-1.0)
    if best >= 0:
        table.bold |= {(number, column) for number, value in fair.items() if value == best}


def _backbone(row: _Row) -> str:
    if not row.timm:
        return "–"
    return row.timm if row.backbone.startswith("timm:") else f"{row.backbone} ({row.timm})"


def _millions(counts: Iterable[float | None]) -> str:
    known = dict.fromkeys(f"{count / 1e6:.2f} M" for count in counts if count and not pd.isna(count))
    return " / ".join(known) or "–"


def _sees_masks(row: _Row) -> bool:
    return "masks" in row.records.record.iloc[0]["supervision"]


def _method_notes(row: _Row) -> list[str]:
    record = row.records.record.iloc[0]
    notes = list(dict.fromkeys(note for own in row.records.record for note in forbidden(own)))
    if record["applied"]["background"] == "given" and not _sees_masks(row):
        notes.append("masks made elsewhere, scored as they are")
    if record["applied"]["background"] == "model" and not row.method.startswith("sanity"):
        notes.append("has a background channel of its own; the protocol's background rule does not apply")
    if row.version:
        what, kind = ("content", "folder") if was_brought(record) else ("source version", "source")
        notes.append(f"{what} {row.version[:12]}; other rows of {row.method} are of another {kind}")
    return notes


def _limit_notes(row: _Row) -> list[str]:
    return [f"only the first {row.limit} images of each split"] if row.limit else []


def _score_notes(row: _Row, score: _Score) -> list[str]:
    seeds = [one.seed for one in row.scored(score)]
    return [*ignored_notes(row.records, score.verify), *seed_notes(seeds, row.records.seed)]


def _weight_notes(row: _Row) -> list[str]:
    record = row.records.record.iloc[0]
    weights, checkpoint = record["weights"], record["checkpoint"]
    if checkpoint:
        return [f"trained elsewhere: {checkpoint['file']}, sha256 {checkpoint['sha256'][:12]}"]
    return [f"{weights['file']}, sha256 {weights['sha256'][:12]}"] if weights["source"] == "file" else []


def by_protocol(rows: pd.DataFrame) -> Iterator[tuple[str, pd.DataFrame]]:
    """Yield the rows of each table, with the name of their protocol; of two with one name, the second is `NAME-2`."""
    seen: Counter[str] = Counter()
    for _, own in rows.groupby([declared(record) for record in rows.record], sort=True):
        name = own.protocol.iloc[0]
        seen[name] += 1
        yield (name if seen[name] == 1 else f"{name}-{seen[name]}"), own


def last_split(rows: pd.DataFrame) -> str:
    """Return the last split that a protocol evaluates of those that rows hold."""
    splits = rows.record.iloc[0]["spec"]["protocol"]["eval_splits"]
    return str([split for split in splits if split in set(rows.split)][-1])
