"""Train a refiner on the fit split, on pseudo-masks made of the score maps that it will refine; no ground truth."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import nn

from harness.backbones import DEFAULT_STRIDE, Weights, build_backbone
from harness.contract import checked_model, exits_refused
from harness.loader import TrainingData
from harness.method import Refiner
from harness.parameter_count import count_parameters
from harness.results.store import Artefact
from harness.seeds import derive
from harness.stages import SHARD, Task
from harness.stages.configs import FitRefinerConfig
from harness.training import Session, save_model, train


def run(task: Task) -> None:
    """Write `model.safetensors`, `curves.json` and `parameters.json`."""
    config: FitRefinerConfig = task.config
    refiner_class: type[Refiner] = task.registry.load("refiner", config.refiner["name"])
    refiner = refiner_class(refiner_class.Params.model_validate(config.refiner["params"]))
    split = task.parent("labels").json("labels.json")
    ids, labels = split["ids"], torch.tensor(split["labels"], dtype=torch.float32)
    masks = [
        [shards[number // SHARD].file(f"{image_id}.png") for number, image_id in enumerate(ids)]
        for shards in (task.parents("mask", role=f"pseudo/{rule}") for rule in range(len(refiner.learns_from())))
    ]
    data = TrainingData(
        ids, labels, task.image_paths, task.workers, masks, config.class_ids, device=task.device, room=task.room
    )
    file = task.locations.weights.get(config.weights)
    weights = Weights("file", config.weights, Path(file)) if file else Weights("random")
    model = _build(refiner, config, weights)
    session = Session(config.seed, task.device, config.precision, task.work / "training", task.progress)
    with exits_refused(refiner):
        train(refiner, model, data, session)
    task.facts["phases"] = session.phases
    save_model(model, task.out / "model.safetensors")
    (task.out / "curves.json").write_text(json.dumps(session.curves))
    (task.out / "parameters.json").write_text(json.dumps(count_parameters(model, config.timm)))


def load_refiner_model(refiner: Refiner, fitted: Artefact) -> nn.Module:
    """Build a refiner's model with its trained weights, ready for inference."""
    config = FitRefinerConfig.model_validate(fitted.manifest["config"])
    model = _build(refiner, config, Weights("random"))
    model.load_state_dict(load_file(fitted.file("model.safetensors")))
    return model.eval()


def _build(refiner: Refiner, config: FitRefinerConfig, weights: Weights) -> nn.Module:
    torch.manual_seed(derive(config.seed, "refiner"))
    backbone = build_backbone(config.timm, weights, stride=getattr(refiner.params, "stride", DEFAULT_STRIDE))
    return checked_model(refiner, refiner.build(backbone, len(config.class_ids)))
