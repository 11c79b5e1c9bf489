"""Records as a table: one row per cell and split."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pandas as pd

from harness.cell import refiner_name
from harness.protocol import VERIFICATION
from harness.results.record import Metrics, Record
from harness.results.store import Store
from harness.strict import canonical, digest


def load_results(folder: str | Path = "results") -> pd.DataFrame:
    """Return the records of a results folder.

    Parameters
    ----------
    folder : str or Path

    Returns
    -------
    DataFrame
        One row per cell and scored split; one with an empty split for a cell that was not done. `name` is what an
        experiment calls it, empty where none does. `miou`, with its 95 % interval over images from `low` to `high`,
        `pixacc`, `macc`, `coverage` and `pxap` are shares in [0, 1]; `best` is the mIoU at the background threshold
        that is best on the split's own pixels, an oracle; `iou` maps class names to IoU; `parameters` counts weights;
        `settings` is the method's; `record` is the whole record.
        Of a cell with a verification, `verify` names it, `verified` is its mIoU, from `verified_low` to
        `verified_high`, and `pipeline` counts the weights of method and verifier.

    Raises
    ------
    UserError
        If there are no results.
    """
    return frame(Store(Path(folder)).records())


def frame(records: Iterable[Record]) -> pd.DataFrame:
    """Return records as a table; see `load_results`."""
    rows = [row for record in records for row in _rows(record)]
    table = pd.DataFrame(rows, columns=_COLUMNS)
    table["limit"] = pd.Series([row["limit"] for row in rows], dtype=object)  # a number or None, never NaN
    return table


def newest(results: pd.DataFrame) -> pd.DataFrame:
    """Return rows without those of cells that were run again since: with another version of a stage, or of a refiner.

    Cells of two versions of a method's source stay: they are two rows of a table.
    """
    cells = [
        canonical([record["spec"], *map(record.get, ("weights", "checkpoint", "data")), version_of(record)])
        for record in results.record
    ]
    ended = results.assign(cell=cells, done=results.status == "done", ended=[one["ended"] for one in results.record])
    last = ended.sort_values(["done", "ended"], kind="stable").drop_duplicates("cell", keep="last")
    return results[results.key.isin(last.key)]


def version_of(record: Record) -> str:
    """Return the version of a method's source, or of the content that was brought along; empty in old records."""
    if was_brought(record):  # folders of one name hold what they hold
        return digest([place.get("score") for place in record["artefacts"]["splits"].values()])
    return str(record.get("method_version", ""))


def was_brought(record: Record) -> bool:
    """Return whether a record is of masks or maps that were brought along, in a folder."""
    return record.get("artefacts", {}).get("fit", "") is None


def once(results: pd.DataFrame) -> pd.DataFrame:
    """Return rows without repeats of the same masks: cells that differ only in their verification share them."""
    return results[~pd.Series([_masks(row) for row in results.itertuples()], results.index, dtype=str).duplicated()]


def without_verification(spec: dict[str, Any]) -> dict[str, Any]:
    """Return a cell's spec without what is said of its verification."""
    protocol = {key: value for key, value in spec["protocol"].items() if key not in VERIFICATION}
    return {key: value for key, value in spec.items() if key != "verifier"} | {"protocol": protocol}


def varying(settings: Iterable[dict[str, Any]]) -> set[str]:
    """Return the settings in which the rows of a method differ."""
    values: dict[str, set[str]] = {}
    for own in settings:
        for key, value in own.items():
            values.setdefault(key, set()).add(canonical(value))
    return {key for key, found in values.items() if len(found) > 1}


def variant(settings: dict[str, Any], shown: set[str]) -> str:
    """Return some of a method's settings as text."""
    return ", ".join(_setting(key, value) for key, value in settings.items() if key in shown)


def _setting(name: str, value: Any) -> str:
    if isinstance(value, bool):
        return name if value else f"no {name}"
    return f"{name}={value}"


def _masks(row: Any) -> str:
    """Return what distinguishes the masks of a row; of a cell that is not done, the cell."""
    places = row.record.get("artefacts", {}).get("splits", {})
    made = places.get(row.split, {}).get("evaluate", row.key)
    return canonical([without_verification(row.record["spec"]), row.split, made])


def _rows(record: Record) -> list[dict[str, Any]]:
    spec = record["spec"]
    base = {
        "key": record["key"],
        "title": record["title"],
        "name": "",
        "status": record["status"],
        "reason": record.get("reason", ""),
        "dataset": spec["dataset"],
        "protocol": spec["protocol"]["name"],
        "refine": refiner_name(spec["protocol"]["refine"], spec.get("refiner")),
        "method": spec["method"],
        "backbone": spec["backbone"],
        "timm": record.get("timm", ""),
        "weights": spec["weights"],
        "seed": spec["seed"],
        "limit": spec["limit"],
        "settings": spec["params"],
        "parameters": (record.get("parameters") or {}).get("total"),
        "verify": spec["protocol"].get("verify", "none"),
        "pipeline": (record.get("verifier") or {}).get("pipeline"),
        "record": record,
    }
    best = record.get("best_threshold", {})
    if record["status"] != "done" or not record["metrics"]:
        return [base | {"split": ""}]
    return [
        base
        | {"split": split}
        | {name: metrics[name] for name in ("miou", "pixacc", "macc", "coverage")}
        | {"low": metrics["interval"][0], "high": metrics["interval"][1], "pxap": metrics.get("pxap")}
        | {"best": best[split]["miou"] if split in best else None}
        | {"iou": dict(zip(record["classes"], metrics["iou"], strict=True))}
        | _verified(record.get("verification", {}).get(split))
        for split, metrics in record["metrics"].items()
    ]


def _verified(metrics: Metrics | None) -> dict[str, float]:
    if metrics is None:
        return {}
    low, high = metrics["interval"]
    return {"verified": metrics["miou"], "verified_low": low, "verified_high": high}


_COLUMNS = [
    "key", "title", "name", "status", "reason", "dataset", "protocol", "refine", "method", "backbone", "timm",
    "weights", "seed", "limit", "settings", "parameters", "split", "miou", "low", "high", "pixacc", "macc",
    "coverage", "pxap", "best", "iou", "verify", "verified", "verified_low", "verified_high", "pipeline", "record",
]  # fmt: skip
