"""Train a method on the fit split. It is handed images and image labels; no mask, and no path to one."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import nn

from harness.backbones import DEFAULT_STRIDE, Backbone, Weights, build_backbone, read_state
from harness.contract import checked_model, exits_refused
from harness.errors import UserError
from harness.loader import TrainingData
from harness.method import Method
from harness.parameter_count import count_parameters
from harness.registry import Registry
from harness.results.store import Artefact
from harness.seeds import derive
from harness.stages import Task, method_of
from harness.stages.configs import FitConfig, MethodConfig, SelectConfig
from harness.timm_models import family
from harness.training import EPOCH, Session, save_model


def build_model(
    method: Method, identifier: str, weights: Weights, num_classes: int, seed: int, parent: nn.Module | None = None
) -> nn.Module:
    """Build a method's model, from start weights and a seed; of a method with a parent, from that one's model too."""
    torch.manual_seed(derive(seed, "build"))
    backbone = new_backbone(method, identifier, weights)
    model = method.build(backbone, num_classes) if parent is None else method.build_from(parent, backbone, num_classes)
    return checked_model(method, model)


def untrained(registry: Registry, method: Method, config: MethodConfig) -> nn.Module:
    """Build the model of a configuration as one that takes trained weights: from random ones, its parents' too."""
    parent = None
    if config.parent:
        before = config.model_copy(update={"parent": config.parent.parent})
        parent = untrained(registry, method_of(registry, config.parent.method, config.parent.params), before)
    return build_model(method, config.timm, Weights("random"), config.num_classes, config.seed, parent)


def new_backbone(method: Method, identifier: str, weights: Weights) -> Backbone | None:
    """Return a backbone as a method is handed it; None for one that takes none."""
    if not identifier:
        return None
    kind = family(identifier)
    stride = getattr(method.params, "stride", DEFAULT_STRIDE)
    return build_backbone(identifier, weights, method.backbone_options(kind), stride)


def model_config(fitted: Artefact) -> MethodConfig:
    """Return the configuration of a trained model: of its training, or of the choice of its epoch."""
    form = FitConfig if fitted.stage == "fit" else SelectConfig
    return form.model_validate(fitted.manifest["config"])


def load_model(registry: Registry, method: Method, fitted: Artefact) -> nn.Module:
    """Build a method's model with its trained weights, ready for inference."""
    model = untrained(registry, method, model_config(fitted))
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
    config: FitConfig = task.config
    method = task.method()
    split = task.parent("labels").json("labels.json")
    data = TrainingData(
        split["ids"],
        torch.tensor(split["labels"], dtype=torch.float32),
        task.image_paths,
        task.workers,
        device=task.device,
        room=task.room,
    )
    path = task.locations.weights.get(config.weights)
    weights = Weights("file", config.weights, Path(path)) if path else Weights("random")
    parent = None
    if config.parent:
        ancestor = method_of(task.registry, config.parent.method, config.parent.params)
        parent = load_model(task.registry, ancestor, task.parent("fit", role="parent"))
    with exits_refused(method):
        model = build_model(method, config.timm, weights, config.num_classes, config.seed, parent)
    session = Session(
        config.seed, task.device, config.precision, task.work / "training", task.progress, config.keep_epochs
    )
    if config.checkpoint:
        load_checkpoint(model, Path(task.locations.weights[config.checkpoint]))
    else:
        with exits_refused(method):
            method.fit(model, data, session)
        task.facts["phases"] = session.phases
    save_model(model, task.out / "model.safetensors")
    for kept in session.folder.glob(EPOCH.format("*")):
        (task.out / kept.name).hardlink_to(kept)
    (task.out / "curves.json").write_text(json.dumps(session.curves))
    (task.out / "parameters.json").write_text(json.dumps(count_parameters(model, config.timm)))
