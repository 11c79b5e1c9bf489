"""Tables of records: what was measured, under which protocol, with everything a reader must know as footnotes."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import cached_property
from statistics import fmean, stdev
from string import ascii_lowercase
from typing import Any, NamedTuple

import pandas as pd

from harness.protocol import VERIFICATION
from harness.registry import Registry
from harness.report.dataframe import once, variant, varying
from harness.report.notes import protocol_notes
from harness.report.verifiers import ignored_notes, start_notes, verifier_names
from harness.strict import canonical

_METRICS = {"miou": "BPM mIoU", "best": "at its best threshold", "pixacc": "pixAcc", "pxap": "PxAP"}
_ORACLE = "an oracle: the background threshold that is best on this split's own pixels, before any refiner"
_ENDS = {"miou": ("low", "high"), "verified": ("verified_low", "verified_high")}  # of an interval over pictures


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
    """

    title: str
    columns: list[str]
    rows: list[list[str]]
    bold: set[tuple[int, int]] = field(default_factory=set)
    notes: list[str] = field(default_factory=list)
    sources: dict[tuple[int, int], list[str]] = field(default_factory=dict)


class _Score(NamedTuple):
    """What a column shows: a metric of the masks, or the mIoU of a verifier that was trained on them."""

    split: str
    refine: str = "none"
    metric: str = "miou"
    verify: str = "none"

    @property
    def heading(self) -> str:
        if self.verify != "none":
            refined = f"+{self.refine} " if self.refine != "none" else ""
            return f"{self.split} {refined}{self.verify}"
        return f"{self.split} +{self.refine}" if self.refine != "none" else f"{self.split} {_METRICS[self.metric]}"


@dataclass
class _Row:
    """A configuration: records that differ in seed and refiner only."""

    method: str
    variant: str
    backbone: str
    timm: str
    weights: str
    parameters: float | None
    limit: int | None
    version: str  # of the method's source, where its rows have several
    records: pd.DataFrame

    def values(self, score: _Score, column: str = "") -> list[float]:
        """Return what its records have of a score, or of another column of the same records."""
        found = [getattr(one, column or score.metric) for one in self._shown(score)]
        return [100 * value for value in found if pd.notna(value)]

    def mean(self, score: _Score) -> float:
        """Return the mean of a score over its records; -1 where there is none."""
        values = self.values(score)
        return fmean(values) if values else -1.0

    def keys(self, score: _Score) -> list[str]:
        """Return the keys of the records that a score comes from."""
        return [one.key for one in self._shown(score) if pd.notna(getattr(one, score.metric))]

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
    done["declared"] = [_declared(record) for record in done.record]
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
    refiners = sorted(set(group.refine) - {"none"})
    group = group.assign(verify=verifier_names(list(group.record)), repeats=~group.index.isin(once(group).index))
    verified = sorted(
        {(refine, verify) for refine, verify in zip(group.refine, group.verify, strict=True) if verify != "none"}
    )
    scores: list[_Score] = []
    for split in splits:
        scores += [
            *(_Score(split, metric=metric) for metric in _METRICS if _is_shown(metric, split == splits[-1], group)),
            *(_Score(split, refiner) for refiner in refiners),
            *(_Score(split, refine, "verified", verify) for refine, verify in verified),
        ]
    rows = sorted(_configurations(group), key=lambda row: -row.mean(_Score(splits[-1])))
    about = ["method", "settings", "backbone (timm id)", "params", "weights", "seeds"]
    if verified:
        about.insert(4, "with verifier")
    marks = Marks()
    headings = [
        score.heading + marks.of([*start_notes(group, score.verify), *([_ORACLE] if score.metric == "best" else [])])
        for score in scores
    ]
    table = Table(f"{dataset}, {protocol_name(group.record.iloc[0])}", about + headings, [])
    for row in rows:
        table.rows.append(
            [
                row.method + marks.of(_method_notes(row)),
                row.variant,
                _backbone(row),
                _millions([row.parameters]),
                *([_millions(row.records.pipeline)] if verified else []),
                row.weights + marks.of(_weight_notes(row)),
                ",".join(str(seed) for seed in sorted(set(row.records.seed))),
                *(_text(row, score) + marks.of(ignored_notes(row.records, score.verify)) for score in scores),
            ]
        )
    for column, score in enumerate(scores, len(about)):
        if score.metric != "best":
            _embolden(table, rows, column, score)
        for number, row in enumerate(rows):
            table.sources[number, column] = row.keys(score)
    table.notes = [*protocol_notes(dataset, group, splits, registry), *marks.notes]
    return table


def _is_shown(metric: str, last: bool, group: pd.DataFrame) -> bool:
    """Return whether a metric has a column: PxAP of the last split; best thresholds where records have them."""
    return last if metric == "pxap" else metric != "best" or bool(group.best.notna().any())


