"""How many points are protocol: the same training scored under other protocols."""

from __future__ import annotations

import re

import numpy as np
import pandas as pd

from harness.report.dataframe import once
from harness.report.notes import Marks, forbidden, protocol_name
from harness.report.tables import Table
from harness.results.record import Record

BASE = "strict"


def sensitivity(results: pd.DataFrame) -> list[Table]:
    """Return a table per dataset: a row per protocol, a column per model and split, differences from `strict`."""
    return [_table(str(dataset), group) for dataset, group in shared(results).groupby("dataset", sort=True)]


def shared(results: pd.DataFrame) -> pd.DataFrame:
    """Return the records of trainings that were scored under `strict` and under another protocol.

    Returns
    -------
    DataFrame
        As `load_results` gives it, with `change`: in what the protocol differs, empty for `strict` itself; and `model`:
        method and backbone.
    """
    done = once(results[results.status == "done"]).copy()
    done["fit"] = [record["artefacts"]["fit"] for record in done.record]
    done["change"] = [_change(record) for record in done.record]
    done["model"] = done.method + " " + done.backbone
    done = done[done.fit.isin(done[done.change == ""].fit)]
    return done[done.groupby("fit").key.transform("nunique") > 1]


def _table(dataset: str, group: pd.DataFrame) -> Table:
    changes = sorted(dict.fromkeys(group.change), key=order)
    columns: dict[str, dict[str, str]] = {}
    spreads = []
    for (model, split), rows in group.groupby(["model", "split"], sort=False):
        base = rows[rows.change == ""].set_index("seed").miou
        scores = {change: _scores(rows[rows.change == change], base) for change in changes}
        columns[f"{model} {split}"] = {change: _cell(*score) for change, score in scores.items()}
        spreads.append(_spread(f"{model} {split}", scores))
    marks = Marks()
    table = Table(f"{dataset}: what the protocol is worth", ["changed", *columns], [])
    for change in changes:
        uses = [note for record in group[group.change == change].record for note in forbidden(record)]
        name = (change or f"protocol {BASE}") + marks.of(list(dict.fromkeys(uses)))
        table.rows.append([name, *(column[change] for column in columns.values())])
        for number, name in enumerate(columns, 1):
            same = group[(group.change == change) & (group.model + " " + group.split == name)]
            table.sources[len(table.rows) - 1, number] = list(same.key)
    seeds = ", ".join(str(seed) for seed in sorted(set(group.seed)))
    about = f"mIoU, mean over seeds {seeds}; in brackets the difference from protocol {BASE}"
    table.notes = [about, *spreads, *marks.notes]
    return table


def _change(record: Record) -> str:
    """Return in what a record's protocol differs from `strict`; empty for `strict` itself."""
    protocol = record["spec"]["protocol"]
    name = protocol_name(record)
    if protocol["refine"] != "none" and "refine=" not in name:
        name += f"{', ' if ' with ' in name else ' with '}refine={protocol['refine']}"
    return re.sub(rf"^protocol {BASE}(-1|, version \d+)?( with |$)", "", name)


def order(change: str) -> tuple[bool, str]:
    """Return the sorting key of a change: `strict` first, whole presets last."""
    return change.startswith("protocol "), change


def _scores(rows: pd.DataFrame, base: pd.Series) -> tuple[float, float]:
    """Return the mean score over seeds, and its mean difference over the seeds that both have; NaN where not run."""
    scores = rows.set_index("seed").miou
    return scores.mean(), (scores - base).mean()


def _cell(score: float, shift: float) -> str:
    if np.isnan(score):
        return "not run"
    return f"{100 * score:.1f}" + (f" ({100 * shift:+.1f})" if shift else "")


def _spread(column: str, scores: dict[str, tuple[float, float]]) -> str:
    known = {change: 100 * score for change, (score, _) in scores.items() if not np.isnan(score)}
    low, high = min(known, key=known.__getitem__), max(known, key=known.__getitem__)
    return (
        f"{column}: {known[high] - known[low]:.1f} points are protocol, from {known[low]:.1f} ({low or BASE}) "
        f"to {known[high]:.1f} ({high or BASE})"
    )
