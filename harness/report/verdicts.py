"""Measured beside published: what was measured for each published score, how far off it is, and whether that counts."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from statistics import fmean, stdev
from typing import Any

import pandas as pd

from harness.data.base import Dataset
from harness.protocol import VERIFICATION, VERIFIER
from harness.registry import Registry
from harness.report.foreground import best_of_heads
from harness.report.published import Score
from harness.report.tables import Marks, Table
from harness.results.record import Record
from harness.results.store import Store

MATCH, WITHIN, OFF, UNLIKE = "match", "within tolerance", "off", "not comparable"
_ROUNDING = 0.05  # in points: published scores have one digit, or two
_WORST = ("failed", "oom", "timeout", "skipped")


@dataclass(frozen=True)
class Verdict:
    """What became of a published score.

    Attributes
    ----------
    score : Score
    measured : list of float
        In per cent, one per seed.
    seeds : list of int
    outcome : str
        `match`, `within tolerance`, `off`, `not comparable`; or why there is nothing: `not run`, `failed: reason`.
    differs : list of str
        In what the two were not scored alike: field, published value, ours.
    keys : list of str
        Of the records that were looked at.
    """

    score: Score
    measured: list[float]
    seeds: list[int]
    outcome: str
    differs: list[str]
    keys: list[str]

    @property
    def difference(self) -> float | None:
        """The measured mean minus the published score, in points; None where nothing was measured."""
        return fmean(self.measured) - self.score.value if self.measured else None


def verdicts(scores: Sequence[Score], results: pd.DataFrame, registry: Registry, store: Store) -> list[Verdict]:
    """Compare published scores with records.

    Parameters
    ----------
    scores : sequence of Score
    results : DataFrame
        As `load_results` gives it.
    registry : Registry
    store : Store
        Holds the confusion matrices that the best head of each object is chosen by.
    """
    records = list(results.drop_duplicates("key").record)
    return [_judge(score, [r for r in records if score.of(r["spec"])], registry, store) for score in scores]


def published_tables(judged: Sequence[Verdict]) -> list[Table]:
    """Return a table for each published one that has verdicts: a row for each of its scores."""
    tables: dict[tuple[str, str], list[Verdict]] = {}
    for verdict in judged:
        tables.setdefault((verdict.score.table.publication, verdict.score.table.name), []).append(verdict)
    own_first = sorted(tables.items(), key=lambda item: item[0][0] == "literature")
    return [_table(rows) for _, rows in own_first]


def _table(rows: list[Verdict]) -> Table:
    caption, marks = rows[0].score.table, Marks()
    columns = ["row", "network", "score", "published", "measured", "difference", "verdict", "seeds"]
    measured = [verdict for verdict in rows if verdict.measured]
    unlike = ", not comparable" if measured and all(verdict.differs for verdict in measured) else ""
    table = Table(f"Table {caption.name} ({caption.publication}): {caption.title}{unlike}", columns, [])
    for number, verdict in enumerate(rows):
        score = verdict.score
        table.sources[number, columns.index("measured")] = verdict.keys
        difference = verdict.difference
        about = f"{score.heading} {score.split}" if score.split not in score.heading else score.heading
        table.rows.append([
            score.label + marks.of(list(score.notes)), score.network or "–", about, score.printed, _measured(verdict),
            "–" if difference is None else f"{difference:+.1f}",
            verdict.outcome + marks.of([f"not scored alike: {'; '.join(verdict.differs)}"] if verdict.differs else []),
            ",".join(map(str, verdict.seeds)) or "–",
        ])  # fmt: skip
    reasons = {f"tolerance {v.score.tolerance.points:g} points: {v.score.tolerance.reason}" for v in rows}
    sources = {f"published: {v.score.source}" for v in rows}
    several = ["of several seeds: mean ± standard deviation"] if any(len(v.measured) > 1 for v in rows) else []
    none = ["no measured score was made as its published one was: see the verdicts"] if unlike else []
    table.notes = [*none, *sorted(sources), *sorted(reasons), *several, *caption.notes, *marks.notes]
    return table


def _measured(verdict: Verdict) -> str:
    values = verdict.measured
    if len(values) > 1:
        return f"{fmean(values):.1f} ± {stdev(values):.1f}"
    return f"{values[0]:.1f}" if values else "–"


def _judge(score: Score, records: list[Record], registry: Registry, store: Store) -> Verdict:
    done = [record for record in records if record["status"] == "done" and score.split in _metrics(score, record)]
    if not done:
        if score.split in registry.load("dataset", score.dataset).blind_splits and score.method:
            return Verdict(score, [], [], "not run: scored by a server only", [], [])
        bad = next((record for record in records if record["status"] in _WORST), None)
        why = f"{bad['status']}: {bad['reason']}" if bad else "not run"
        return Verdict(score, [], [], why, [], [bad["key"]] if bad else [])
    keys = [record["key"] for record in done]
    by_seed: dict[int, list[Record]] = {}
    for record in done:
        by_seed.setdefault(record["spec"]["seed"], []).append(record)
    measured = {seed: value for seed, own in by_seed.items() if (value := _value(score, own, store)) is not None}
    if not measured:
        return Verdict(score, [], [], "not run: its heads are not all there", [], keys)
    differs = list(dict.fromkeys(text for record in done for text in _differences(score, record, registry)))
    off = abs(fmean(measured.values()) - score.value)
    if differs:
        outcome = UNLIKE
    elif off <= _ROUNDING:
        outcome = MATCH
    else:
        outcome = WITHIN if off <= score.tolerance.points else OFF
    return Verdict(score, list(measured.values()), list(measured), outcome, differs, keys)


def _value(score: Score, records: list[Record], store: Store) -> float | None:
    """Return the measured score of one seed in per cent."""
    kind, _, class_name = score.metric.partition(":")
    if kind == "jaccard":
        return best_of_heads(records, score.split, store)
    metrics = _metrics(score, records[0])[score.split]
    value = metrics["iou"][records[0]["classes"].index(class_name)] if kind == "iou" else metrics[kind]
    return None if value is None else 100 * value


def _metrics(score: Score, record: Record) -> dict[str, Any]:
    """Return the metrics by split of what a score is of: the masks, or the verifier that was trained on them."""
    return record.get("verification", {}) if score.verified else record["metrics"]


def _differences(score: Score, record: Record, registry: Registry) -> Iterator[str]:
    """Yield in what a record was not scored as the published number was, as far as that is known."""
    dataset: type[Dataset] = registry.load("dataset", record["spec"]["dataset"])
    protocol, applied = record["spec"]["protocol"], record["applied"]
    masks_of = protocol["mask_split"] if score.verified else score.split
    for field, there in score.protocol.items():
        if field in VERIFICATION:
            continue  # said by `_verification`
        if field == "background" and applied["background"] == "model":
            continue  # the rule does not apply to a method with a background of its own
        here = applied["background"] if field == "background" else protocol[field]
        if field == "class_gating":
            there = there["training" if masks_of in dataset.training_splits else "held_out"]
            here = applied["gating"][masks_of]
        if here != there:
            yield f"{field} {there} there, {here} here"
    if score.verified:
        yield from _verification(score, record)
    whole, scored = dataset.official.get(score.split), record["pictures"][score.split]
    if whole and whole != scored:
        yield f"{whole} images there, {scored} here"
    if record["weights"]["source"] == "random":
        yield "pretrained weights there, a random start here"


def _verification(score: Score, record: Record) -> Iterator[str]:
    """Yield in what a verifier was not trained as the published one was."""
    for field, here in (("verify_init", "init"), ("mask_split", "mask_split")):
        there = score.protocol.get(field)
        if there and there != record["verifier"][here]:
            yield f"{field} {there} there, {record['verifier'][here]} here"
    for name in record["origins"]:
        if name.startswith(f"{VERIFIER}."):
            yield f"{name} changed here"
