"""The only door to Ray: a queue of ready stages, a lease before each submission, failures kept to their cells."""

from __future__ import annotations

import json
import logging
import os
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol

from harness.errors import EnvironmentUnfitError
from harness.lease import Leases
from harness.plan import Plan, PlannedCell, is_done
from harness.record import record_of, record_of_failure
from harness.stages import Node
from harness.store import Store
from harness.worker import Outcome, run_node

LOST_WORKER_RETRIES = 2
HEARTBEAT_SECONDS = 5.0
_RANK = {
    "evaluate": 0,
    "curve": 1,
    "mask": 2,
    "labels": 3,
    "score": 4,
    "select": 5,
    "fit": 6,
}  # what ends a cell first
_MODEL_STAGES = ("fit", "select", "score")


class View(Protocol):
    """Where progress is shown."""

    def started(self, node: Node) -> None:
        """Show that a stage began."""

    def progressed(self, node: Node, progress: dict[str, Any]) -> None:
        """Show how far a stage is."""

    def ended(self, node: Node, outcome: Outcome, seconds: float) -> None:
        """Show how a stage ended."""

    def recorded(self, record: dict[str, Any]) -> None:
        """Show the record of a cell that ended."""

    def said(self, message: str) -> None:
        """Show something that a person should know."""


@dataclass(frozen=True)
class Options:
    """How to run, as opposed to what.

    Attributes
    ----------
    device : {"auto", "cpu", "cuda"}
    threads : int or None
        Cores per training or scoring stage; None takes half of the machine's.
    max_parallel : int or None
        At most so many stages at once.
    """

    device: str = "auto"
    threads: int | None = None
    max_parallel: int | None = None


@dataclass
class _Running:
    node: Node
    since: float
    cpus: int
    gpus: int


