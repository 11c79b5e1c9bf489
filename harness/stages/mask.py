"""Pseudo-masks of a shard of a split: BPM without a refiner, refined masks with one."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from harness.contract import checked_refined
from harness.data.base import IGNORE, open_rgb, save_mask
from harness.method import Refiner
from harness.pseudomask import Rules, open_classes, probabilities
from harness.registry import Registry
from harness.stages import SHARD, Task
from harness.stages.score import read_scores


def run(task: Task) -> None:
    """Write an indexed PNG per picture, at its own size, in the dataset's class indices."""
    config = task.config
    rules = Rules(**config["rules"])
    if "curve" in task.node.parents:
        rules = replace(rules, background=f"fixed:{task.parent('curve').json('curve.json')['threshold']}")
    scores = task.parent("score")
    output = scores.json("scores.json")["output"]
    split = task.parent("labels").json("labels.json")
    row = {image_id: number for number, image_id in enumerate(split["ids"])}
    labels = np.array(split["labels"])
    class_of = np.full(256, IGNORE, np.uint8)  # what a position stands for; what stands for none stays unlabelled
    class_of[: len(config["class_ids"])] = config["class_ids"]
    refiner = load_refiner(config["refine"], task.registry)
    start = config["shard"] * SHARD
    shard = list(read_scores(scores, config["shard"]))
    for done, (image_id, maps, presence) in enumerate(shard, 1):
        classes = open_classes(rules, labels[row[image_id]], presence)
        height, width = split["sizes"][row[image_id]]
        task.progress(done, len(shard))
        if output == "labels" and refiner is None:
            save_mask(task.out / f"{image_id}.png", class_of[maps[0]])
            continue
        scored = probabilities(maps, classes, (height, width), rules, output)
        best = best_channel(scored, refiner, task.pictures[row[image_id] - start])
        save_mask(task.out / f"{image_id}.png", class_of[np.array([0, *classes])[best]])


def best_channel(scored: Tensor, refiner: Refiner | None, picture: Path) -> np.ndarray:
    """Return (H, W) which channel is best at each pixel, refined by the picture if there is a refiner."""
    if refiner is None:
        return scored.argmax(0).numpy()
    normal = (scored / scored.sum(0).clamp(min=1e-7)).numpy()
    return checked_refined(refiner, refiner.refine(open_rgb(picture), normal), normal).argmax(0)


def load_refiner(chosen: dict[str, Any] | None, registry: Registry) -> Refiner | None:
    """Return the refiner of a stage's configuration."""
    if chosen is None:
        return None
    refiner_class: type[Refiner] = registry.load("refiner", chosen["name"])
    return refiner_class(refiner_class.Params.model_validate(chosen["params"]))
