"""What to run: cells of the grid, and how a grid expands to cells."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping, Sequence
from fnmatch import fnmatch
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field

from harness.cell import Cell, RunSpec, weights_of
from harness.data.base import Dataset
from harness.deeplab.recipe import Recipe, load_recipe
from harness.errors import HarnessError, UserError, closest
from harness.method import Method, Refiner
from harness.protocol import VERIFICATION, VERIFIER, Names, Protocol, as_tuple
from harness.registry import Registry
from harness.strict import Frozen, canonical, parse, read_yaml


def _seed(value: Any) -> Any:
    """Return a seed; 0-2 is not a number, though pydantic takes it for -2."""
    if isinstance(value, str) and not value.strip().isdecimal():
        raise ValueError("expected whole numbers from 0 up, as 0,1,2")
    return value


INPUT = "input"  # the owner of settings for every plugin that has them: files and folders that they need
Seed = Annotated[int, BeforeValidator(_seed), Field(ge=0)]
Seeds = Annotated[tuple[Seed, ...], BeforeValidator(as_tuple), Field(min_length=1)]
Some = Annotated[Names, Field(min_length=1)]


class Grid(Frozen):
    """A grid of cells, as an experiment's YAML or the command line gives it.

    `set` holds for every cell; `each` multiplies the grid, once for every set of settings in it, which may have a name
    that the rows of its cells have in tables; `resources` say what stages take, as `fit.gpus: 0.5`.
    """

    name: str = ""
    methods: Some
    backbones: Some = ("vit_s16",)
    datasets: Some = ("toy",)
    weights: str | None = None
    checkpoint: str | None = None
    protocols: Some = ("strict",)
    refine: Names = ()
    verify: Names = ()
    verify_weights: str | None = None
    seeds: Seeds = (0,)
    set: dict[str, Any] = {}
    each: dict[str, dict[str, Any]] | tuple[dict[str, Any], ...] = ({},)
    limit: int | None = Field(None, ge=1)
    resources: dict[str, float] = {}


class Cost(Frozen):
    """What an experiment takes: GPU hours, GiB of results, and how that is known."""

    gpu_hours: float
    disk_gib: float
    basis: str


class Experiment(Frozen):
    """A named set of grids, the table of its results, and what it costs.

    The scores to expect are those of `configs/published` that name the experiment.
    """

    summary: str
    run: tuple[Grid, ...]
    report: Literal["comparison", "sensitivity", "foreground"] = "comparison"
    cost: Cost | None = None

    @property
    def grids(self) -> list[Grid]:
        """The grids, multiplied by their `each`."""
        return [
            grid.model_copy(update={"name": name, "set": grid.set | settings, "each": ({},)})
            for grid in self.run
            for name, settings in (
                grid.each.items() if isinstance(grid.each, dict) else [(grid.name, one) for one in grid.each]
            )
        ]


def experiment(registry: Registry, name: str) -> Experiment:
    """Return a named experiment, or that of a YAML file."""
    path = Path(name)
    source = path if path.suffix in (".yaml", ".yml") else registry.entry("experiment", name).source
    return parse(Experiment, read_yaml(source), source=source)


def expand(grids: Sequence[Grid], registry: Registry, asked: Mapping[str, Any] | None = None) -> list[Cell]:
    """Return the cells of some grids, in a stable order, without repeats.

    Each setting that was asked for must fit one of the grids; None asks for all that stand in them. Any other falls
    away where its method is not run.

    Raises
    ------
    UserError
        For an unknown name or key, or a value of the wrong type.
    """
    cells: dict[str, Cell] = {}
    keys = [*(asked if asked is not None else [key for grid in grids for key in grid.set])]
    _must_fit(keys, grids, registry)
    for grid in grids:
        if grid.checkpoint and len(grid.seeds) > 1:
            raise UserError("--checkpoint is one trained model, which no seed changes: name one of --seeds")
        methods = registry.select("method", grid.methods)
        axes = itertools.product(grid.datasets, grid.protocols, methods, grid.backbones, grid.seeds)
        for dataset, name, method, backbone, seed in axes:
            for refine, verify in itertools.product(grid.refine or (None,), grid.verify or (None,)):
                chosen = {field: value for field, value in (("refine", refine), ("verify", verify)) if value}
                protocol = _protocol(registry, name, dataset, chosen, grid.set)
                cell = _cell(grid, registry, dataset, protocol, method, backbone, seed)
                apart = [cell.spec.model_dump(mode="json"), cell.weights, cell.checkpoint, cell.verify_weights]
                cells.setdefault(canonical(apart), cell)
    for name in (key.partition(".")[2] for key in keys if key.startswith(f"{INPUT}.")):
        if not any(name in cell.spec.params or name in (cell.spec.refiner or ()) for cell in cells.values()):
            raise UserError(f"--input {name}: no method or refiner of this run takes it")
    return list(cells.values())


def _protocol(
    registry: Registry, name: str, dataset: str, asked: Mapping[str, str], assignments: Mapping[str, Any]
) -> Protocol:
    """Return a named protocol with the changes of a grid, and with the dataset's splits where it names none."""
    entry = registry.entry("protocol", name)
    base = parse(Protocol, {"name": name, **registry.load("protocol", name)}, source=entry.source)
    changes = _assign(base.model_dump(), "protocol", assignments) | dict(asked)
    dataset_class: type[Dataset] = registry.load("dataset", dataset)
    changes["label_source"] = changes["label_source"] or dataset_class.label_source
    changes["fit_split"] = changes["fit_split"] or dataset_class.fit_split
    changes["eval_splits"] = changes["eval_splits"] or dataset_class.eval_splits
    changes["mask_split"] = changes.get("mask_split") or changes["fit_split"]
    return parse(Protocol, changes, where="--set protocol")


