"""What a DeepLabV2 starts from: public checkpoints, by their own names of tensors, all of them or none."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from torch import Tensor

from harness.backbones import build_backbone, read_state, refuse_misfit, resolve_weights
from harness.deeplab.recipe import OUTPUT_STRIDE, Recipe
from harness.deeplab.segmentor import DeepLabV2
from harness.errors import UserError
from harness.files import hash_file

PUBLIC = {
    "caffe": "deeplabv1_resnet101-coco.pth of kazuto1011/deeplab-pytorch, or the ImageNet one of jbeomlee93/AdvCAM",
    "torchvision": "torchvision's, as resnet101-63fe2227.pth",
    "v1c": "open-mmlab's, as resnet101_v1c-e67eebb6.pth",
}
CLASSES = {"imagenet": 1000, "coco": 91}  # of the classifier that a checkpoint may still have
_HEAD = ("fc.", "aspp.")
_COUNTERS = "num_batches_tracked"  # of batch normalisation; older checkpoints have none, and nothing reads them
_PARTS = {"reduce": "1", "conv3x3": "2", "increase": "3"}


def initialise(model: DeepLabV2, recipe: Recipe, init: str, path: Path | None = None) -> dict[str, Any]:
    """Load the backbone's start weights; the head keeps its own from N(0, 0.01).

    Parameters
    ----------
    model : Module
        As `build` made it of the recipe.
    recipe : Recipe
    init : {"imagenet", "coco", "random", "file"}
        What the weights are; `file` for anything else in the names of the style's public checkpoints.
    path : Path, optional
        The checkpoint. Without one, `imagenet` takes a timm network's from the hub; a ResNet's is never fetched.

    Returns
    -------
    dict
        `init`, and for weights `file`, `sha256`, `tensors` loaded, and `left_out`, the keys of the classifier.

    Raises
    ------
    UserError
        If the file is missing, or is not what `init` says, or does not fit to the last key; with the keys.
    EnvironmentUnfitError
        If the hub cannot be reached.
    """
    if init == "random":
        if path is not None:
            raise UserError(f"{path.name} has no place in a random initialisation: say what it is, as imagenet or file")
        return {"init": init}
    if recipe.timm:
        return {"init": init, **_from_timm(model, recipe.timm, init, path)}
    assert recipe.style is not None
    network = f"{recipe.backbone} ({recipe.style})"
    if path is None:
        raise UserError(f"{network} from {init} takes a file: {PUBLIC[recipe.style]}")
    if not path.is_file():
        raise UserError(f"no weights file {path}: {network} takes {PUBLIC[recipe.style]}")
    state = {name: value for name, value in read_state(path).items() if not name.endswith(_COUNTERS)}
    if recipe.style == "caffe":
        state = {_from_caffe(name): value for name, value in state.items()}
    head = {name: state.pop(name) for name in list(state) if name.startswith(_HEAD)}
    _refuse_other_classes(path, init, head)
    own = {name: value for name, value in model.backbone.state_dict().items() if not name.endswith(_COUNTERS)}
    refuse_misfit(path, network, sorted(own.keys() - state.keys()), sorted(state.keys() - own.keys()))
    wrong = [name for name in own if own[name].shape != state[name].shape]
    if wrong:
        shapes = [f"{name} {tuple(state[name].shape)} for {tuple(own[name].shape)}" for name in wrong[:3]]
        raise UserError(f"{path.name} does not fit {network}: {', '.join(shapes)}{' …' if wrong[3:] else ''}")
    model.backbone.load_state_dict(state, strict=False)  # strict but for the counters, as just seen
    about = {"file": path.name, "sha256": hash_file(path), "tensors": len(state), "left_out": sorted(head)}
    return {"init": init, **about}


def _from_timm(model: DeepLabV2, identifier: str, init: str, path: Path | None) -> dict[str, Any]:
    """Load weights of timm's; its own names and rules hold."""
    if init == "coco":
        raise UserError(f"there are no COCO weights of timm:{identifier}: imagenet, random or a file")
    if init == "file" and path is None:
        raise UserError(f"timm:{identifier} from a file takes one")
    weights = resolve_weights(str(path) if path else "hub", identifier)
    trained = build_backbone(identifier, weights, stride=OUTPUT_STRIDE).net
    model.backbone.net.load_state_dict(trained.state_dict())
    file = weights.path.name if weights.path else ""
    return {"file": file, "sha256": weights.sha256, "tensors": len(trained.state_dict()), "left_out": []}


def _from_caffe(name: str) -> str:
    """Translate a name of deeplab-pytorch's, as `layer3.block2.reduce.conv.weight`; mark other ResNets'."""
    name = name.removeprefix("base.")
    stem = re.fullmatch(r"layer1\.conv1\.(conv|bn)\.(\w+)", name)
    if stem:
        return f"{stem[1]}1.{stem[2]}"
    inner = re.fullmatch(r"layer([2-5])\.block(\d+)\.(reduce|conv3x3|increase|shortcut)\.(conv|bn)\.(\w+)", name)
    if inner is None:
        return f"{name} (not caffe's)" if re.match(r"(conv|bn|layer)", name) else name
    stage, block, part, kind, tensor = inner.groups()
    where = f"downsample.{'01'[kind == 'bn']}" if part == "shortcut" else f"{kind}{_PARTS[part]}"
    return f"layer{int(stage) - 1}.{int(block) - 1}.{where}.{tensor}"


def _refuse_other_classes(path: Path, init: str, head: dict[str, Tensor]) -> None:
    """Refuse a checkpoint whose classifier gives away that it was trained on something else than is said."""
    found = next((len(value) for name, value in sorted(head.items()) if name.endswith("weight")), None)
    expected = CLASSES.get(init)
    if found and expected and found != expected:
        raise UserError(f"{path.name} has {found} classes, and {init} has {expected}: say what it is, or file")
