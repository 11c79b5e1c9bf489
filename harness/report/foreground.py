"""Table D: masks as foreground against background, the classes set aside."""

from __future__ import annotations

from collections.abc import Sequence
from functools import reduce
from typing import Any

import numpy as np
import pandas as pd

from harness.errors import UserError
from harness.metrics import mean_over_objects, object_jaccard
from harness.report.notes import Marks, forbidden, protocol_name
from harness.report.tables import Table
from harness.results.record import Record
from harness.results.store import Store
from harness.run.record import split_confusions
from harness.strict import canonical

_ABOUT = ["method", "settings", "backbone", "weights", "seed"]
_NOTES = [
    "foreground: IoU of all classes as one; with background: the mean of it and the background's IoU",
    "per object: Jaccard of a class's pixels with all of the predicted foreground, mean over classes, then images",
    "an image's pixels of one class count as one object; undefined pixels are left out",
    "best head: for each object the attention head that covers it best, which takes the ground truth: an oracle",
]


def foreground(results: pd.DataFrame, store: Store) -> list[Table]:
    """Return a table per dataset, split and protocol: one row per cell, and one per set of attention heads.

    Parameters
    ----------
    results : DataFrame
        As `load_results` gives it.
    store : Store
        Holds the confusion matrices of the heads.
    """
    done = results[results.split != ""].copy()
    done["under"] = [protocol_name(record) for record in done.record]
    groups = done.groupby(["dataset", "split", "under"], sort=True)
    return [
        _table(f"{dataset} {split}, foreground, {under}", group, store) for (dataset, split, under), group in groups
    ]


def _table(title: str, group: pd.DataFrame, store: Store) -> Table:
    marks = Marks()
    columns = [*_ABOUT, "foreground", "with background", "per object"]
    table = Table(title, columns, [])
    for _, same in group.groupby([_without_head(row) for row in group.itertuples()], sort=True):
        records = list(same.record)
        split = same.split.iloc[0]
        for record in records:
            metrics = record["metrics"][split]
            both = (metrics["foreground"] + metrics["iou"][0]) / 2
            scores = [_percent(value) for value in (metrics["foreground"], both, metrics["objects"])]
            table.sources |= {(len(table.rows), n): [record["key"]] for n in range(len(_ABOUT), len(columns))}
            table.rows.append([*_about(record, marks), *scores])
        heads = [record for record in records if isinstance(record["spec"]["params"].get("heads"), int)]
        if len(heads) > 1:
            about = _about(heads[0], marks)
            about[1] = f"best head of {len(heads)}"
            best = best_of_heads(heads, split, store)
            score = "needs confusion matrices" if best is None else f"{best:.1f}"
            table.sources[len(table.rows), len(columns) - 1] = [record["key"] for record in heads]
            table.rows.append([*about, "–", "–", score])
    table.notes = [*_NOTES, *marks.notes]
    return table


def _without_head(row: Any) -> str:
    settings = {key: value for key, value in row.settings.items() if key != "heads"}
    return canonical([row.method, settings, row.backbone, row.record["weights"], row.seed, row.refine, row.limit])


def _about(record: Record, marks: Marks) -> list[str]:
    spec = record["spec"]
    head = spec["params"].get("heads")
    settings = f"head {head}" if isinstance(head, int) else f"{head} of the heads" if head else ""
    method = spec["method"] + marks.of(forbidden(record))
    return [method, settings, spec["backbone"], spec["weights"], str(spec["seed"])]


def best_of_heads(records: Sequence[Record], split: str, store: Store) -> float | None:
    """Return the per-object score in per cent, of each object the best among a cell's attention heads.

    Parameters
    ----------
    records : sequence of dict
        Of cells that differ in `heads`; those of one head each are used.
    split : str
    store : Store
        Holds their confusion matrices.

    Returns
    -------
    float or None
        None if there are not two heads, or the confusion matrices are gone.
    """
    heads = [record for record in records if isinstance(record["spec"]["params"].get("heads"), int)]
    if len(heads) < 2:
        return None
    places = [record["artefacts"]["splits"][split] for record in heads]
    try:
        scores = [object_jaccard(split_confusions(store, place)) for place in places]
    except UserError:
        return None
    return 100 * mean_over_objects(reduce(np.fmax, scores))


def _percent(share: float | None) -> str:
    return "–" if share is None else f"{100 * share:.1f}"