class Scheduler:
    """Runs what a plan still needs, and writes a record for each cell as it ends.

    Parameters
    ----------
    plan : Plan
    store : Store
    options : Options
    view : View
    """

    def __init__(self, plan: Plan, store: Store, options: Options, view: View) -> None:
        self.plan = plan
        self.store = store
        self.options = options
        self.view = view
        self.leases = Leases(store.root / "leases")
        self.waiting = {key: plan.nodes[key] for key in plan.missing(store)}
        self.running: dict[Any, _Running] = {}
        self.failed: dict[str, Outcome] = {}
        self.attempts: Counter[str] = Counter()
        self.open = [planned for planned in plan.cells if not is_done(store, planned)]
        self._heard = 0.0

    def run(self) -> None:
        """Run everything; return when every cell has its record.

        Raises
        ------
        EnvironmentUnfitError
            If Ray does not start, or a GPU was asked for and there is none.
        """
        self.leases.sweep()
        self._settle()
        if not self.waiting:
            return
        with _ray(self.options) as ray:
            self.ray = ray
            self.reused = ray.remote(max_retries=0)(run_node)
            self.fresh = ray.remote(max_retries=0, max_calls=1)(run_node)
            self.total = self._total()
            try:
                while self.waiting or self.running:
                    self._submit()
                    self._wait()
                    self._settle()
            finally:
                for key in list(self.leases.held):
                    self.leases.release(key)

    def _total(self) -> Counter[str]:
        have = self.ray.cluster_resources()
        total = Counter({"CPU": int(have.get("CPU", 1)), "GPU": int(have.get("GPU", 0))})
        if self.options.device == "cpu":
            total["GPU"] = 0
        if self.options.device == "cuda" and not total["GPU"]:
            raise EnvironmentUnfitError("--device cuda, but Ray sees no GPU: check the driver, or --device cpu")
        return total

    def _submit(self) -> None:
        """Start ready stages, those that end a cell first, as long as cores and GPUs are free."""
        pending = self._pending()
        ready = [node for node in self.waiting.values() if pending.isdisjoint(node.parents.values())]
        for node in sorted(ready, key=lambda node: (_RANK[node.stage], _cost(node))):
            cpus, gpus = self._resources(node)
            busy_cpus = sum(run.cpus for run in self.running.values())
            busy_gpus = sum(run.gpus for run in self.running.values())
            if self.running and (busy_cpus + cpus > self.total["CPU"] or busy_gpus + gpus > self.total["GPU"]):
                continue
            if self.options.max_parallel and len(self.running) >= self.options.max_parallel:
                return
            if not self.leases.acquire(node.key):
                continue
            del self.waiting[node.key]
            if self.store.artefact(node.stage, node.key):  # another scheduler was first
                self.leases.release(node.key)
                continue
            foreign = self.plan.locations.plugins and node.stage in _MODEL_STAGES
            function = self.fresh if gpus or foreign else self.reused
            device = "cuda" if gpus else "cpu"
            task = function.options(num_cpus=cpus, num_gpus=gpus)
            reference = task.remote(node, self.plan.locations_of(node), device, cpus)
            self.running[reference] = _Running(node, time.monotonic(), cpus, gpus)
            self.view.started(node)

    def _resources(self, node: Node) -> tuple[int, int]:
        if node.stage not in _MODEL_STAGES:
            return 1, 0
        threads = self.options.threads or max(1, self.total["CPU"] // 2)
        return min(threads, self.total["CPU"]), min(1, self.total["GPU"])

    def _pending(self) -> set[str]:
        return {*self.waiting, *(run.node.key for run in self.running.values())}

    def _wait(self) -> None:
        """Wait for a stage to end, show progress meanwhile, and deal with how stages ended."""
        if not self.running:
            time.sleep(0.5)  # another scheduler holds what is left
            for key, node in list(self.waiting.items()):
                if self.store.artefact(node.stage, key):
                    del self.waiting[key]
            return
        ended, _ = self.ray.wait(list(self.running), timeout=0.5)
        for reference in ended:
            run = self.running.pop(reference)
            outcome = self._outcome(reference)
            self.leases.release(run.node.key)
            self._deal_with(run.node, outcome)
            self.view.ended(run.node, outcome, time.monotonic() - run.since)
        for run in self.running.values():
            progress = _read_progress(self.store, run.node)
            if progress:
                self.view.progressed(run.node, progress)
        if time.monotonic() - self._heard > HEARTBEAT_SECONDS:
            self._heard = time.monotonic()
            self.leases.heartbeat()

    def _outcome(self, reference: Any) -> Outcome:
        try:
            return self.ray.get(reference)
        except self.ray.exceptions.OutOfMemoryError as error:
            return Outcome("lost", f"out of memory: {_first_line(error)}")
        except (self.ray.exceptions.WorkerCrashedError, self.ray.exceptions.NodeDiedError) as error:
            return Outcome("lost", f"the worker died: {_first_line(error)}")
        except self.ray.exceptions.RayError as error:
            return Outcome("failed", _first_line(error), str(error)[-2000:])

    def _deal_with(self, node: Node, outcome: Outcome) -> None:
        self.attempts[node.key] += 1
        if outcome.status == "done":
            return
        if outcome.status == "corrupt" and outcome.corrupt and self.attempts[node.key] <= LOST_WORKER_RETRIES:
            stage, key = outcome.corrupt
            self.view.said(f"{outcome.reason}; it is computed again")
            self.store.discard(stage, key)
            self.waiting[key] = self.plan.nodes[key]
            self.waiting[node.key] = node
        elif outcome.status == "lost" and self.attempts[node.key] <= LOST_WORKER_RETRIES:
            self.view.said(f"{node.stage} {node.label}: {outcome.reason}; trying again")
            self.waiting[node.key] = node
        else:
            self.failed[node.key] = outcome

    def _settle(self) -> None:
        """Write the record of every cell that has ended, and drop stages that nobody needs any more."""
        still_open = []
        pending = self._pending()
        for planned in self.open:
            record = self._record(planned, pending)
            if record is None:
                still_open.append(planned)
            else:
                self.store.write_record(record)
                self.view.recorded(record)
        if len(still_open) < len(self.open):
            self.open = still_open
            needed = {key for planned in still_open for key in planned.nodes}
            self.waiting = {key: node for key, node in self.waiting.items() if key in needed}

    def _record(self, planned: PlannedCell, pending: set[str]) -> dict[str, Any] | None:
        if planned.cell.skip:
            return record_of_failure(planned, "skipped", planned.cell.skip)
        for key in planned.nodes:
            if key in self.failed:
                outcome, node = self.failed[key], self.plan.nodes[key]
                status = "oom" if outcome.status == "oom" else "failed"
                return record_of_failure(planned, status, outcome.reason, node.stage, outcome.tail)
        if not pending.isdisjoint(planned.nodes):
            return None
        return record_of(planned, self.plan, self.store)


@contextmanager
def _ray(options: Options) -> Iterator[Any]:
    """Start Ray on this machine, quietly, and stop it."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    import ray
    import ray.exceptions

    if ray.is_initialized():
        yield ray
        return
    try:
        ray.init(
            address="local",
            include_dashboard=False,
            log_to_driver=False,
            logging_level=logging.ERROR,
            object_store_memory=100 << 20,
        )
    except (RuntimeError, ValueError, OSError, ConnectionError) as error:
        raise EnvironmentUnfitError(f"Ray does not start: {_first_line(error)}") from error
    try:
        yield ray
    finally:
        ray.shutdown()


def _cost(node: Node) -> float:
    """Return how long a training takes, in units of its own."""
    params = node.config.get("params", {})
    return params.get("epochs", 0) * params.get("image_size", 0) ** 2


def _read_progress(store: Store, node: Node) -> dict[str, Any] | None:
    try:
        return json.loads((store.work(node.key) / "progress.json").read_text("utf-8"))
    except (FileNotFoundError, ValueError):
        return None


def _first_line(error: BaseException) -> str:
    return str(error).strip().partition("\n")[0][:300]
