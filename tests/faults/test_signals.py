"""Signals as schedulers send them: to the driver or to its whole group, whatever it is doing."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import TINY
from tests.faults.conftest import HARNESS, TRAINING, finish, outcome, running, wait_until

SCORING = [HARNESS, "run", "--methods", "sanity-random", *TINY, "--limit", "40"]


def start(folder: Path, command: list[str]) -> subprocess.Popen[str]:
    pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen(
        command, cwd=folder, start_new_session=True, env=os.environ | {"MARK": str(folder)}, **pipes
    )


def left(folder: Path) -> list[int]:
    """Return the processes that a command of this folder has started and that still run."""
    mark, found = f"MARK={folder}".encode(), []
    for path in Path("/proc").glob("[0-9]*/environ"):
        try:
            if mark in path.read_bytes().split(b"\0") and "Z" not in (path.parent / "stat").read_text().split()[2]:
                found.append(int(path.parent.name))
        except OSError:
            continue
    return found


def check_end(driver: subprocess.Popen[str], folder: Path, number: int) -> None:
    """See that a command ends by one line and the signal's status, and leaves nothing running."""
    began = time.monotonic()
    out, errors = driver.communicate(timeout=30)
    assert driver.returncode == 128 + number, errors
    name = signal.Signals(number).name
    assert errors.count(f"error: stopped by {name}: what was finished is kept; the same command goes on") == 1
    assert "Traceback" not in errors
    assert "***" not in errors  # what native stack traces begin with
    assert out == ""
    wait_until(lambda: not left(folder), max(0.1, 5 - (time.monotonic() - began)))


@pytest.mark.parametrize("whole_group", [pytest.param(False, marks=pytest.mark.slow), True])
def test_sigterm_in_fit_then_the_same_command(tmp_path: Path, whole_group: bool, undisturbed: dict[str, Any]) -> None:
    with start(tmp_path, TRAINING) as driver:
        wait_until(lambda: list((tmp_path / "results").glob("work/*/training/checkpoint.pt")))
        (os.killpg if whole_group else os.kill)(driver.pid, signal.SIGTERM)
        check_end(driver, tmp_path, signal.SIGTERM)
    assert not list((tmp_path / "results").glob("artefacts/fit/*"))
    finish(tmp_path)
    assert outcome(tmp_path / "results") == undisturbed


def test_sigterm_in_score(tmp_path: Path, ray_once: None) -> None:
    results = tmp_path / "results"
    with start(tmp_path, SCORING) as driver:
        wait_until(lambda: driver.poll() is not None or any(what.startswith("score") for what in running(results)))
        os.killpg(driver.pid, signal.SIGTERM)
        check_end(driver, tmp_path, signal.SIGTERM)


@pytest.mark.parametrize("number", [signal.SIGTERM, pytest.param(signal.SIGHUP, marks=pytest.mark.slow)])
def test_a_signal_while_ray_starts(tmp_path: Path, number: int, ray_once: None) -> None:
    def ray_starts() -> bool:
        commands = [(Path("/proc") / str(pid) / "cmdline") for pid in left(tmp_path)]
        return any(b"gcs_server" in path.read_bytes() for path in commands if path.exists())

    with start(tmp_path, SCORING) as driver:
        wait_until(ray_starts)
        os.killpg(driver.pid, number)
        check_end(driver, tmp_path, number)


def test_a_ray_that_dies_is_one_line(tmp_path: Path, ray_once: None) -> None:
    with start(tmp_path, [*TRAINING, "--json"]) as driver:
        wait_until(lambda: list((tmp_path / "results").glob("work/*/training/checkpoint.pt")))
        for pid in left(tmp_path):
            if b"raylet/raylet" in (Path("/proc") / str(pid) / "cmdline").read_bytes().split(b"\0")[0]:
                os.kill(pid, signal.SIGKILL)
        out, errors = driver.communicate(timeout=30)
    assert driver.returncode == 3, errors
    assert out == ""
    assert "Traceback" not in errors
    assert errors.splitlines()[-1] == (
        "error: Ray's raylet has died: what was finished is kept; the same command goes on from there"
    )
    wait_until(lambda: not left(tmp_path), 5)


def test_a_command_without_ray_ends_by_one_line_too(tmp_path: Path) -> None:
    with start(tmp_path, [HARNESS, "check", "cam"]) as driver:
        wait_until(lambda: list(Path("/proc").glob(f"{driver.pid}/task/[0-9]*"))[1:])  # its work has begun
        driver.send_signal(signal.SIGTERM)
        check_end(driver, tmp_path, signal.SIGTERM)
