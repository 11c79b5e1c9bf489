"""Masks that a trained verifier predicts of a shard of a split: no image labels, no gating."""

from __future__ import annotations

import numpy as np
import torch

from harness.data.base import open_rgb, save_mask
from harness.stages import SHARD, Task
from harness.stages.configs import SegmentConfig, VerifyConfig
from harness.stages.mask import best_channel, load_refiner
from harness.stages.verify import load_verifier, recipe_of


def run(task: Task) -> None:
    """Write an indexed PNG per image, at its own size, in the dataset's class indices."""
    from harness.deeplab.model import probabilities

    config: SegmentConfig = task.config
    trained = task.parent("verify")
    recipe = recipe_of(VerifyConfig.model_validate(trained.manifest["config"]).recipe | config.recipe)
    model = load_verifier(trained).to(task.device)
    refiner = load_refiner(config.refine, task.registry)
    if refiner:
        refiner.classes = range(1, len(config.class_ids))
    class_of = np.array(config.class_ids, np.uint8)
    start = config.shard * SHARD
    ids = task.parent("labels").json("labels.json")["ids"][start : start + SHARD]
    for done, (image_id, path) in enumerate(zip(ids, task.image_paths, strict=True), 1):
        image = torch.from_numpy(open_rgb(path).copy()).permute(2, 0, 1)[None].to(task.device)
        with task.autocast(config.precision):
            scored = probabilities(model, image, recipe)[0].float().cpu()
        save_mask(task.out / f"{image_id}.png", class_of[best_channel(scored, refiner, path, image_id)])
        task.progress(done, len(ids))
