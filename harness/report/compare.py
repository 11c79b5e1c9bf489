"""Two records side by side: what was different, and what came of it."""

from __future__ import annotations

from typing import Any

import numpy as np

from harness.bootstrap import paired_difference
from harness.cell import settings
from harness.errors import UserError
from harness.metrics import mean_iou
from harness.results.record import Record
from harness.results.store import Store
from harness.run.record import split_confusions

IMAGES = 5  # named at either end


def compare(first: Record, second: Record, store: Store) -> dict[str, Any]:
    """Compare two cells over the images that both were scored on.

    Parameters
    ----------
    first, second : dict
        Records of cells that are done.
    store : Store
        Holds their confusion matrices.

    Returns
    -------
    dict
        `differs`: what differs in the specs, by dotted key, with both values; `seeds`; `splits`: by name the two mIoU,
        their `difference` with its 95 % interval over images, the same per `classes`, and the images that `gained`
        and `lost` most, with the difference of their own mIoU.

    Raises
    ------
    UserError
        If the cells were not scored on the same images and classes.
    """
    for record in (first, second):
        if record["status"] != "done":
            raise UserError(f"{record['title']} ({record['key'][:8]}) is {record['status']}: nothing to compare")
    if first["classes"] != second["classes"]:
        raise UserError("the two cells were scored over other classes: their scores cannot be compared")
    splits = {}
    for split in first["metrics"]:
        if split in second["metrics"] and first["data"][split] == second["data"][split]:
            splits[split] = _split(first, second, split, store)
    if not splits:
        raise UserError("the two cells were not scored on the same images: their scores cannot be compared")
    parts = ("spec", "weights", "applied")
    own, other = (settings({name: dict(record)[name] for name in parts}) for record in (first, second))
    return {
        "first": {"key": first["key"], "title": first["title"]},
        "second": {"key": second["key"], "title": second["title"]},
        "differs": {key: [own.get(key), other.get(key)] for key in own | other if own.get(key) != other.get(key)},
        "seeds": [record["spec"]["seed"] for record in (first, second)],
        "splits": splits,
    }


def _split(first: Record, second: Record, split: str, store: Store) -> dict[str, Any]:
    places = [record["artefacts"]["splits"][split] for record in (first, second)]
    counts = [split_confusions(store, place).counts() for place in places]
    ids = [image_id for key in places[0]["evaluate"] for image_id in store.need("evaluate", key).json("ids.json")]
    found = paired_difference(*counts)
    change = np.nan_to_num(mean_iou(counts[1]) - mean_iou(counts[0]))
    order = np.argsort(change, kind="stable")
    return {
        "miou": [float(mean_iou(count.sum(0))) for count in counts],
        "difference": found["miou"],
        "classes": dict(zip(first["classes"], found["iou"], strict=True)),
        "gained": {ids[n]: float(change[n]) for n in order[::-1][:IMAGES] if change[n] > 0},
        "lost": {ids[n]: float(change[n]) for n in order[:IMAGES] if change[n] < 0},
    }