def _configurations(group: pd.DataFrame) -> list[_Row]:
    """Gather records into rows."""
    rows = []
    keys = [
        canonical([r.method, r.settings, r.backbone, r.weights, r.record["weights"], r.limit, _version(r.record)])
        for r in group.itertuples()
    ]
    changing = {method: varying(own.settings) for method, own in group.groupby("method")}
    versions = {method: set(map(_version, own.record)) for method, own in group.groupby("method")}
    for _, same in group.groupby(keys, sort=True):
        first = same.iloc[0]
        rows.append(
            _Row(
                first.method, variant(first.settings, changing[first.method]),
                first.backbone, first.timm, first.weights,
                first.parameters, first.limit,
                _version(first.record) if len(versions[first.method]) > 1 else "", same,
            )
        )  # fmt: skip
    return rows


def _version(record: dict[str, Any]) -> str:
    return str(record.get("method_version", ""))


def _declared(record: dict[str, Any]) -> str:
    """Return a protocol's text without refiner and verifier, which are columns, and without its summary."""
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
    fair = {n: row.mean(score) for n, row in enumerate(rows) if not _sees_masks(row)}
    best = max(fair.values(), default=-1.0)
    if best >= 0:
        table.bold |= {(number, column) for number, value in fair.items() if value == best}


def protocol_name(record: dict[str, Any]) -> str:
    """Return a protocol's name with what was changed of it."""
    changes = []
    for key in sorted(record["origins"]):
        if key.startswith("protocol.") and key.split(".")[1] not in VERIFICATION:
            value: Any = record["spec"]["protocol"]
            for part in key.split(".")[1:]:
                value = value[part]
            changes.append(f"{key.removeprefix('protocol.')}={value}")
    version = record["spec"]["protocol"].get("version", 1)
    name = f"protocol {record['spec']['protocol']['name']}" + (f", version {version}" if version > 1 else "")
    return f"{name} with {', '.join(changes)}" if changes else name


def _backbone(row: _Row) -> str:
    if not row.timm:
        return "–"
    return row.timm if row.backbone.startswith("timm:") else f"{row.backbone} ({row.timm})"


def _millions(counts: Iterable[float | None]) -> str:
    known = dict.fromkeys(f"{count / 1e6:.2f} M" for count in counts if count and not pd.isna(count))
    return " / ".join(known) or "–"


class Marks:
    """Footnote marks, in order of appearance."""

    def __init__(self) -> None:
        self.notes: list[str] = []
        self.given: dict[str, str] = {}

    def of(self, notes: list[str]) -> str:
        """Return the marks of some notes, new ones for those that have none yet."""
        for note in notes:
            if note not in self.given:
                self.given[note] = mark(len(self.given))
                self.notes.append(f"[{self.given[note]}] {note}")
        return f" [{','.join(self.given[note] for note in notes)}]" if notes else ""


def mark(number: int) -> str:
    """Return the mark of a footnote, counted from 0: a to z, then aa, ab and so on."""
    before, last = divmod(number, len(ascii_lowercase))
    return (mark(before - 1) if before else "") + ascii_lowercase[last]


def _sees_masks(row: _Row) -> bool:
    return "masks" in row.records.record.iloc[0]["supervision"]


def forbidden(record: dict[str, Any]) -> list[str]:
    """Return the uses of ground truth beyond the image labels of training splits, as footnotes."""
    uses: dict[tuple[str, str], list[str]] = {}
    for use in record["ground_truth"]:
        if not use["allowed"]:
            uses.setdefault((use["what"], use["for"]), []).append(use["split"])
    return [f"ground truth used: {what} of {' and '.join(splits)}, for {why}" for (what, why), splits in uses.items()]


def _method_notes(row: _Row) -> list[str]:
    record = row.records.record.iloc[0]
    notes = list(dict.fromkeys(note for own in row.records.record for note in forbidden(own)))
    if record["applied"]["background"] == "given" and not _sees_masks(row):
        notes.append("masks made elsewhere, scored as they are")
    if record["applied"]["background"] == "model" and not row.method.startswith("sanity"):
        notes.append("has a background channel of its own; the protocol's background rule does not apply")
    if row.version:
        notes.append(f"source version {row.version[:12]}; other rows of {row.method} are of another source")
    if row.limit:
        notes.append(f"only the first {row.limit} pictures of each split")
    return notes


def _weight_notes(row: _Row) -> list[str]:
    record = row.records.record.iloc[0]
    weights, checkpoint = record["weights"], record["checkpoint"]
    if checkpoint:
        return [f"trained elsewhere: {checkpoint['file']}, sha256 {checkpoint['sha256'][:12]}"]
    return [f"{weights['file']}, sha256 {weights['sha256'][:12]}"] if weights["source"] == "file" else []