def _assign(values: dict[str, Any], owner: str, assignments: Mapping[str, Any]) -> dict[str, Any]:
    """Change values by the assignments to an owner, `owner.key` or `owner.key.inner`."""
    for key, value in assignments.items():
        whose, *path = key.split(".")
        if whose == owner:
            target = values
            for part in path[:-1]:
                target = target.setdefault(part, {})
            target[path[-1]] = value
    return values


def _cell(
    grid: Grid, registry: Registry, dataset: str, protocol: Protocol, method: str, backbone: str, seed: int
) -> Cell:
    method_class: type[Method] = registry.load("method", method)
    dataset_class: type[Dataset] = registry.load("dataset", dataset)
    refiner_settings = _refiner_settings(registry, protocol.refine, grid.set)
    params, origins = settings_of(method_class, dataset_class, grid.set)
    origins |= {f"{protocol.refine.partition(':')[0]}.{key}": "--set" for key in refiner_settings or ()}
    folder = None
    if method_class.external and params["folder"]:
        folder = Path(params["folder"]).absolute()
        params["folder"] = folder.name  # the content is in the keys; where it lies is nobody's business
    origins |= {key: "--set" for key in grid.set if _concerns(key, protocol)}
    checkpoint = grid.checkpoint if grid.checkpoint and method_class.families else ""
    weights, without = weights_of(grid.weights or ("random" if checkpoint else dataset_class.weights), backbone)
    if not grid.weights and not checkpoint:
        origins["weights"] = f"dataset {dataset}"
    if "protocol.label_source" not in grid.set and not registry.load("protocol", protocol.name).get("label_source"):
        origins["label_source"] = f"dataset {dataset}"
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
        checkpoint=bool(checkpoint),
        verifier=verifier_config(registry, protocol, grid.set),
        parent=_parent(registry, method_class, dataset_class, grid.set, origins),
        refiner=refiner_settings,
    )
    skip = broken = ""
    try:
        skip = _why_not(method_class(method_class.Params(**params)), spec, registry)
        skip = skip or without * bool(method_class.families)
    except HarnessError:
        raise
    except Exception as error:  # a plugin's own
        broken = f"{type(error).__name__}: {error}"
    verify_weights = grid.verify_weights or "" if spec.verifier else ""
    return Cell(spec, weights, origins, skip, folder, checkpoint, grid.resources, verify_weights, broken)


def _ancestors(registry: Registry, methods: Sequence[str]) -> list[str]:
    """Return the methods that some methods start from."""
    parents = [registry.load("method", name).parent for name in methods]
    found = [parent for parent in parents if parent]
    return [*found, *_ancestors(registry, found)] if found else []


def _must_fit(keys: Iterable[str], grids: Sequence[Grid], registry: Registry) -> None:
    """See that each setting is one of a method, a parent, a refiner, the protocol or the verifier of some grid."""
    methods = [name for grid in grids for name in registry.select("method", grid.methods)]
    known = [*dict.fromkeys([*methods, *_ancestors(registry, methods), *registry.names("refiner")])]
    for key in keys:
        owner = key.partition(".")[0]
        if owner not in ("protocol", VERIFIER, INPUT) and not any(fnmatch(name, owner) for name in known):
            hint = closest(owner, [*known, "protocol", VERIFIER])
            raise UserError(f"--set {key}: no such method in this run: {hint}")


def _parent(
    registry: Registry,
    method: type[Method],
    dataset: type[Dataset],
    assignments: Mapping[str, Any],
    origins: dict[str, str],
) -> dict[str, Any] | None:
    """Return the method that a method starts from, with its parameters and its own parent; add where they came from."""
    if not method.parent:
        return None
    parent: type[Method] = registry.load("method", method.parent)
    params, own = settings_of(parent, dataset, assignments)
    origins.update({f"{parent.name}.{key}": origin for key, origin in own.items()})
    before = _parent(registry, parent, dataset, assignments, origins)
    return {"method": parent.name, "params": params, "parent": before}


