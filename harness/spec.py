"""What to run: protocols, cells of the grid, and how a grid expands to cells."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import AfterValidator, BeforeValidator, Field

from harness.data.base import Dataset
from harness.errors import UserError, closest
from harness.method import Method, Refiner
from harness.registry import DATA_KINDS, Registry
from harness.strict import Frozen, canonical, parse, read_yaml


def _rule(*names: str, numeric: Mapping[str, tuple[float, float]]) -> AfterValidator:
    """Return a check of a string: one of `names`, or `key:number` with the number in a range."""
    forms = [*names, *(f"{key}:{low:g}..{high:g}" for key, (low, high) in numeric.items())]

    def check(rule: str) -> str:
        key, _, number = rule.partition(":")
        if rule in names:
            return rule
        try:
            low, high = numeric[key]
            if low <= float(number) <= high:
                return f"{key}:{float(number):g}"
        except (KeyError, ValueError):
            pass
        raise ValueError(f"expected {' or '.join(forms)}")

    return AfterValidator(check)


def _as_tuple(value: Any) -> Any:
    if isinstance(value, str):
        return tuple(part.strip() for part in value.split(","))
    return (value,) if isinstance(value, int | float) else value


Gating = Annotated[str, _rule("gt", "none", numeric={"predicted": (0, 1)})]
Background = Annotated[str, _rule("model", numeric={"fixed": (0, 1), "power": (0, 100)})]
Names = Annotated[tuple[str, ...], BeforeValidator(_as_tuple)]
Seeds = Annotated[tuple[int, ...], BeforeValidator(_as_tuple)]


class ClassGating(Frozen):
    """Which classes may appear in a picture's mask, on training splits and on held-out ones.

    `gt`: those of its image labels; `predicted:p`: those that the method predicts with at least probability p; `none`:
    all.
    """

    training: Gating = "gt"
    held_out: Gating = "predicted:0.5"


class Protocol(Frozen):
    """Everything beside the method that moves a score.

    Attributes
    ----------
    name, summary : str
    label_source : {"masks", "xml", "file"}
        Where image-level labels come from.
    background_label : {"always", "masks"}
        Whether every picture counts as showing background, or only those whose mask has some.
    classes : tuple of str
        A subset of the dataset's classes, without the background; empty means all. Pixels of others are ignored.
    fit_split : str or None
        None takes the dataset's own.
    eval_splits : tuple of str
        Empty takes the dataset's own.
    class_gating : ClassGating
    normalisation : {"none", "max", "minmax", "vitpcm"}
        How each class's activation map comes to [0, 1]: divided by its maximum, or stretched from its minimum too.
        Probabilities are left alone, except under `vitpcm`, which stretches them and makes them sum to one again.
    background : str
        For methods without a background of their own: `fixed:x`, or `power:a` for (1 - max)^a. `model` admits only
        methods that have one.
    size : int or None
        Side in pixels at which pictures are scored; None takes the method's own.
    scales : tuple of float
        Of that size; maps are averaged before anything else is done to them.
    flip : bool
        Whether to average over the mirrored picture too.
    align_corners : bool
        Whether resizing score maps to picture size maps corner pixels onto corner pixels.
    refine : str
        `none`, or a refiner, as `crf:vitpcm`.
    checkpoint : {"last"}
        Which epoch's weights are scored.
    precision : {"fp32", "bf16"}
    """

    name: str
    summary: str = ""
    label_source: Literal["masks", "xml", "file"] = "masks"
    background_label: Literal["always", "masks"] = "always"
    classes: Names = ()
    fit_split: str | None = None
    eval_splits: Names = ()
    class_gating: ClassGating = ClassGating()
    normalisation: Literal["none", "max", "minmax", "vitpcm"] = "max"
    background: Background = "fixed:0.4"
    size: int | None = Field(None, ge=16)
    scales: tuple[float, ...] = (1.0,)
    flip: bool = False
    align_corners: bool = False
    refine: str = "none"
    checkpoint: Literal["last"] = "last"
    precision: Literal["fp32", "bf16"] = "fp32"

    def gating(self, split: str, training_splits: Sequence[str]) -> str:
        """Return the gating rule of a split."""
        return self.class_gating.training if split in training_splits else self.class_gating.held_out


class RunSpec(Frozen):
    """One cell of the grid: everything that was asked for, with every default filled in.

    `weights` is `random`, `hub`, `file` or `none`; which file is the record's business, by its hash.
    """

    method: str
    params: dict[str, Any]
    backbone: str
    weights: str
    dataset: str
    protocol: Protocol
    seed: int
    limit: int | None = None

    @property
    def title(self) -> str:
        """Return what people call the cell."""
        parts = [self.method, self.backbone, self.dataset, self.protocol.name, self.protocol.refine, f"s{self.seed}"]
        return "/".join(part for part in parts if part != "none")


class Grid(Frozen):
    """A grid of cells, as an experiment's YAML or the command line gives it."""

    methods: Names
    backbones: Names = ("vit_s16",)
    datasets: Names = ("toy",)
    weights: str | None = None
    protocols: Names = ("strict",)
    refine: Names = ()
    seeds: Seeds = (0,)
    set: dict[str, Any] = {}
    limit: int | None = Field(None, ge=1)


