"""Backbones, built from timm's models for images of any size, with their weights loaded strictly."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from harness.errors import UserError
from harness.features import Backbone
from harness.files import hash_file
from harness.timm_models import ADDED, family, fetch_weights, import_timm

DEFAULT_STRIDE = 16  # of convolutional backbones


@dataclass(frozen=True)
class Weights:
    """Start weights of a backbone.

    Attributes
    ----------
    source : str
        `random`, `hub` or `file`.
    sha256 : str
        Of the file; empty for `random`.
    path : Path or None
    """

    source: str
    sha256: str = ""
    path: Path | None = None


def resolve_weights(choice: str, identifier: str) -> Weights:
    """Find start weights and hash them; `choice` is `random`, `hub` or a file.

    Raises
    ------
    UserError
        If the file is missing.
    MissingWeightsError
        If the hub cannot be reached, with the file to fetch and where to put it.
    """
    if choice in ("random", "none"):
        return Weights(choice)
    path = fetch_weights(identifier) if choice == "hub" else Path(choice)
    if not path.is_file():
        raise UserError(f"no weights file {choice}: --weights takes random, hub or a file")
    return Weights("hub" if choice == "hub" else "file", hash_file(path), path)


def build_backbone(
    identifier: str, weights: Weights, options: dict[str, Any] | None = None, stride: int = DEFAULT_STRIDE
) -> Backbone:
    """Build a backbone without head and load its weights strictly.

    Parameters
    ----------
    identifier : str
        A timm id.
    weights : Weights
    options : dict, optional
        Further arguments of `timm.create_model`.
    stride : int
        Of a convolutional backbone; a ViT's is its patch size.

    Raises
    ------
    UserError
        If the network has no dense features, or the weights do not fit, with the keys.
    """
    timm = import_timm()
    arguments: dict[str, Any] = {"pretrained": False, "num_classes": 0, "global_pool": "", **(options or {})}
    kind = family(identifier)
    added = ADDED.get(identifier)
    if added and kind == "vit":
        net, stride = timm.create_model(identifier, **arguments), added.stride
    elif kind == "vit":
        if "_distilled_" in identifier:
            arguments["global_pool"] = "token"  # it takes no other, and dense features do not meet it
        try:
            net = timm.create_model(identifier, dynamic_img_size=True, dynamic_img_pad=True, **arguments)
        except TypeError as error:
            raise UserError(f"timm model '{identifier}' has no dense features at any image size: {error}") from None
        stride = net.patch_embed.feat_ratio()
    elif identifier.startswith("legacy_xception"):
        net = timm.create_model(identifier, **arguments)
        _set_xception_stride(net, stride)
    else:
        try:
            net = timm.create_model(identifier, output_stride=stride, **arguments)
        except (TypeError, AssertionError):
            raise UserError(f"timm model '{identifier}' has no output_stride {stride}, so no dense features") from None
    if weights.path is not None:
        _load(net, weights.path, identifier)
    return (added.backbone if added else Backbone)(net, identifier, kind, stride)


class Tower(nn.Module):
    """A frozen timm model with its head, whose output is a unit vector: the image tower of CLIP."""

    mean: Tensor
    std: Tensor

    def __init__(self, net: Any) -> None:
        super().__init__()
        self.net = net.eval().requires_grad_(False)
        for name in ("mean", "std"):
            self.register_buffer(name, torch.tensor(net.pretrained_cfg[name]).view(1, 3, 1, 1))

    def forward(self, images: Tensor) -> Tensor:
        """Return (B, D) vectors of (B, 3, H, W) images in [0, 1]; gradients reach the images."""
        return functional.normalize(self.net((images - self.mean) / self.std).float(), dim=1)


def build_tower(identifier: str, path: Path) -> Tower:
    """Build a timm model as it was published, with its head, and load its weights strictly.

    Raises
    ------
    UserError
        If the weights do not fit, with the keys.
    """
    net = import_timm().create_model(identifier, pretrained=False)
    _load(net, path, identifier)
    return Tower(net)


def count_with_head(identifier: str) -> int:
    """Count the parameters of a timm model as it was published, with its classifier; no memory is taken for them."""
    with torch.device("meta"):
        net = import_timm().create_model(identifier, pretrained=False)
    return sum(parameter.numel() for parameter in net.parameters())


def _load(net: Any, path: Path, identifier: str) -> None:
    """Load a checkpoint; every key but those of the classifier and its pooling must be there and fit."""
    state = read_state(path)
    adapt = getattr(sys.modules[type(net).__module__], "checkpoint_filter_fn", None)
    try:
        state = {key: value.float() for key, value in (adapt(state, net) if adapt else state).items()}
        missing, unexpected = net.load_state_dict(state, strict=False)
    except (RuntimeError, KeyError) as error:
        raise UserError(
            f"{path.name} does not fit {identifier}: {str(error).strip().splitlines()[-1].strip()}"
        ) from None
    heads = net.pretrained_cfg["classifier"]
    heads = (*([heads] if isinstance(heads, str) else heads), "attn_pool")  # what comes after the dense features
    missing = [key for key in missing if not key.endswith("num_batches_tracked")]
    unexpected = [key for key in unexpected if not key.startswith(tuple(f"{head}." for head in heads))]
    refuse_misfit(path, identifier, missing, unexpected)


def refuse_misfit(path: Path, network: str, missing: Sequence[str], unexpected: Sequence[str]) -> None:
    """Raise if a network's weights file lacks keys or has unknown ones.

    Raises
    ------
    UserError
        With the first keys of either kind.
    """
    parts = [f"{what} {', '.join(keys[:3])}{' …' if len(keys) > 3 else ''}"
             for what, keys in (("lacks", missing), ("has unknown", unexpected)) if keys]  # fmt: skip
    if parts:
        raise UserError(f"{path.name} does not fit {network}: it {' and '.join(parts)}")


def read_state(path: Path) -> dict[str, Tensor]:
    """Read a checkpoint of tensors: safetensors, or what `torch.load` opens with `weights_only=True`.

    Raises
    ------
    UserError
        If it is neither, or holds more than tensors.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        state = torch.load(path, map_location="cpu", weights_only=True)
    except (SafetensorError, OSError, RuntimeError, EOFError, ValueError, _unpickling_error()) as error:
        reason = str(error).strip().partition("\n")[0][:120]
        raise UserError(f"cannot read weights {path.name}: {reason}") from None
    for wrapper in ("state_dict", "model"):
        state = state.get(wrapper, state)
    return state


def _unpickling_error() -> type[Exception]:
    import pickle  # only its exception: torch.load raises it for a file that holds more than tensors

    return pickle.UnpicklingError


def _set_xception_stride(net: Any, stride: int) -> None:
    """Bring the last two stages of `legacy_xception` to stride 16 by dilation, so that pretrained weights still fit."""
    if stride == 32:
        return
    if stride != 16:
        raise UserError(f"xception has stride 16 or 32, not {stride}")
    net.block12.skip.stride = (1, 1)
    net.block12.rep[-1].stride = 1
    for separable in (net.conv3, net.conv4):
        separable.conv1.dilation = separable.conv1.padding = (2, 2)
