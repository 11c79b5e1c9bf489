"""Run one stage in this process: resume what a crash left, catch what goes wrong, publish what came out."""

from __future__ import annotations

import contextlib
import faulthandler
import fcntl
import json
import os
import resource
import shutil
import sys
import time
import traceback
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from harness import provenance, stages
from harness.errors import HarnessError
from harness.file_setting import learn_places
from harness.files import write_atomic
from harness.precision import set_precision
from harness.results.store import LOG, Store, UnusableArtefactError
from harness.run.watchdog import guarded, spare
from harness.stages import Locations, Node, Task

TAIL_LINES = 20
TAIL_COLUMNS = 500
_CLOCK = "clock.json"  # seconds of earlier attempts, and when the last one began


@dataclass(frozen=True)
class Outcome:
    """How a stage ended.

    Attributes
    ----------
    status : str
        `done`, `failed`, `oom` or `timeout`.
    reason : str
        One line.
    tail : str
        End of the traceback and of what the stage printed.
    unusable : tuple of str
        Stage and key of an artefact that is gone, or did not match its hash.
    lost : bool
        Whether the worker died, which says nothing of the stage.
    """

    status: str
    reason: str = ""
    tail: str = ""
    unusable: tuple[str, str] | None = None
    lost: bool = False


def run_node(
    node: Node, locations: Locations, device: str, threads: int, limit: float | None = None, memory_gb: float = 0.0
) -> Outcome:
    """Run a stage and publish its artefact; never raises for what the stage does.

    Parameters
    ----------
    node : Node
    locations : Locations
    device : {"cpu", "cuda"}
    threads : int
        For the model on a CPU, or for loading images beside a GPU.
    limit : float, optional
        Seconds after which this process ends itself, and leaves in the log where it was.
    memory_gb : float
        GiB above which it does the same; 0 sets no limit of its own, see `harness.run.watchdog`.
    """
    store = Store(Path(locations.store))
    os.environ.pop("WSSS_HARNESS_ROOT", None)  # a stage learns of a dataset's folder from `locations` or not at all
    work = store.work(node.key)
    work.mkdir(parents=True, exist_ok=True)
    log = work / LOG
    with _alone(store.root / "leases" / f"{node.key}.lock"):
        if store.artefact(node.stage, node.key):
            return Outcome("done")
        workers, room = (threads - 1, spare(memory_gb)) if device == "cuda" else (0, 0)
        learn_places(locations.weights)
        task = Task(node, locations, device, workers, work, room)
        shutil.rmtree(task.out, ignore_errors=True)
        task.out.mkdir()
        before, started = seconds_before(work), time.monotonic()
        try:
            with guarded(log, memory_gb), _output_to(log):
                _prepare(device, threads, getattr(node.config, "precision", "fp32"))
                task.progress(0, 0)
                if limit:
                    faulthandler.dump_traceback_later(limit, exit=True, file=2)
                stages.function(node.stage)(task)
            if log.stat().st_size:
                shutil.copyfile(log, task.out / LOG)
            about = {
                **task.facts,
                "config": node.config.model_dump(mode="json"),
                "parents": node.parents,
                "seconds": round(before + time.monotonic() - started, 3),
                "memory_mb": _peak_memory(device),
                "device": provenance.device_name(device),
                "threads": threads,
                "environment": provenance.environment(),
            }
            store.publish(node.stage, node.key, task.out, about)
        except UnusableArtefactError as error:
            return Outcome("failed", str(error), unusable=(error.stage, error.key))
        except (Exception, SystemExit) as error:
            return _explain(error, log)
        finally:
            faulthandler.cancel_dump_traceback_later()
        shutil.rmtree(work, ignore_errors=True)
    return Outcome("done")


def seconds_before(work: Path) -> float:
    """Return how long earlier attempts at a stage took, up to the last that they left to go on from, and time this one.

    Parameters
    ----------
    work : Path
        Of the stage; what is gone on from lies in folders in it.
    """
    clock = work / _CLOCK
    total = 0.0
    if clock.exists():
        total, began = json.loads(clock.read_text("utf-8"))
        left = [path.stat().st_mtime for path in work.glob("*/**/*") if path.is_file()]
        total += max(0.0, max(left, default=began) - began)
    write_atomic(clock, json.dumps([total, time.time()]))
    return float(total)


def _explain(error: BaseException, log: Path) -> Outcome:
    import torch

    reason = str(error) if isinstance(error, HarnessError) else f"{type(error).__name__}: {error}"
    tail = traceback.format_exc().splitlines()
    printed = log.read_text("utf-8", "replace").splitlines() if log.exists() else []
    lines = [line[:TAIL_COLUMNS] for line in (*printed[-TAIL_LINES:], *tail[-TAIL_LINES:])]
    status = "oom" if isinstance(error, torch.OutOfMemoryError | MemoryError) else "failed"
    return Outcome(status, reason.strip().partition("\n")[0][:300], _without_home("\n".join(lines)))


def _without_home(text: str) -> str:
    return text.replace(str(Path.home()), "~")


def _prepare(device: str, threads: int, precision: str) -> None:
    """Set what makes a stage's arithmetic repeatable, and start its memory account."""
    import torch

    if device == "cuda" and not torch.cuda.is_available():
        raise HarnessError(
            f"Ray sees a GPU that torch {torch.__version__} cannot use: install a CUDA build, or --device cpu"
        )
    torch.set_num_threads(threads if device == "cpu" else 1)
    set_precision(precision)
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


def _peak_memory(device: str) -> dict[str, int]:
    """Return the peak of this process in MiB, on the host and on the GPU."""
    peak = {"host": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024}
    with contextlib.suppress(OSError, StopIteration):
        lines = Path("/proc/self/status").read_text().splitlines()
        peak["host"] = int(next(line for line in lines if line.startswith("VmHWM")).split()[1]) // 1024
    if device == "cuda":
        import torch

        peak["gpu"] = torch.cuda.max_memory_allocated() >> 20
    return peak


@contextlib.contextmanager
def _alone(path: Path) -> Iterator[None]:
    """Wait until a worker of a killed scheduler, which may outlive it by seconds, has let go of this stage."""
    with open(path, "w") as file:  # never unlinked: who waits for the file of one holder must not miss that of the next
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


@contextlib.contextmanager
def _output_to(path: Path) -> Iterator[None]:
    """Send everything that this process prints, native code included, to the end of a new file."""
    streams: list[IO[Any]] = [sys.stdout, sys.stderr]
    path.unlink(missing_ok=True)
    with open(path, "ab") as log:
        kept = [(number, os.dup(number)) for number in (1, 2)]
        try:
            for stream in streams:
                stream.flush()
            for number, _ in kept:
                os.dup2(log.fileno(), number)
            yield
        finally:
            for stream in streams:
                stream.flush()
            for number, copy in kept:
                os.dup2(copy, number)
                os.close(copy)
