"""Train a method on the fit split. It is handed pictures and image labels; no mask, and no path to one."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import nn

from harness.backbones import DEFAULT_STRIDE, PREFIX, Backbone, Weights, build_backbone, family, read_state
from harness.contract import checked_model, exits_refused
from harness.errors import UserError
from harness.method import Method
from harness.parameter_count import count_parameters
from harness.registry import Registry
from harness.results.store import Artefact
from harness.stages import Task
from harness.training import EPOCH, Session, TrainingData, derive, save_model


def build_model(method: Method, identifier: str, weights: Weights, num_classes: int, seed: int) -> nn.Module:
    """Build a method's model, from start weights and a seed."""
    torch.manual_seed(derive(seed, "build"))
    return checked_model(method, method.build(new_backbone(method, identifier, weights), num_classes))


def new_backbone(method: Method, identifier: str, weights: Weights) -> Backbone | None:
    """Return a backbone as a method is handed it; None for one that takes none."""
    if not identifier:
        return None
    kind = family(PREFIX + identifier, Registry())
    stride = getattr(method.params, "stride", DEFAULT_STRIDE)
    return build_backbone(identifier, weights, method.backbone_options(kind), stride)


def load_model(method: Method, fitted: Artefact) -> nn.Module:
    """Build a method's model with its trained weights, ready for inference."""
    config = fitted.manifest["config"]
    model = build_model(method, config["timm"], Weights("random"), config["num_classes"], config["seed"])
    model.load_state_dict(load_file(fitted.file("model.safetensors")))
    return model.eval()


def load_checkpoint(model: nn.Module, path: Path) -> None:
    """Load a trained model; every key must be there and fit.

    Raises
    ------
    UserError
        If it is of another model, with the first difference.
    """
    state = read_state(path)
    try:
        model.load_state_dict(state)
    except RuntimeError as error:
        reason = str(error).strip().splitlines()[-1].strip()
        raise UserError(f"checkpoint {path.name} is of another model: {reason}") from None


def run(task: Task) -> None:
    """Write `model.safetensors`, `curves.json`, `parameters.json`, and each epoch's model if one is to be chosen."""
    config = task.config
    method = task.method()
    split = task.parent("labels").json("labels.json")
    data = TrainingData(
        split["ids"],
        torch.tensor(split["labels"], dtype=torch.float32),
        task.pictures,
        task.workers,
    )
    path = task.locations.weights.get(config["weights"])
    weights = Weights("file", config["weights"], Path(path)) if path else Weights("random")
    with exits_refused(method):
        model = build_model(method, config["timm"], weights, config["num_classes"], config["seed"])
    keep = config.get("keep_epochs", False)
    session = Session(config["seed"], task.device, config["precision"], task.work / "training", task.progress, keep)
    if "checkpoint" in config:
        load_checkpoint(model, Path(task.locations.weights[config["checkpoint"]]))
    else:
        with exits_refused(method):
            method.fit(model, data, session)
    save_model(model, task.out / "model.safetensors")
    for kept in session.folder.glob(EPOCH.format("*")):
        (task.out / kept.name).hardlink_to(kept)
    (task.out / "curves.json").write_text(json.dumps(session.curves))
    (task.out / "parameters.json").write_text(json.dumps(count_parameters(model, config["timm"])))