class Experiment(Frozen):
    """A named set of grids."""

    summary: str
    run: tuple[Grid, ...]


@dataclass(frozen=True)
class Cell:
    """A cell with what the plan needs beside its spec.

    Attributes
    ----------
    spec : RunSpec
    weights : str
        Start weights as they were asked for: `random`, `hub`, or a file.
    origins : dict
        Where each setting that is not the method's own default came from.
    skip : str
        Why it makes no sense; empty when it does.
    """

    spec: RunSpec
    weights: str
    origins: dict[str, str]
    skip: str = ""


def experiment(registry: Registry, name: str) -> Experiment:
    """Return a named experiment, or that of a YAML file."""
    path = Path(name)
    source = path if path.suffix in (".yaml", ".yml") else registry.entry("experiment", name).source
    return parse(Experiment, read_yaml(source), source=source)


def parse_assignments(assignments: Sequence[str]) -> dict[str, Any]:
    """Turn `--set` options, `METHOD.KEY=VALUE`, into a mapping; values are read as YAML."""
    values = {}
    for assignment in assignments:
        key, equals, value = assignment.partition("=")
        if not equals or "." not in key:
            raise UserError(f"--set {assignment}: expected METHOD.KEY=VALUE or protocol.KEY=VALUE")
        values[key.strip()] = yaml.safe_load(value)
    return values


def expand(grids: Sequence[Grid], registry: Registry) -> list[Cell]:
    """Return the cells of some grids, in a stable order, without repeats.

    Raises
    ------
    UserError
        For an unknown name or key, or a value of the wrong type.
    """
    cells: dict[str, Cell] = {}
    for grid in grids:
        methods = registry.select("method", grid.methods)
        for key in grid.set:
            owner = key.partition(".")[0]
            if owner != "protocol" and not any(fnmatch(method, owner) for method in methods):
                raise UserError(f"--set {key}: no such method in this run: {closest(owner, [*methods, 'protocol'])}")
        axes = itertools.product(grid.datasets, grid.protocols, methods, grid.backbones, grid.seeds)
        for dataset, name, method, backbone, seed in axes:
            for refine in grid.refine or (None,):
                protocol = _protocol(registry, name, dataset, refine, grid.set)
                cell = _cell(grid, registry, dataset, protocol, method, backbone, seed)
                cells.setdefault(canonical([cell.spec.model_dump(mode="json"), cell.weights]), cell)
    return list(cells.values())


def _protocol(
    registry: Registry, name: str, dataset: str, refine: str | None, assignments: Mapping[str, Any]
) -> Protocol:
    """Return a named protocol with the changes of a grid, and with the dataset's splits where it names none."""
    entry = registry.entry("protocol", name)
    base = parse(Protocol, {"name": name, **registry.load("protocol", name)}, source=entry.source)
    changes: dict[str, Any] = base.model_dump()
    for key, value in assignments.items():
        owner, *path = key.split(".")
        if owner == "protocol":
            target = changes
            for part in path[:-1]:
                target = target.setdefault(part, {})
            target[path[-1]] = value
    if refine:
        changes["refine"] = refine
    dataset_class: type[Dataset] = registry.load("dataset", dataset)
    changes["fit_split"] = changes["fit_split"] or dataset_class.fit_split
    changes["eval_splits"] = changes["eval_splits"] or dataset_class.eval_splits
    return parse(Protocol, changes, where="--set protocol")


