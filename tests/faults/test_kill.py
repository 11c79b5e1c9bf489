"""Real processes, really killed."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from tests import second
from tests.conftest import TINY, run_here
from tests.faults.conftest import (
    HARNESS,
    TRAINING,
    finish,
    kill,
    outcome,
    running,
    wait_for_orphans,
    wait_until,
    workers,
)


def start(folder: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(TRAINING, cwd=folder, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)


def test_kill_in_the_middle_of_fit_then_the_same_command(tmp_path: Path, undisturbed: dict[str, Any]) -> None:
    results = tmp_path / "results"
    with start(tmp_path) as driver:
        wait_until(lambda: list(results.glob("work/*/training/checkpoint.pt")))
        kill(driver, results)
    wait_for_orphans(results)
    assert not list(results.glob("records/*.json"))
    assert not list(results.glob("artefacts/fit/*"))
    (checkpoint,) = results.glob("work/*/training/checkpoint.pt")
    clock = checkpoint.parent.parent / "clock.json"
    lost = 1000.0  # seconds, more than all of it takes: the first attempt is made to have begun so much earlier
    clock.write_text(json.dumps([0.0, checkpoint.stat().st_mtime - lost]))
    finish(tmp_path)
    assert outcome(results) == undisturbed
    (record,) = (json.loads(path.read_text("utf-8")) for path in results.glob("records/*.json"))
    (fit,) = (stage for stage in record["stages"] if stage["stage"] == "fit")
    assert lost < fit["seconds"] < 2 * lost
    assert not list((results / "work").iterdir())
    assert not list((results / "leases").glob("*.json"))


@pytest.mark.slow
def test_kill_in_every_stage_then_the_same_command(tmp_path: Path, undisturbed: dict[str, Any]) -> None:
    results = tmp_path / "results"
    killed = set()
    for stage in ("labels", "fit", "score", "curve", "mask", "evaluate"):
        with start(tmp_path) as driver:
            wait_until(lambda: driver.poll() is not None or any(w.startswith(stage) for w in running(results)))  # noqa: B023
            if driver.poll() is None:
                driver.send_signal(signal.SIGKILL)
                killed.add(stage)
        wait_for_orphans(results)
    assert {"fit", "score"} <= killed
    finish(tmp_path)
    assert outcome(results) == undisturbed


@pytest.mark.slow
def test_a_killed_worker_is_replaced_and_the_stage_goes_on(tmp_path: Path, undisturbed: dict[str, Any]) -> None:
    results = tmp_path / "results"
    with start(tmp_path) as driver:
        wait_until(lambda: list(results.glob("work/*/training/checkpoint.pt")))
        for pid in workers(results):
            os.kill(pid, signal.SIGKILL)
        _, errors = driver.communicate(timeout=200)
    assert driver.returncode == 0, errors
    assert "the worker died" in errors
    assert "trying again" in errors
    assert outcome(results) == undisturbed


@pytest.mark.slow
def test_two_runs_of_the_same_cells_at_once_share_the_work(tmp_path: Path, undisturbed: dict[str, Any]) -> None:
    with start(tmp_path) as first, start(tmp_path) as second:
        said = [driver.communicate(timeout=280)[1] for driver in (first, second)]
    assert (first.returncode, second.returncode) == (0, 0), said
    assert outcome(tmp_path / "results") == undisturbed
    assert not list((tmp_path / "results" / "leases").glob("*.json"))


def test_interrupt_keeps_what_is_finished_and_says_130(tmp_path: Path) -> None:
    results = tmp_path / "results"
    with start(tmp_path) as driver:
        wait_until(lambda: list(results.glob("work/*/training/checkpoint.pt")))
        os.kill(driver.pid, signal.SIGINT)
        _, errors = driver.communicate(timeout=60)
    assert driver.returncode == 130, errors
    assert "interrupted: what was finished is kept" in errors
    assert "Traceback" not in errors
    assert not list((results / "leases").glob("*.json"))
    assert list(results.glob("work/*/training/checkpoint.pt")), "the next run goes on from there"


@pytest.mark.slow
def test_a_second_interrupt_ends_it_at_once(tmp_path: Path) -> None:
    with start(tmp_path) as driver:
        wait_until(lambda: any(what.startswith("fit") for what in running(tmp_path / "results")))
        os.kill(driver.pid, signal.SIGINT)
        os.kill(driver.pid, signal.SIGINT)
        _, errors = driver.communicate(timeout=20)
    assert driver.returncode == 130, errors
    assert "Traceback" not in errors


@pytest.mark.slow
def test_a_child_and_a_refiner_that_learns_go_on_exactly_from_where_they_were_killed(tmp_path: Path) -> None:
    """Random crops, two phases, a parent, a refiner that is trained: killed once in each training."""
    run = [
        HARNESS, "run", "--methods", "child", "--refine", "learner", "--plugins", str(Path(second.__file__)), *TINY,
        "--limit", "16", "--set", "child.epochs=30", "--set", "learner.epochs=60", "--set", "*.batch_size=4", "--set",
        "protocol.eval_splits=val",
    ]  # fmt: skip
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    for folder in (whole, killed):
        folder.mkdir()
    results = killed / "results"
    for stage in ("fit child", "fit_refiner"):
        with subprocess.Popen(run, cwd=killed, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) as driver:
            wait_until(partial(checkpointed, results, stage))
            kill(driver, results)
        wait_for_orphans(results)
    for folder in (whole, killed):
        found = run_here(folder, *run[1:])
        assert found.returncode == 0, found.stderr
    assert outcome(results) == outcome(whole / "results")


def checkpointed(results: Path, stage: str) -> bool:
    """Return whether a stage, by the beginning of its name, is running and has written a checkpoint."""
    for path in results.glob("work/*/training/checkpoint.pt"):
        with contextlib.suppress(OSError, ValueError):
            if json.loads((path.parent.parent / "progress.json").read_text()).get("what", "").startswith(stage):
                return True
    return False
