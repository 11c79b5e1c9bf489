"""The stages of a run. Each is a function: (its part of the spec, its parents' artefacts, a workspace) → an artefact.

A stage knows nothing of Ray, of the command line, or of tables. What it reads of the spec is its `config`; the key of
its artefact follows from that, its version and its parents' keys, and from nothing else.
"""

from __future__ import annotations

import importlib
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache, cached_property
from pathlib import Path
from typing import Any

from harness.data.base import Dataset
from harness.method import Method
from harness.precision import autocast
from harness.registry import Registry
from harness.results.store import Artefact, Store
from harness.stages.configs import ExternalScoreConfig, ScoreConfig
from harness.strict import digest

SHARD = 256  # images per shard


def _always(config: Any) -> bool:
    return True


def _never(config: Any) -> bool:
    return False


@dataclass(frozen=True)
class Stage:
    """A row of the table of stages.

    Attributes
    ----------
    name : str
        Of the stage and of the module with its function.
    version : int
        Bumped when its code gives other numbers; what was computed before is then computed again.
    parents : tuple of str
        What it reads, by the role that an artefact has for it: the name of a stage, with `/*` where it reads one of
        every shard.
    runs_model : bool
        Whether it runs a network: on a GPU where there is one, on many cores elsewhere.
    opens_images : callable
        Whether it opens image files, by its configuration.
    sees_ground_truth : callable
        Whether it is given the dataset's folder, by its configuration.
    own_process : bool
        Whether it always needs a fresh process.
    unit : str
        What its progress counts.
    """

    name: str
    version: int
    parents: tuple[str, ...]
    runs_model: bool = False
    opens_images: Callable[[Any], bool] = _never
    sees_ground_truth: Callable[[Any], bool] = _never
    own_process: bool = False
    unit: str = "images"

    def role(self, parent: Node) -> str:
        """Return what the artefact of a parent is called among this stage's parents."""
        return f"{parent.stage}/{parent.config.shard}" if f"{parent.stage}/*" in self.parents else parent.stage


_TABLE = (  # in the order in which they are started: what ends a cell goes first
    Stage("evaluate", 2, ("mask", "segment", "labels"), sees_ground_truth=_always),
    Stage("curve", 1, ("score", "labels"), sees_ground_truth=_always),
    Stage(
        "mask", 1, ("score", "labels", "curve", "fit_refiner"),
        opens_images=lambda config: config.refine is not None,
    ),
    Stage("labels", 1, (), sees_ground_truth=_always),
    Stage("segment", 1, ("verify", "labels"), runs_model=True, opens_images=_always),
    Stage(
        "score", 1, ("fit", "select", "labels"), runs_model=True,
        opens_images=lambda config: isinstance(config, ScoreConfig),
        sees_ground_truth=lambda config: isinstance(config, ExternalScoreConfig) or config.oracle,
    ),
    Stage(
        "select", 1, ("fit", "labels"), runs_model=True, opens_images=_always,
        sees_ground_truth=lambda config: config.rule == "val_pixels",
    ),
    Stage("fit_refiner", 1, ("labels", "pseudo/*"), runs_model=True, opens_images=_always, unit="steps"),
    Stage("fit", 1, ("labels", "parent"), runs_model=True, opens_images=_always, unit="steps"),
    Stage(  # mmengine admits one training per process
        "verify", 1, ("labels", "mask/*"), runs_model=True, opens_images=_always, own_process=True, unit="steps"
    ),
)  # fmt: skip
STAGES = {stage.name: stage for stage in _TABLE}
ORDER = {stage.name: place for place, stage in enumerate(_TABLE)}


@dataclass(frozen=True)
class Node:
    """A stage to run once.

    Attributes
    ----------
    stage : str
    config : Config
        All that can change what it makes, beside its parents.
    parents : dict
        Keys of the artefacts that it reads, by role: a stage's name, or `mask/3` where there is one of each shard.
    label : str
        What people call it; not part of the key.
    resources : dict
        What its method and experiment ask for it, by `stage.quantity`; not part of the key.
    """

    stage: str
    config: Any
    parents: dict[str, str]
    label: str = ""
    resources: dict[str, float] = field(default_factory=dict)

    @cached_property
    def key(self) -> str:
        """The key of its artefact."""
        return digest([self.stage, STAGES[self.stage].version, self.config.model_dump(mode="json"), self.parents])


