"""How many points are protocol: the same training scored under other protocols."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import pandas as pd

from harness.report.dataframe import once, variant, varying
from harness.report.notes import Marks, forbidden, protocol_changes, protocol_name, seed_notes, seeds_text
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
        As `load_results` gives it, with `change`: in what the protocol differs, but for what was changed in all of a
        dataset (`common`), empty for `strict` itself; and `model`: method, backbone and settings that tell it apart.
    """
    done = once(results[results.status == "done"]).copy()
    done["fit"] = [record["artefacts"]["fit"] for record in done.record]
    done = done[done.groupby("fit").key.transform("nunique") > 1]
    all_of = {dataset: common(rows.record) for dataset, rows in done.groupby("dataset")}
    done["change"] = [_change(row.record, all_of[row.dataset]) for row in done.itertuples()]
    apart = {method: varying(rows.settings) for method, rows in done.groupby("method")}
    done["model"] = [
        " ".join(filter(None, [row.method, row.backbone, variant(row.settings, apart[row.method])]))
        for row in done.itertuples()
    ]
    return done[done.fit.isin(done[done.change == ""].fit)]


def common(records: Iterable[Record]) -> list[str]:
    """Return what was changed of the protocol of every record."""
    first, *others = map(protocol_changes, records)
    return [change for change in first if all(change in own for own in others)]


def _table(dataset: str, group: pd.DataFrame) -> Table:
    changes = sorted(dict.fromkeys(group.change), key=order)
    seeds = set(group.seed)
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
            table.rows[-1][number] += marks.of(seed_notes(same.seed, seeds))
            table.sources[len(table.rows) - 1, number] = list(same.key)
    about = f"mIoU, mean over seeds {seeds_text(seeds)}; in brackets the difference from protocol {BASE}"
    shown = common(group.record)
    table.notes = [about, *([f"all with {', '.join(shown)}"] if shown else []), *spreads, *marks.notes]
    return table


def _change(record: Record, everywhere: list[str]) -> str:
    """Return in what a record's protocol differs from `strict`; empty for `strict` itself."""
    protocol = record["spec"]["protocol"]
    changes = [change for change in protocol_changes(record) if change not in everywhere]
    if protocol["refine"] != "none" and "protocol.refine" not in record["origins"]:
        changes.append(f"refine={protocol['refine']}")
    if protocol["name"] in (BASE, f"{BASE}-1"):
        return ", ".join(changes)
    name = protocol_name(record).partition(" with ")[0]
    return f"{name} with {', '.join(changes)}" if changes else name


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
