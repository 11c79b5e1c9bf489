"""The only door to Ray: start it here or join one that runs, see that every node can work, hand stages to workers."""

from __future__ import annotations

import gc
import importlib
import logging
import os
import signal
import socket
import tempfile
import threading
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from subprocess import Popen
from typing import Any

from harness import provenance
from harness.errors import EnvironmentUnfitError, LostRayError
from harness.run.resources import Request
from harness.run.worker import Outcome, run_node
from harness.source_hash import source_hash
from harness.stages import Locations, Node

OBJECT_STORE_BYTES = 100 << 20  # stages talk through files
SOCKET_PATH = 107  # bytes of the longest path of a Unix socket


class Cluster:
    """Ray, once it runs.

    Parameters
    ----------
    ray : module
    processes : sequence of Popen
        Those that were started for it here.
    joined : bool
        Whether others started it: it then shows a worker one GPU, which may be another one the next time.

    Attributes
    ----------
    cpus, gpus : float
        Of all nodes together.
    memory_gb : float
        Of the node that has the most for stages, in GiB.
    """

    def __init__(self, ray: Any, processes: Sequence[Popen[bytes]] = (), joined: bool = False) -> None:
        self.ray = ray
        self._joined = joined
        self._processes = processes
        have = ray.cluster_resources()
        self.cpus, self.gpus = float(have.get("CPU", 1)), float(have.get("GPU", 0))
        nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
        self.memory_gb = max((node.get("memory", 0.0) for node in nodes), default=0.0) / 2**30
        self._reused = ray.remote(max_retries=0)(run_in_worker)
        self._fresh = ray.remote(max_retries=0, max_calls=1)(run_in_worker)

    def submit(self, node: Node, locations: Locations, request: Request, limit: float | None, fresh: bool) -> Any:
        """Hand a stage to a worker, one of its own if `fresh`; return a reference to its outcome."""
        function = self._fresh if fresh or (request.gpus and self._joined) else self._reused
        memory = int(request.memory_gb * 2**30) or None
        task = function.options(num_cpus=request.cpus, num_gpus=request.gpus, memory=memory)
        device, threads = "cuda" if request.gpus else "cpu", max(1, int(request.cpus))
        return task.remote(node, locations, device, threads, limit, request.memory_gb)

    def wait(self, references: Sequence[Any], seconds: float) -> list[Any]:
        """Return the references of stages that have ended, after some seconds at most.

        Raises
        ------
        LostRayError
            If one of Ray's own processes has died.
        """
        dead = [process for process in self._processes if process.poll() is not None]
        if dead:
            command = dead[0].args
            name = Path(str(command[0] if isinstance(command, list) else command)).name
            raise LostRayError(f"Ray's {name} has died: what was finished is kept; the same command goes on from there")
        ended, _ = self.ray.wait(list(references), num_returns=len(references), timeout=0)
        return ended or self.ray.wait(list(references), timeout=seconds)[0]

    def outcome(self, reference: Any) -> Outcome:
        """Return how a stage ended, its worker's death included."""
        errors = self.ray.exceptions
        try:
            return self.ray.get(reference)
        except errors.OutOfMemoryError as error:
            return Outcome("oom", f"the machine ran out of memory: {_first_line(error)}", lost=True)
        except (errors.WorkerCrashedError, errors.NodeDiedError, errors.ObjectLostError) as error:
            return Outcome("failed", f"the worker died: {_first_line(error)}", lost=True)
        except errors.RayError as error:
            return Outcome("failed", _first_line(error), str(error)[-2000:])

    def check_nodes(self, locations: Locations) -> None:
        """See that every node has this version, the results folder, the data, the weights and the plugins.

        Raises
        ------
        EnvironmentUnfitError
            With the node and what is to be done.
        """
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        token = Path(locations.store) / "leases" / f".{uuid.uuid4().hex}"
        token.touch()
        try:
            looks = {}
            for node in (node for node in self.ray.nodes() if node["Alive"]):
                there = NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
                task = self.ray.remote(max_retries=0, num_cpus=0, scheduling_strategy=there)(look_around)
                looks[f"{node['NodeManagerAddress']} ({node['NodeID'][:8]})"] = task.remote(locations, str(token))
            here = versions()
            problems = []
            for name, reference in looks.items():
                problems += [f"node {name} {problem}" for problem in self._problems(reference, here)]
        finally:
            token.unlink()
        if problems:
            raise EnvironmentUnfitError("\n".join(problems))

    def _problems(self, reference: Any, here: dict[str, str]) -> list[str]:
        try:
            missing, there = self.ray.get(reference, timeout=120)
        except self.ray.exceptions.RayError as error:
            lines = [line for line in str(error).splitlines() if "Error" in line] or [_first_line(error)]
            return [f"cannot run wsss-harness: {lines[-1].strip()[:200]}; install the same version there"]
        other = [
            f"{name} {there.get(name, 'missing')}, here {here[name]}" for name in here if there.get(name) != here[name]
        ]
        return [*missing, *([f"has other versions: {', '.join(other)}; install the same ones"] if other else [])]


def run_in_worker(
    node: Node, locations: Locations, device: str, threads: int, limit: float | None, memory_gb: float
) -> Outcome:
    """Run a stage in a worker of Ray, on the GPU that it was given, and leave that as it was found."""
    if device == "cuda":
        take_gpu()
    outcome = run_node(node, locations, device, threads, limit, memory_gb)
    if device == "cuda":
        import torch

        gc.collect()
        with suppress(RuntimeError):  # what the stage has broken, the next one finds
            torch.cuda.empty_cache()
    return outcome


