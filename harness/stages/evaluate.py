"""Confusion matrices of a shard, from masks and ground truth side by side."""

from __future__ import annotations

import json
from collections.abc import Iterator

import numpy as np

from harness.data.base import open_mask
from harness.metrics import Confusions, confusion
from harness.stages import SHARD, Task
from harness.stages.configs import EvaluateConfig


def run(task: Task) -> None:
    """Write `confusion.npy`, see `Confusions.save`, and `ids.json`."""
    config: EvaluateConfig = task.config
    dataset = task.dataset()
    masks = task.parent("segment" if "segment" in task.node.parents else "mask")
    start = config.shard * SHARD
    ids = task.parent("labels").json("labels.json")["ids"][start : start + SHARD]

    def matrices() -> Iterator[np.ndarray]:
        for done, image_id in enumerate(ids, 1):
            truth = open_mask(dataset.mask_path(image_id))
            yield confusion(truth, open_mask(masks.file(f"{image_id}.png")), config.class_ids)
            task.progress(done, len(ids))

    Confusions.gather(matrices(), len(config.class_ids)).save(task.out / "confusion.npy")
    (task.out / "ids.json").write_text(json.dumps(ids))
