"""The harness's side: images to run on, cells planned as `harness run` plans them, stages run as its workers do."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

from benchmarks.row import Setting, seconds
from harness.data.toy import Toy
from harness.data.voc import VOC_CLASSES
from harness.inputs import Inputs
from harness.method import Method
from harness.registry import Registry
from harness.results.record import Record
from harness.results.store import Artefact, Store
from harness.run.cluster import connect
from harness.run.plan import Plan, plan_cells
from harness.run.schedule import Options, Scheduler
from harness.run.worker import Outcome, run_node
from harness.spec import Grid, expand
from harness.stages import Node


class Drawn(Toy):
    """Images as the toy dataset's, as large as VOC's, with its classes, splits and folders."""

    name = "drawn"
    classes = VOC_CLASSES
    sides: ClassVar[tuple[int, int]] = (375, 500)
    sizes: ClassVar[dict[str, int]] = {"train_aug": 256, "train": 64, "val": 128}


class Few(Drawn):
    """As few as a test needs."""

    sides: ClassVar[tuple[int, int]] = (60, 90)
    sizes: ClassVar[dict[str, int]] = {"train_aug": 8, "train": 4, "val": 4}


def plan(at: Setting, name: str, **grid: Any) -> Plan:
    """Plan a grid over the dataset, with results in a folder of its own."""
    registry = Registry()
    settings = {"protocol.label_source": "masks", **grid.pop("set", {})}
    wanted = Grid(datasets=(at.dataset,), set=settings, **{"weights": "random", **grid})
    store = at.folder / name
    Store(store, create=True)
    return plan_cells(expand([wanted], registry), Inputs(registry, store, at.root))


def store_of(planned: Plan) -> Store:
    """Return the results folder of a plan."""
    return Store(Path(planned.locations.store))


def run_stage(planned: Plan, node: Node, at: Setting) -> Artefact:
    """Run a stage in this process, and whatever it reads that is not there, as a worker does."""
    store = store_of(planned)
    for key in node.parents.values():
        if not store.artefact(planned.nodes[key].stage, key):
            run_stage(planned, planned.nodes[key], at)
    outcome = run_node(node, planned.locations_of(node), at.device, at.threads)
    assert outcome.status == "done", outcome
    return store.need(node.stage, node.key)


def the_stage(planned: Plan, stage: str, split: str = "") -> Node:
    """Return the one stage of a kind, on a split where there are several."""
    (found,) = [node for node in nodes_of(planned, stage) if node.label.endswith(split)]
    return found


def nodes_of(planned: Plan, stage: str) -> list[Node]:
    """Return all stages of a kind."""
    return [node for node in planned.nodes.values() if node.stage == stage]


def method_of(planned: Plan) -> Method:
    """Return the method of a plan's one cell."""
    spec = planned.cells[0].cell.spec
    method_class: type[Method] = Registry().load("method", spec.method)
    return method_class(method_class.Params.model_validate(spec.params))


class Silent:
    """A view for a scheduler that shows nothing, and remembers whether anything failed."""

    def started(self, node: Node) -> None:
        pass

    def progressed(self, node: Node, progress: dict[str, Any]) -> None:
        pass

    def ended(self, node: Node, outcome: Outcome, seconds: float) -> None:
        assert outcome.status == "done", outcome

    def recorded(self, record: Record) -> None:
        pass

    def said(self, message: str) -> None:
        raise AssertionError(message)


def schedule(planned: Plan, at: Setting, resources: Mapping[str, float] | None = None) -> None:
    """Run what a plan still needs, on Ray's workers, with `--resources` as the command takes them."""
    store = store_of(planned)
    with store.in_use():
        Scheduler(planned, store, Options(device=at.device, resources=resources or {}), Silent()).run()


def start_ray(at: Setting) -> float:
    """Start Ray, unless a row before has; return how long the start took, in seconds."""
    if at.ray_seconds is None:
        at.ray_seconds, _ = seconds(lambda: at.stack.enter_context(connect(None)))
    return at.ray_seconds


def forget(planned: Plan, *nodes: Node) -> None:
    """Remove what stages have made, and the records, so that they run again."""
    store = store_of(planned)
    for node in nodes:
        shutil.rmtree(store.root / "artefacts" / node.stage / node.key, ignore_errors=True)
    for cell in planned.cells:
        (store.root / "records" / f"{cell.key}.json").unlink(missing_ok=True)