def take_gpu() -> None:
    """Make the GPU that Ray has assigned to this task the current one; end a worker whose CUDA is broken."""
    import ray
    import torch

    if not torch.cuda.is_available():  # the stage says so
        return
    try:
        torch.cuda.set_device(gpu_index(ray.get_gpu_ids()[0], os.environ.get("CUDA_VISIBLE_DEVICES")))
        torch.cuda.synchronize()
    except RuntimeError:  # of a stage before: Ray tries this one again in another worker
        os._exit(1)


def gpu_index(gpu: int | str, visible: str | None) -> int:
    """Return which of the visible GPUs one is, by what Ray calls it."""
    return visible.split(",").index(str(gpu)) if visible else int(gpu)


def versions() -> dict[str, str]:
    """Return what must be the same on every node, by name: packages, Python, and our own sources."""
    found = provenance.environment()
    sources = {name: importlib.import_module(name).__file__ for name in ("harness", "wsss_methods")}
    ours = {f"sources of {name}": source_hash(Path(str(file))) for name, file in sources.items()}
    return {"python": found["python"], **found["packages"], **ours}


def look_around(locations: Locations, token: str) -> tuple[list[str], dict[str, str]]:
    """Return what this node misses, as ends of sentences, and its `versions`."""
    needed = [
        (token, f"does not see the results folder {locations.store}: mount it there"),
        *((root, f"does not see the data in {root}: mount it there") for root in locations.roots.values()),
        *((file, f"does not see the weights {file}: mount them there") for file in locations.weights.values()),
    ]
    return [problem for path, problem in needed if not Path(path).exists()], versions()


@contextmanager
def connect(address: str | None) -> Iterator[Cluster]:
    """Start Ray on this machine, quietly, and stop it; or join the cluster at an address.

    Raises
    ------
    EnvironmentUnfitError
        If it does not start, or nothing answers at the address.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    os.environ.setdefault("RAY_EXPERIMENTAL_NOSET_CUDA_VISIBLE_DEVICES", "1")  # see `take_gpu`
    import ray
    import ray.exceptions

    if ray.is_initialized():
        yield Cluster(ray, joined=address is not None)
        return
    if address not in (None, "auto"):
        _must_answer(address)
    if address is None and (problem := sockets_problem()):
        raise EnvironmentUnfitError(problem)
    own: dict[str, Any] = {"include_dashboard": False, "object_store_memory": OBJECT_STORE_BYTES}
    options = {} if address else own
    started: list[Popen[bytes]] = []
    try:
        try:
            with _apart(ray, started):
                ray.init(address=address or "local", log_to_driver=False, logging_level=logging.ERROR, **options)
        except (RuntimeError, ValueError, OSError, ConnectionError) as error:
            problem = f"cannot join Ray at {address}" if address else "Ray does not start"
            raise EnvironmentUnfitError(f"{problem}: {_first_line(error)}") from error
        # What a thread of Ray's prints when a process of it dies would stand in the middle of `--json`.
        ray._private.worker.print_to_stdstream = lambda *arguments, **options: None
        yield Cluster(ray, started, address is not None)
    except (KeyboardInterrupt, LostRayError):  # the command leaves at once
        _kill(started)
        raise
    ray.shutdown()


@contextmanager
def _apart(ray: Any, started: list[Popen[bytes]]) -> Iterator[None]:
    """While Ray starts, keep our signal handlers, and give its processes groups that signals to ours do not reach.

    A scheduler signals a whole group at once; a Ray whose processes end before their driver aborts it with native
    stack traces.
    """
    process, utils = ray._private.services.ConsolePopen, ray._private.utils
    start, handler = process.__init__, utils.set_sigterm_handler

    def start_apart(self: Popen[bytes], *arguments: Any, **options: Any) -> None:
        start(self, *arguments, process_group=0, **options)
        started.append(self)

    process.__init__, utils.set_sigterm_handler = start_apart, lambda handler: None
    try:
        yield
    finally:
        process.__init__, utils.set_sigterm_handler = start, handler
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):  # native code has set its own
                signal.signal(number, signal.getsignal(number))


def _kill(processes: Sequence[Popen[bytes]]) -> None:
    """Kill processes and all that they have started."""
    parents: dict[int, list[int]] = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError, ValueError, IndexError):
            parent = int(path.read_text().rpartition(")")[2].split()[1])
            parents.setdefault(parent, []).append(int(path.parent.name))
    doomed = [process.pid for process in processes]
    for pid in doomed:
        doomed += parents.get(pid, [])
    for pid in doomed:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def sockets_problem() -> str:
    """Return why Ray's sockets would have no place in the temporary folder; empty if they have."""
    folder = os.environ.get("RAY_TMPDIR") or tempfile.gettempdir()
    most = SOCKET_PATH - len("/ray/session_2026-01-01_00-00-00_000000_0000000/sockets/plasma_store")
    if len(folder) <= most:
        return ""
    length = f"{len(folder)} characters, at most {most}"
    return f"the path of the temporary folder {folder} is too long for Ray's sockets ({length}): set RAY_TMPDIR=/tmp"


def _must_answer(address: str) -> None:
    """See that something listens; Ray itself would try for minutes."""
    host, _, port = address.rpartition(":")
    if not host or not port.isdigit() or "/" in host:
        raise EnvironmentUnfitError(f"--ray-address {address}: expected auto, or HOST:PORT as `ray start` prints it")
    try:
        socket.create_connection((host, int(port)), timeout=10).close()
    except OSError as error:
        raise EnvironmentUnfitError(f"cannot join Ray at {address}: {error.strerror or error}") from error


def _first_line(error: BaseException) -> str:
    return str(error).strip().partition("\n")[0][:300]