@dataclass(frozen=True)
class Locations:
    """Where things are on this machine; never part of a key.

    Attributes
    ----------
    store : str
    roots : dict
        Folders by name, of datasets and of scores that were brought along; empty for a stage that must not reach
        ground truth.
    weights : dict
        Files of weights, and those that settings name, by sha256.
    plugins : tuple of str
    image_paths : tuple of str
        The images of the stage's split, or of its shard, in order.
    """

    store: str
    roots: dict[str, str]
    weights: dict[str, str] = field(default_factory=dict)
    plugins: tuple[str, ...] = ()
    image_paths: tuple[str, ...] = ()


@dataclass
class Task:
    """A node at work: what a stage function is handed.

    Attributes
    ----------
    node : Node
    locations : Locations
    device : str
        `cpu` or `cuda`.
    workers : int
        Threads that may load images beside it.
    work : Path
        Scratch that outlives a crash.
    room : int
        Bytes that it may hold for its speed alone.
    facts : dict
        What the manifest says of the artefact beside where it came from.
    """

    node: Node
    locations: Locations
    device: str
    workers: int
    work: Path
    room: int = 0
    facts: dict[str, Any] = field(default_factory=dict)
    _reported: float = 0.0
    _start: tuple[float, int] | None = None  # when progress was first written, and how much was done by then

    @property
    def out(self) -> Path:
        """The folder that becomes the artefact."""
        return self.work / "out"

    @property
    def config(self) -> Any:
        """The node's part of the spec, see `harness.stages.configs`."""
        return self.node.config

    @cached_property
    def registry(self) -> Registry:
        """The plugins of this run."""
        return _registry(self.locations.plugins)

    def parent(self, stage: str, role: str = "") -> Artefact:
        """Return the artefact of a parent; its role is its stage's name, unless it is another."""
        return self.store.need(stage, self.node.parents[role or stage])

    def parents(self, stage: str, role: str = "") -> list[Artefact]:
        """Return the artefacts of a parent that comes in shards, in their order."""
        shards = [key for name, key in self.node.parents.items() if name.rpartition("/")[0] == (role or stage)]
        return [self.store.need(stage, key) for key in shards]

    @cached_property
    def store(self) -> Store:
        """The results folder."""
        return Store(Path(self.locations.store))

    @cached_property
    def image_paths(self) -> list[Path]:
        """The images of the split, or of its shard, in the order of its labels."""
        return [Path(path) for path in self.locations.image_paths]

    def dataset(self) -> Dataset:
        """Return the dataset, ground truth and all; only for stages that may see it."""
        name = self.config.dataset
        return self.registry.load("dataset", name)(Path(self.locations.roots[name]))

    def method(self) -> Method:
        """Return the method with its parameters."""
        return method_of(self.registry, self.config.method, self.config.params)

    def autocast(self, precision: str) -> Any:
        """Return the context in which a model runs."""
        return autocast(self.device, precision)

    def progress(self, done: int, total: int, notes: dict[str, Any] | None = None) -> None:
        """Write how far this is, in images, or in a training's steps; cheap enough for every image."""
        now = time.monotonic()
        if total and self._start is None:
            self._start = now, done
        if now - self._reported < 0.3 and done < total:
            return
        self._reported = now
        since, start = self._start or (now, 0)
        progress = {
            "what": f"{self.node.stage} {self.node.label}", "done": done, "total": total, "notes": notes or {},
            "rate": (done - start) / (now - since) if now > since else None,
            "unit": STAGES[self.node.stage].unit,
        }  # fmt: skip
        self.store.write_progress(self.node.key, progress)


def method_of(registry: Registry, name: str, params: dict[str, Any]) -> Method:
    """Return a method with its parameters; those that are not given are its defaults."""
    method_class: type[Method] = registry.load("method", name)
    return method_class(method_class.Params.model_validate(params))


@cache
def _registry(plugins: tuple[str, ...]) -> Registry:
    """Return the plugins of a run; looking for them takes longer than a small stage, so a process looks once."""
    return Registry(plugins)


def function(stage: str) -> Callable[[Task], None]:
    """Return the function of a stage."""
    return importlib.import_module(f"harness.stages.{stage}").run
