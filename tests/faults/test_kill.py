"""Real processes, really killed."""

from __future__ import annotations

import fcntl
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import TINY

COMMAND = [
    str(Path(sys.executable).parent / "harness"), "run", "--methods", "vitpcm", *TINY, "--limit", "16",
    "--set", "vitpcm.epochs=80", "--set", "vitpcm.batch_size=4",
]  # fmt: skip


def outcome(results: Path) -> dict[str, Any]:
    """Return what must not depend on a crash: keys, scores, masks, score maps."""
    records = [json.loads(path.read_text()) for path in sorted((results / "records").glob("*.json"))]
    masks = {path.name: path.read_bytes() for path in sorted(results.glob("artefacts/mask/*/*.png"))}
    scores = {
        str(path.relative_to(results)): path.read_bytes() for path in results.glob("artefacts/score/*/*.safetensors")
    }
    return {
        "records": [(r["key"], r["status"], r["metrics"], r["artefacts"]) for r in records],
        "masks": masks,
        "scores": scores,
    }


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("undisturbed")
    subprocess.run(COMMAND, cwd=folder, check=True, capture_output=True, timeout=300)
    return outcome(folder / "results")


def test_kill_in_the_middle_of_fit_then_the_same_command(tmp_path: Path, undisturbed: dict[str, Any]) -> None:
    with subprocess.Popen(COMMAND, cwd=tmp_path, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as driver:
        _wait_for(tmp_path / "results" / "work", "training/checkpoint.pt")
        driver.send_signal(signal.SIGKILL)
    _wait_for_orphans(tmp_path / "results" / "leases")
    assert not list((tmp_path / "results" / "records").glob("*.json"))
    assert not list(tmp_path.glob("results/artefacts/fit/*"))
    again = subprocess.run(COMMAND, cwd=tmp_path, capture_output=True, text=True, timeout=300)
    assert again.returncode == 0, again.stderr
    assert outcome(tmp_path / "results") == undisturbed
    assert not list((tmp_path / "results" / "work").iterdir())
    assert not list((tmp_path / "results" / "leases").glob("*.json"))


def test_interrupt_keeps_what_is_finished_and_says_130(tmp_path: Path, undisturbed: dict[str, Any]) -> None:
    with subprocess.Popen(COMMAND, cwd=tmp_path, stderr=subprocess.PIPE, text=True) as driver:
        _wait_for(tmp_path / "results" / "work", "training/checkpoint.pt")
        os.kill(driver.pid, signal.SIGINT)
        _, errors = driver.communicate(timeout=60)
    assert driver.returncode == 130, errors
    assert "interrupted: what was finished is kept" in errors
    assert "Traceback" not in errors
    assert not list((tmp_path / "results" / "leases").glob("*.json"))
    assert subprocess.run(COMMAND, cwd=tmp_path, capture_output=True, timeout=300).returncode == 0
    assert outcome(tmp_path / "results") == undisturbed


def _wait_for_orphans(leases: Path) -> None:
    """Wait until Ray's workers, which outlive a killed driver by seconds, have let go of their stages."""
    for path in leases.glob("*.lock"):
        with open(path) as file:
            fcntl.flock(file, fcntl.LOCK_EX)


def _wait_for(folder: Path, pattern: str, seconds: float = 90) -> None:
    end = time.monotonic() + seconds
    while not list(folder.glob(f"*/{pattern}")):
        assert time.monotonic() < end, f"no {pattern} in {folder}"
        time.sleep(0.02)
