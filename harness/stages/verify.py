"""Train a verifier on the pseudo-masks of a split. It is handed images and masks; no ground truth, no path to any."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors.torch import load_file

from harness.deeplab.recipe import Recipe
from harness.results.store import Artefact
from harness.seeds import derive
from harness.stages import SHARD, Task
from harness.stages.configs import VerifyConfig
from harness.training import Session, save_model

if TYPE_CHECKING:
    from harness.deeplab.segmentor import DeepLabV2


def run(task: Task) -> None:
    """Write `model.safetensors`, `curves.json`, and `verifier.json`: its parameters, and what it was trained on."""
    from harness.deeplab.data import PseudoMasks, ignored_share
    from harness.deeplab.model import build, parameter_groups
    from harness.deeplab.trainer import train
    from harness.deeplab.weights import initialise

    config: VerifyConfig = task.config
    recipe = recipe_of(config.recipe)
    masks = pseudo_masks(task)
    torch.manual_seed(derive(config.seed, "verifier"))
    model = build(recipe, len(config.class_ids))
    file = task.locations.weights.get(config.weights)
    start = initialise(model, recipe, recipe.init, Path(file) if file else None)
    data = PseudoMasks(task.image_paths, masks, config.class_ids, recipe, config.seed)
    session = Session(config.seed, task.device, config.precision, task.work / "training", task.progress)
    train(model, parameter_groups(model, recipe), data, recipe, session, task.workers)
    save_model(model, task.out / "model.safetensors")
    (task.out / "curves.json").write_text(json.dumps(session.curves))
    facts = start | {
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "trained_on": len(masks),
        "ignored": ignored_share(masks, config.class_ids),
    }
    (task.out / "verifier.json").write_text(json.dumps(facts))


def pseudo_masks(task: Task) -> list[Path]:
    """Return the mask of each image of the split, in order, after checking each."""
    ids = task.parent("labels").json("labels.json")["ids"]
    shards = task.parents("mask")
    return [shards[number // SHARD].file(f"{image_id}.png") for number, image_id in enumerate(ids)]


def recipe_of(config: dict[str, Any]) -> Recipe:
    """Return the recipe of a stage's configuration, which leaves out what is said about it."""
    return Recipe.model_validate({"summary": "", "source": "", **config})


def load_verifier(trained: Artefact) -> DeepLabV2:
    """Build a trained verifier, ready for inference."""
    from harness.deeplab.model import build

    config = VerifyConfig.model_validate(trained.manifest["config"])
    model = build(recipe_of(config.recipe), len(config.class_ids))
    model.load_state_dict(load_file(trained.file("model.safetensors")))
    return model.eval()
