"""Records as a table: one row per cell and split."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pandas as pd

from harness.store import Store


def load_results(folder: str | Path = "results") -> pd.DataFrame:
    """Return the records of a results folder.

    Parameters
    ----------
    folder : str or Path

    Returns
    -------
    DataFrame
        One row per cell and scored split; one with an empty split for a cell that was not done. `miou`, with its 95 %
        interval over pictures from `low` to `high`, `pixacc`, `macc`, `coverage` and `pxap` are shares in [0, 1]; `iou`
        maps class names to IoU; `parameters` counts weights; `settings` is the method's; `record` is the whole record.

    Raises
    ------
    UserError
        If there are no results.
    """
    return frame(Store(Path(folder)).records())


def frame(records: Iterable[dict[str, Any]]) -> pd.DataFrame:
    """Return records as a table; see `load_results`."""
    rows = [row for record in records for row in _rows(record)]
    table = pd.DataFrame(rows, columns=_COLUMNS)
    table["limit"] = pd.Series([row["limit"] for row in rows], dtype=object)  # a number or None, never NaN
    return table


def _rows(record: dict[str, Any]) -> list[dict[str, Any]]:
    spec = record["spec"]
    base = {
        "key": record["key"],
        "title": record["title"],
        "status": record["status"],
        "reason": record.get("reason", ""),
        "dataset": spec["dataset"],
        "protocol": spec["protocol"]["name"],
        "refine": spec["protocol"]["refine"],
        "method": spec["method"],
        "backbone": spec["backbone"],
        "timm": record.get("timm", ""),
        "weights": spec["weights"],
        "seed": spec["seed"],
        "limit": spec["limit"],
        "settings": spec["params"],
        "parameters": (record.get("parameters") or {}).get("total"),
        "record": record,
    }
    if record["status"] != "done" or not record["metrics"]:
        return [base | {"split": ""}]
    return [
        base
        | {"split": split}
        | {name: metrics[name] for name in ("miou", "pixacc", "macc", "coverage")}
        | {"low": metrics["interval"][0], "high": metrics["interval"][1], "pxap": metrics.get("pxap")}
        | {"iou": dict(zip(record["classes"], metrics["iou"], strict=True))}
        for split, metrics in record["metrics"].items()
    ]


_COLUMNS = [
    "key", "title", "status", "reason", "dataset", "protocol", "refine", "method", "backbone", "timm", "weights",
    "seed", "limit", "settings", "parameters", "split", "miou", "low", "high", "pixacc", "macc",
    "coverage", "pxap", "iou", "record",
]  # fmt: skip
