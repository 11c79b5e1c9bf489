"""The only door to timm: its models by name, their families, and where their weights are found."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from torch import nn

from harness import mit, resnet38
from harness.errors import MissingWeightsError, UserError, closest
from harness.features import Backbone
from harness.registry import Registry
from harness.strict import Frozen, parse
from harness.torchvision_ops import ensure_importable

PREFIX = "timm:"
VIT_MODULES = (  # of timm; those after the first line take images of one size, or in patches, and are refused
    *("vision_transformer", "vision_transformer_hybrid", "deit", "eva"),
    *("beit", "vision_transformer_relpos", "vision_transformer_sam", "naflexvit"),
    *("gemma4_vit", "qwen3_vit", "deepseek_vit"),
)


@dataclass(frozen=True)
class Added:
    """A network that is no model of timm until it is added to them.

    Attributes
    ----------
    name : str
        What `configs/backbones.yaml` calls it.
    family : {"vit", "cnn"}
    stride : int
        The only one that it has.
    weights : str
        Where they are found, in words.
    create : callable
        What timm calls for a model.
    backbone : type
        What it is wrapped in.
    """

    name: str
    family: str
    stride: int
    weights: str
    create: Callable[..., nn.Module]
    backbone: type[Backbone] = Backbone


ADDED = {
    "resnet38d": Added("resnet38", "cnn", resnet38.STRIDE, resnet38.WEIGHTS, resnet38.resnet38d),
    "mit_b1": Added("mit_b1", "vit", mit.STRIDE, mit.WEIGHTS, mit.mit_b1, mit.MiTBackbone),
}


class Named(Frozen):
    """The entry of a backbone's short name.

    Attributes
    ----------
    timm : str
        A timm id.
    family : {"vit", "cnn"}, optional
        What timm would say, which is slow to import.
    summary : str
    """

    timm: str
    family: Literal["vit", "cnn"] | None = None
    summary: str = ""


def timm_id(name: str, registry: Registry) -> str:
    """Return the timm id of a backbone's short name, or of `timm:<id>`.

    Raises
    ------
    UserError
        If there is none, with the closest.
    """
    if name.startswith(PREFIX):
        identifier = name.removeprefix(PREFIX)
        _entrypoint(identifier)
        return identifier
    return _named(name, registry).timm


def family_of(name: str, registry: Registry) -> str:
    """Return `vit` or `cnn`, of a backbone's short name or of `timm:<id>`; timm is imported where no entry says it."""
    known = None if name.startswith(PREFIX) else _named(name, registry).family
    return known or family(timm_id(name, registry))


def family(identifier: str) -> str:
    """Return `vit` or `cnn`, of a timm id.

    Raises
    ------
    UserError
        If timm has no such model, with the closest.
    """
    if identifier in ADDED:
        return ADDED[identifier].family
    module = _entrypoint(identifier).__module__.rpartition(".")[2]
    return "vit" if module in VIT_MODULES else "cnn"


def _named(name: str, registry: Registry) -> Named:
    return parse(Named, registry.load("backbone", name), source=registry.entry("backbone", name).source)


def _entrypoint(identifier: str) -> Callable[..., nn.Module]:
    """Return what builds a model of timm."""
    timm = import_timm()
    if not timm.is_model(identifier):
        raise UserError(f"timm has no model '{identifier}': {closest(identifier, timm.list_models())}")
    found: Callable[..., nn.Module] = timm.model_entrypoint(identifier.partition(".")[0])
    return found


def only_stride(identifier: str) -> int | None:
    """Return the stride of a network that has one alone; None where dilation gives others, or a patch does."""
    return ADDED[identifier].stride if identifier in ADDED and family(identifier) == "cnn" else None


def fetch_weights(identifier: str) -> Path:
    """Return the local copy of timm's weights, fetched if need be: from the hub, or from where timm has them.

    Raises
    ------
    MissingWeightsError
        If they cannot be had from here, with the file to fetch and where to put it.
    """
    if identifier in ADDED:
        name = ADDED[identifier].name
        raise MissingWeightsError(f"{name} starts from a file: {hub_file(identifier)}; or from --weights random")
    ensure_importable()
    import huggingface_hub
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError, OfflineModeIsEnabled
    from timm.models._hub import download_cached_file

    repo, name, url = _hub_place(identifier)
    huggingface_hub.utils.logging.set_verbosity_error()  # its retries, line by line
    try:
        if url:
            return Path(download_cached_file(url, check_hash=True))
        return Path(huggingface_hub.hf_hub_download(repo, name))
    except (LocalEntryNotFoundError, OfflineModeIsEnabled, HfHubHTTPError, OSError, RuntimeError) as error:
        raise MissingWeightsError(
            f"the model hub cannot be reached ({type(error).__name__}): fetch {hub_file(identifier)} "
            f"on another machine and give it with --weights FILE; or start from --weights random"
        ) from None


def hub_file(identifier: str) -> str:
    """Return where timm's weights are found, in words; nothing is fetched.

    Raises
    ------
    UserError
        If timm has none.
    """
    if identifier in ADDED:
        return f"{ADDED[identifier].weights}, to be given with --weights {ADDED[identifier].name}=FILE"
    repo, name, url = _hub_place(identifier)
    return url or f"{name} of the hub's repository {repo}"


def _hub_place(identifier: str) -> tuple[str, str, str]:
    """Return repository and file of timm's weights in the hub; an address instead of weights that are not there."""
    cfg = import_timm().get_pretrained_cfg(identifier)
    if cfg is None or not (cfg.hf_hub_id or cfg.url):
        raise MissingWeightsError(f"timm has no weights for '{identifier}': --weights random or a file")
    repo = cfg.hf_hub_id if "/" in (cfg.hf_hub_id or "") and "." in cfg.hf_hub_id else f"timm/{identifier}"
    return repo, cfg.hf_hub_filename or "model.safetensors", "" if cfg.hf_hub_id else cfg.url


def import_timm() -> Any:
    """Return timm, which takes seconds to import, with our own networks among its models."""
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    ensure_importable()
    import timm

    for identifier, added in ADDED.items():
        if not timm.is_model(identifier):
            timm.models.register_model(added.create)
    return timm
