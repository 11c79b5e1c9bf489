"""What the fault tests share: commands as real processes, what they leave, and whom to kill."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import TINY, run_here

HARNESS = str(Path(sys.executable).parent / "harness")
TRAINING = [
    HARNESS, "run", "--methods", "vitpcm", *TINY, "--limit", "16", "--set", "vitpcm.epochs=12",
    "--set", "vitpcm.batch_size=4",
]  # fmt: skip


def outcome(results: Path) -> dict[str, Any]:
    """Return what must not depend on a fault: keys, scores, masks, score maps."""
    records = [json.loads(path.read_text()) for path in sorted((results / "records").glob("*.json"))]
    masks = {path.name: path.read_bytes() for path in sorted(results.glob("artefacts/mask/*/*.png"))}
    scores = {
        str(path.relative_to(results)): path.read_bytes() for path in results.glob("artefacts/score/*/*.safetensors")
    }
    return {
        "records": [(r["key"], r["status"], r.get("metrics"), r["artefacts"]) for r in records],
        "masks": masks,
        "scores": scores,
    }


@pytest.fixture(scope="session")
def undisturbed(tmp_path_factory: pytest.TempPathFactory, ray_once: None) -> dict[str, Any]:
    """What the training comes to when nothing happens to it."""
    folder = tmp_path_factory.mktemp("undisturbed")
    finish(folder)
    return outcome(folder / "results")


def finish(folder: Path) -> None:
    """Run the training in this process, or what is left of it."""
    found = run_here(folder, *TRAINING[1:])
    assert found.returncode == 0, found.stderr


def running(results: Path) -> list[str]:
    """Return what is being computed, as `fit cam test_vit s0`."""
    names = []
    for path in results.glob("work/*/progress.json"):
        with contextlib.suppress(OSError, ValueError):
            names.append(json.loads(path.read_text()).get("what", ""))
    return names


def workers(results: Path) -> list[int]:
    """Return the processes that compute a stage of a store: they hold its lock open."""
    found = set()
    for link in Path("/proc").glob("[0-9]*/fd/*"):
        with contextlib.suppress(OSError):
            target = os.readlink(link)
            if target.startswith(str(results / "leases")) and target.endswith(".lock"):
                found.add(int(link.parts[2]))
    return sorted(found - {os.getpid()})


def kill(driver: subprocess.Popen[Any], results: Path) -> None:
    """Kill a run and what computes for it at one blow, as a power cut does."""
    for pid in (driver.pid, *workers(results)):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def wait_until(condition: Callable[[], Any], seconds: float = 120) -> Any:
    """Wait until something is the case, and return it."""
    end = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.005)
    return found


def wait_for_orphans(results: Path) -> None:
    """Wait until Ray's workers, which outlive a killed driver by seconds, have let go of their stages."""
    for path in (results / "leases").glob("*.lock"):
        with contextlib.suppress(FileNotFoundError), open(path) as file:
            fcntl.flock(file, fcntl.LOCK_EX)