def _cell(
    grid: Grid, registry: Registry, dataset: str, protocol: Protocol, method: str, backbone: str, seed: int
) -> Cell:
    method_class: type[Method] = registry.load("method", method)
    dataset_class: type[Dataset] = registry.load("dataset", dataset)
    refiner_config(registry, protocol)
    params, origins = _settings(method_class, dataset_class, grid.set)
    origins |= {key: "--set" for key in grid.set if key.startswith("protocol.")}
    weights = grid.weights or dataset_class.weights
    if not grid.weights:
        origins["weights"] = f"dataset {dataset}"
    if not method_class.families:
        backbone = weights = "none"
    spec = RunSpec(
        method=method,
        params=params,
        backbone=backbone,
        weights=weights if weights in ("random", "hub", "none") else "file",
        dataset=dataset,
        protocol=protocol,
        seed=seed,
        limit=grid.limit,
    )
    return Cell(spec, weights, origins, _why_not(method_class, spec, registry))


def _settings(
    method: type[Method], dataset: type[Dataset], assignments: Mapping[str, Any]
) -> tuple[dict[str, Any], dict[str, str]]:
    """Fill in a method's parameters: flag or experiment before dataset before method default."""
    fields = method.Params.model_fields
    values, origins = {}, {}
    for owner, settings in dataset.settings.items():
        if fnmatch(method.name, owner):
            known = {key: value for key, value in settings.items() if key in fields}
            values.update(known)
            origins.update(dict.fromkeys(known, f"dataset {dataset.name}"))
    for assignment, value in assignments.items():
        owner, _, key = assignment.partition(".")
        if owner != "protocol" and fnmatch(method.name, owner) and (key in fields or owner == method.name):
            values[key] = value
            origins[key] = "--set"
    params = parse(method.Params, values, where=f"--set {method.name}")
    return params.model_dump(mode="json"), origins


def _why_not(method: type[Method], spec: RunSpec, registry: Registry) -> str:
    if method.families:
        from harness.backbones import family

        have = family(spec.backbone, registry)
        if have not in method.families:
            return f"{method.name} takes {' or '.join(method.families)} backbones, {spec.backbone} is a {have}"
    if spec.protocol.background == "model" and not method.background:
        return f"the protocol wants a background from the model, {method.name} has none"
    return method.skip(spec) or ""


def effective_gating(method: type[Method], rule: str) -> str:
    """Return what a gating rule comes to for a method that may not predict presence."""
    return "none" if rule.startswith("predicted") and not method.predicts_presence else rule


def effective_background(method: type[Method], protocol: Protocol) -> str:
    """Return the background rule for a method: its own channel where it has one."""
    return "model" if method.background else protocol.background


def refiner_config(registry: Registry, protocol: Protocol) -> dict[str, Any] | None:
    """Return name, version and settings of the protocol's refiner, or None.

    Raises
    ------
    UserError
        If there is no such refiner or preset, or it needs a preset and none is named.
    """
    if protocol.refine == "none":
        return None
    name, _, preset = protocol.refine.partition(":")
    refiner: type[Refiner] = registry.load("refiner", name)
    settings, source = {}, None
    if preset:
        settings, source = registry.load(name, preset), registry.entry(name, preset).source
    elif name in DATA_KINDS:
        raise UserError(f"refiner '{name}' needs a preset: {', '.join(f'{name}:{p}' for p in registry.names(name))}")
    params = parse(refiner.Params, settings, where=f"refiner {protocol.refine}", source=source).model_dump(mode="json")
    keyed = {key: value for key, value in params.items() if key not in ("summary", "source")}
    return {"name": name, "version": registry.source_version("refiner", name), "params": keyed}
