"""Pseudo-masks of a shard of a split: BPM without a refiner, refined masks with one."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from harness.data.base import IGNORE, open_rgb, save_mask
from harness.method import Refiner
from harness.outputs import checked_refined
from harness.pseudomask import background_is_closed, normalised, open_classes, probabilities, with_background
from harness.registry import Registry
from harness.rules import Rule, Rules
from harness.stages import SHARD, Task
from harness.stages.configs import MaskConfig
from harness.stages.fit_refiner import load_refiner_model
from harness.stages.score import read_scores


def run(task: Task) -> None:
    """Write an indexed PNG per image, at its own size, in the dataset's class indices."""
    config: MaskConfig = task.config
    rules = config.rules
    if "curve" in task.node.parents:
        rules = replace(rules, background=Rule("fixed", task.parent("curve").json("curve.json")["threshold"]))
    scores = task.parent("score")
    output = scores.json("scores.json")["output"]
    split = task.parent("labels").json("labels.json")
    row = {image_id: number for number, image_id in enumerate(split["ids"])}
    labels = np.array(split["labels"])
    class_of = np.full(256, IGNORE, np.uint8)  # what a position stands for; what stands for none stays unlabelled
    class_of[: len(config.class_ids)] = config.class_ids
    refiner = load_refiner(config.refine, task.registry)
    if refiner and refiner.trained:
        refiner.model = load_refiner_model(refiner, task.parent("fit_refiner")).to(task.device)
    start = config.shard * SHARD
    shard = list(read_scores(scores, config.shard))
    for done, (image_id, maps, presence) in enumerate(shard, 1):
        classes = open_classes(rules, labels[row[image_id]], presence)
        height, width = split["sizes"][row[image_id]]
        task.progress(done, len(shard))
        if output == "labels" and refiner is None:
            save_mask(task.out / f"{image_id}.png", class_of[maps[0]])
            continue
        image = task.image_paths[row[image_id] - start]
        closed = background_is_closed(rules, labels[row[image_id]]) and len(classes) > 0
        best = best_class(maps, classes, (height, width), rules, output, refiner, image, closed, image_id)
        save_mask(task.out / f"{image_id}.png", class_of[np.array([0, *classes, IGNORE])[best]])


def best_class(
    scores: np.ndarray,
    classes: np.ndarray,
    size: tuple[int, int],
    rules: Rules,
    output: str,
    refiner: Refiner | None = None,
    image: Path | None = None,
    closed: bool = False,
    image_id: str = "",
) -> np.ndarray:
    """Return (H, W) which of background and open classes is best at each pixel, after a refiner if there is one.

    The number after the last class is a refiner's of `maps` that leaves pixels without a label.
    Where the background is `closed` it has probability 0 everywhere, and is the best nowhere.
    """
    if refiner:
        refiner.classes = classes.tolist()
        if refiner.params.align_corners is not None:
            rules = replace(rules, align_corners=refiner.params.align_corners)
    if refiner is None or refiner.refines == "probabilities":
        scored = probabilities(scores, classes, size, rules, output)
        if closed:
            return 1 + best_channel(scored[1:], refiner, image, image_id)
        return best_channel(scored, refiner, image, image_id)
    maps = normalised(scores, classes, rules, output)
    if refiner.background_rule == "model" and rules.background.kind == "model":
        maps = maps[1:]
    if len(maps):
        assert image
        refined = checked_refined(refiner, refiner.refine_by_id(image_id, open_rgb(image), maps.numpy()), maps.numpy())
        maps = torch.from_numpy(refined.astype(np.float32))
        if refiner.background_rule and rules.background.kind != "model":
            rules = replace(rules, background=Rule.parse(refiner.background_rule))
    scored = with_background(maps, size, rules)
    return 1 + scored[1:].argmax(0).numpy() if closed else scored.argmax(0).numpy()


def best_channel(scored: Tensor, refiner: Refiner | None, image: Path | None, image_id: str = "") -> np.ndarray:
    """Return (H, W) which channel is best at each pixel, refined by the image if there is a refiner."""
    if refiner is None:
        return scored.argmax(0).numpy()
    assert image
    normal = (scored / scored.sum(0).clamp(min=1e-7)).numpy()
    return checked_refined(refiner, refiner.refine_by_id(image_id, open_rgb(image), normal), normal).argmax(0)


def load_refiner(chosen: dict[str, Any] | None, registry: Registry) -> Refiner | None:
    """Return the refiner of a stage's configuration."""
    if chosen is None:
        return None
    refiner_class: type[Refiner] = registry.load("refiner", chosen["name"])
    return refiner_class(refiner_class.Params.model_validate(chosen["params"]))
