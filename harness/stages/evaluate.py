"""Confusion matrices of a shard: the only stage that holds masks and ground truth side by side."""

from __future__ import annotations

import json

import numpy as np

from harness.data.base import open_mask
from harness.metrics import confusion
from harness.stages import SHARD, Task


def run(task: Task) -> None:
    """Write `confusion.npy`, (N, K, K + 1) int32, and `ids.json`."""
    config = task.config
    dataset = task.dataset()
    masks = task.parent("mask")
    start = config["shard"] * SHARD
    ids = task.parent("labels").json("labels.json")["ids"][start : start + SHARD]
    matrices = []
    for done, image_id in enumerate(ids, 1):
        truth = open_mask(dataset.mask_path(image_id))
        matrices.append(confusion(truth, open_mask(masks.file(f"{image_id}.png")), config["class_ids"]))
        task.progress(done, len(ids))
    np.save(task.out / "confusion.npy", np.array(matrices, np.int32))
    (task.out / "ids.json").write_text(json.dumps(ids))