def _refiner_settings(registry: Registry, refine: str, assignments: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return the settings of a cell's refiner that are assigned, after checking them; None where there are none."""
    name = refine.partition(":")[0]
    fields = registry.load("refiner", name).Params.model_fields if name != "none" else {}
    settings = {}
    for assignment, value in assignments.items():
        owner, _, key = assignment.partition(".")
        if owner == name or (owner == INPUT and key in fields):
            settings[key] = value
    config = refiner_config(registry, refine, settings)
    return {key: config["params"].get(key, value) for key, value in settings.items()} if config and settings else None


def settings_of(
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
        meant = owner == method.name or (key in fields and (owner == INPUT or fnmatch(method.name, owner)))
        if owner != "protocol" and meant:
            values[key] = value
            origins[key] = "--set"
    params = parse(method.Params, values, where=f"--set {method.name}")
    return params.model_dump(mode="json"), origins


def _concerns(assignment: str, protocol: Protocol) -> bool:
    """Return whether an assignment is to the protocol or to its verifier, if it has one."""
    owner, field = assignment.split(".")[:2]
    verifies = protocol.verify != "none"
    return (owner == "protocol" and (verifies or field not in VERIFICATION)) or (owner == VERIFIER and verifies)


def verifier_config(registry: Registry, protocol: Protocol, assignments: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return the recipe of the protocol's verification with the changes of a grid, or None.

    Raises
    ------
    UserError
        If there is no such recipe, or a change does not fit it.
    """
    if protocol.verify == "none":
        return None
    name = protocol.verify.partition(":")[2]
    changes = _assign(load_recipe(name, registry).model_dump(), VERIFIER, assignments)
    if protocol.verify_init:
        changes["init"] = protocol.verify_init
    recipe = parse(Recipe, changes, where=f"--set {VERIFIER}")
    refiner_config(registry, recipe.refine)
    return recipe.model_dump(mode="json", exclude={"summary", "source"})


def _why_not(method: Method, spec: RunSpec, registry: Registry) -> str:
    if method.families:
        from harness.timm_models import family_of, only_stride, timm_id

        have = family_of(spec.backbone, registry)
        if have not in method.families:
            return f"{method.name} takes {' or '.join(method.families)} backbones, {spec.backbone} is a {have}"
        if (only := only_stride(timm_id(spec.backbone, registry))) and spec.params.get("stride", only) != only:
            return f"{spec.backbone} has a stride of {only}: --set '*.stride={only}'"
    if spec.protocol.background.kind == "model" and not method.background:
        return f"the protocol wants a background from the model, {method.name} has none"
    if spec.protocol.checkpoint.kind == "val_image_labels" and method.families and not method.predicts_presence:
        return f"the protocol chooses the epoch by predicted image labels, {method.name} predicts none"
    if method.output == "labels" and spec.protocol.refine != "none":
        refiner: type[Refiner] = registry.load("refiner", spec.protocol.refine.partition(":")[0])
        if refiner.refines == "maps":
            return f"{refiner.name} refines maps, and {method.name} gives finished masks"
    return method.skip(spec) or ""


def refiner_config(registry: Registry, refine: str, assigned: Mapping[str, Any] | None = None) -> dict[str, Any] | None:
    """Return name, version and settings of a refiner, `NAME`, `NAME:PRESET` or `NAME:BACKBONE`; None for `none`.

    Assigned settings win over those of the preset.

    Raises
    ------
    UserError
        If there is no such refiner or preset, or none is named and not every setting has a default.
    """
    if refine == "none":
        return None
    name, _, preset = refine.partition(":")
    refiner: type[Refiner] = registry.load("refiner", name)
    settings, source = {}, None
    if preset and refiner.trained and preset not in registry.names(name):
        settings = {"backbone": preset}
    elif preset:
        settings, source = registry.load(name, preset), registry.entry(name, preset).source
    elif any(field.is_required() for field in refiner.Params.model_fields.values()):
        presets = ", ".join(f"{name}:{preset}" for preset in registry.names(name))
        raise UserError(f"refiner '{name}' needs a preset: {presets or f'a YAML file in a folder named {name}'}")
    if assigned:
        settings, source = {**settings, **assigned}, None
    params = parse(refiner.Params, settings, where=f"refiner {refine}", source=source).model_dump(mode="json")
    keyed = {key: value for key, value in params.items() if key not in ("summary", "source")}
    if keyed["align_corners"] is None:  # keys are those from before there was a choice
        del keyed["align_corners"]
    return {"name": name, "version": registry.source_version("refiner", name), "params": keyed}
