"""A queue of ready stages, a lease before each submission, failures kept to their cells."""

from __future__ import annotations

import time
import uuid
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from statistics import fmean
from typing import Any, Protocol, cast

from harness.errors import EnvironmentUnfitError, HarnessError
from harness.results.lease import Leases
from harness.results.record import Record, Status
from harness.results.store import Store
from harness.run.cluster import Cluster, connect
from harness.run.plan import Plan, PlannedCell, is_done
from harness.run.record import record_of, record_of_failure
from harness.run.resources import Request, request
from harness.run.worker import Outcome
from harness.stages import ORDER, STAGES, Node

LOST_WORKER_RETRIES = 2
HEARTBEAT_SECONDS = 5.0
FP32_ON_GPU = "note: a GPU is several times faster in bf16 than in fp32; --set protocol.precision=bf16 (or tf32)"
SWEEP = "sweep-"  # begins the keys under which runs say how far they are


class View(Protocol):
    """Where progress is shown."""

    def started(self, node: Node) -> None:
        """Show that a stage began."""

    def progressed(self, node: Node, progress: dict[str, Any]) -> None:
        """Show how far a stage is."""

    def ended(self, node: Node, outcome: Outcome, seconds: float) -> None:
        """Show how a stage ended."""

    def recorded(self, record: Record) -> None:
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
    resources : mapping
        What stages take, by `stage.quantity`; see `harness.run.resources`.
    address : str or None
        Of a running Ray cluster; None starts Ray here.
    time_limit : float or None
        Seconds after which a stage's process is killed.
    fail_fast : bool
        Whether the first failure ends the run.
    keep : tuple of str or None
        The stages whose artefacts stay once no open cell needs them; None keeps all.
    """

    device: str = "auto"
    threads: int | None = None
    max_parallel: int | None = None
    resources: Mapping[str, float] = field(default_factory=dict)
    address: str | None = None
    time_limit: float | None = None
    fail_fast: bool = False
    keep: tuple[str, ...] | None = None


@dataclass
class _Running:
    node: Node
    request: Request
    since: float


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
        self.waiting = {key: plan.nodes[key] for key in plan.missing(store, options.keep)}
        self.running: dict[Any, _Running] = {}
        self.failed: dict[str, Outcome] = {}
        self.attempts: Counter[str] = Counter()
        self.open = [planned for planned in plan.cells if not is_done(store, planned)]
        self._again = set(self.waiting) - {key for planned in self.open for key in planned.nodes}  # of done cells
        self._heard = 0.0
        self._sweep = f"{SWEEP}{uuid.uuid4().hex[:12]}"
        self._stages = len(self.waiting)
        self._seconds: dict[str, list[float]] = {}  # that stages took, by stage

    def run(self) -> None:
        """Run everything; return when every cell has its record, or after the first failure if that was asked for.

        Raises
        ------
        EnvironmentUnfitError
            If Ray does not start, a node cannot work, or a GPU was asked for and there is none.
        HarnessError
            If the results folder can no longer be written.
        """
        try:
            for key in self.leases.sweep():
                if key.startswith(SWEEP):
                    self.store.forget_work(key)
            self._settle()
            if not self.waiting:
                return
            with connect(self.options.address) as cluster:
                self._prepare(cluster)
                try:
                    self._loop()
                finally:
                    self._let_go()
        except OSError as error:
            message = (
                f"cannot write to {self.store.root}: {error.strerror}; what was finished is kept: fix it, run again"
            )
            raise HarnessError(message) from error

    def _prepare(self, cluster: Cluster) -> None:
        self.cluster = cluster
        self.gpus = 0.0 if self.options.device == "cpu" else cluster.gpus
        if self.options.device == "cuda" and not self.gpus:
            raise EnvironmentUnfitError("--device cuda, but Ray sees no GPU: check the driver, or --device cpu")
        self.plan.locations = replace(self.plan.locations, plugins=self.store.adopt(self.plan.locations.plugins))
        if self.options.address:
            cluster.check_nodes(self.plan.locations)
        if self.gpus and any(getattr(node.config, "precision", "") == "fp32" for node in self.waiting.values()):
            self.view.said(FP32_ON_GPU)
        self.leases.acquire(self._sweep)
        self._say_how_far()

    def _loop(self) -> None:
        while self.waiting or self.running:
            self._submit()
            self._wait()
            self._settle()
            if self.failed and self.options.fail_fast:
                self.view.said("stopped at the first failure; what was finished is kept")
                return
        self._drop_unkept(set())

    def _let_go(self) -> None:
        for key in list(self.leases.held):
            self.leases.release(key)
        self.store.forget_work(self._sweep)

    def _submit(self) -> None:
        """Start ready stages, those that end a cell first, as long as cores and GPUs are free."""
        pending = self._pending()
        ready = [node for node in self.waiting.values() if pending.isdisjoint(node.parents.values())]
        threads = self.options.threads or max(1, int(self.cluster.cpus) // 2)
        for node in sorted(ready, key=lambda node: (ORDER[node.stage], _cost(node))):
            if self.options.max_parallel and len(self.running) >= self.options.max_parallel:
                return
            wanted = request(node, self.options.resources, min(threads, int(self.cluster.cpus)), self.gpus)
            self._must_fit(wanted, node)
            if not self._fits(wanted) or not self.leases.acquire(node.key):
                continue
            del self.waiting[node.key]
            if self.store.artefact(node.stage, node.key):  # another scheduler was first
                self.leases.release(node.key)
                continue
            self.store.forget_progress(node.key)
            fresh = node.key in self.plan.foreign or STAGES[node.stage].own_process
            reference = self.cluster.submit(node, self.plan.locations_of(node), wanted, self.options.time_limit, fresh)
            self.running[reference] = _Running(node, wanted, time.monotonic())
            self.view.started(node)

    def _must_fit(self, wanted: Request, node: Node) -> None:
        if wanted.cpus > self.cluster.cpus or wanted.gpus > self.gpus:
            raise EnvironmentUnfitError(
                f"{node.stage} asks for {wanted.cpus:g} cores and {wanted.gpus:g} GPUs, "
                f"there are {self.cluster.cpus:g} and {self.gpus:g}: --resources {node.stage}.cpus=N asks for fewer"
            )
        if wanted.memory_gb > self.cluster.memory_gb:
            raise EnvironmentUnfitError(
                f"{node.stage} asks for {wanted.memory_gb:g} GiB of memory, no node has more than "
                f"{self.cluster.memory_gb:.1f} for it: --resources {node.stage}.memory_gb=N asks for less"
            )

    def _fits(self, wanted: Request) -> bool:
        cpus = sum(run.request.cpus for run in self.running.values())
        gpus = sum(run.request.gpus for run in self.running.values())
        return cpus + wanted.cpus <= self.cluster.cpus and gpus + wanted.gpus <= self.gpus

    def _pending(self) -> set[str]:
        return {*self.waiting, *(run.node.key for run in self.running.values())}

    def _wait(self) -> None:
        """Wait for stages to end, show progress meanwhile, and deal with how they ended."""
        if self.running:
            for reference in self.cluster.wait(list(self.running), 0.5):
                self._end(reference, self.cluster.outcome(reference))
        else:
            time.sleep(0.5)  # another scheduler holds what is left
            for key, node in list(self.waiting.items()):
                if self.store.artefact(node.stage, key):
                    del self.waiting[key]
        for run in self.running.values():
            progress = self.store.progress(run.node.key)
            if progress:
                self.view.progressed(run.node, progress)
        if time.monotonic() - self._heard > HEARTBEAT_SECONDS:
            self._heard = time.monotonic()
            self.leases.heartbeat()
            self._say_how_far()

    def _end(self, reference: Any, outcome: Outcome) -> None:
        run = self.running.pop(reference)
        self.leases.release(run.node.key)
        status, trace = self.store.ended_itself(run.node.key) if outcome.lost else ("", "")
        if status == "timeout":
            outcome = Outcome(status, f"longer than its limit of {self.options.time_limit:g} s", trace)
        elif status:
            outcome = Outcome(status, trace.partition("\n")[0], trace)
        again = self._deal_with(run.node, outcome)
        seconds = time.monotonic() - run.since
        self._seconds.setdefault(run.node.stage, []).append(seconds)
        self.view.ended(run.node, replace(outcome, status="again") if again else outcome, seconds)

    def _say_how_far(self) -> None:
        """Write how far this run is, for `harness status`."""
        done, cells = self._stages - len(self.waiting) - len(self.running), len(self.plan.cells)
        progress = {"cells": cells, "open": len(self.open), "done": done, "total": self._stages, "left": self._left()}
        self.store.write_progress(self._sweep, progress)

    def _left(self) -> float | None:
        """Return the seconds that are left, as far as stages of every kind have been seen."""
        todo = Counter(self.plan.nodes[key].stage for key in self._pending())
        if not set(todo) <= set(self._seconds):
            return None
        return sum(count * fmean(self._seconds[stage]) for stage, count in todo.items()) / max(1, len(self.running))

    def _deal_with(self, node: Node, outcome: Outcome) -> bool:
        """Decide what follows from how a stage ended; return whether it is tried again."""
        self.attempts[node.key] += 1
        again = self.attempts[node.key] <= LOST_WORKER_RETRIES
        if outcome.status == "done":
            return False
        if outcome.unusable and again:
            stage, key = outcome.unusable
            self.view.said(f"{outcome.reason}; it is computed again")
            self.store.discard(stage, key)
            self._need(node.key)
            return True
        if outcome.lost and again:
            self.view.said(f"{node.stage} {node.label}: {outcome.reason}; trying again")
            self.waiting[node.key] = node
            return True
        if outcome.lost and outcome.status == "failed" and node.key in self.plan.foreign:
            outcome = replace(outcome, reason=_of_a_plugin(node, outcome.reason, self.attempts[node.key]))
        self.failed[node.key] = outcome
        if self._again:  # what done cells lack reads it, or may
            self.view.said(f"{node.stage} {node.label}: {outcome.reason}; what needs it stays gone")
            self.waiting = {key: node for key, node in self.waiting.items() if key not in self._again}
        return False

    def _need(self, key: str) -> None:
        """Put a stage into the queue, and whatever it reads that is not there."""
        node = self.waiting[key] = self.plan.nodes[key]
        for parent in node.parents.values():
            if parent not in self._pending() and not self.store.artefact(self.plan.nodes[parent].stage, parent):
                self._need(parent)

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
            needed = {key for planned in still_open for key in planned.nodes} | self._again
            self.waiting = {key: node for key, node in self.waiting.items() if key in needed}
            self._drop_unkept(needed)

    def _drop_unkept(self, needed: set[str]) -> None:
        """Remove artefacts that are not to be kept and that no open cell needs."""
        if self.options.keep is None:
            return
        for key, node in self.plan.nodes.items():
            if node.stage not in self.options.keep and key not in needed and self.store.artefact(node.stage, key):
                self.store.discard(node.stage, key)

    def _record(self, planned: PlannedCell, pending: set[str]) -> Record | None:
        if planned.cell.skip:
            return record_of_failure(planned, "skipped", planned.cell.skip)
        if planned.cell.broken:
            return record_of_failure(planned, "failed", planned.cell.broken, "plan")
        for key in planned.nodes:
            if key in self.failed:
                outcome, node = self.failed[key], self.plan.nodes[key]
                return record_of_failure(
                    planned, cast("Status", outcome.status), outcome.reason, node.stage, outcome.tail
                )
        if not pending.isdisjoint(planned.nodes):
            return None
        return record_of(planned, self.plan, self.store)


def _of_a_plugin(node: Node, reason: str, attempts: int) -> str:
    """Return why a stage of a plugin's code has no outcome: that code, most likely."""
    method = getattr(node.config, "method", "")
    whose = f"method '{method}'" if method else f"the refiner of {node.label}"
    expected = "expected results or an Exception"
    return f"{whose} ended its process in {node.stage}, {attempts} times: os._exit or a crash; {expected} ({reason})"


def _cost(node: Node) -> float:
    """Return how long a training takes, in units of its own."""
    params = getattr(node.config, "params", {})
    return params.get("epochs", 0) * params.get("image_size", 0) ** 2
