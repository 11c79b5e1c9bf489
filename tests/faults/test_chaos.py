"""A sweep whose workers and drivers are killed at random ends with every record, and every record is right."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import subprocess
import time
from collections import Counter
from pathlib import Path

import pytest

from harness.results.store import Store
from tests.faults.conftest import HARNESS, outcome, wait_for_orphans, workers


@pytest.mark.slow
@pytest.mark.parametrize(("cells", "pause"), [pytest.param(8, 3.0, id="short"), pytest.param(200, 6.0, id="long")])
def test_every_cell_has_its_right_record_whatever_is_killed(tmp_path: Path, cells: int, pause: float) -> None:
    seeds = ",".join(str(seed) for seed in range(cells))
    command = [HARNESS, "run", "--methods", "sanity-random", "--limit", "4", "--seeds", seeds]
    calm, wild = tmp_path / "calm", tmp_path / "wild"
    for folder in (calm, wild):
        folder.mkdir()
    subprocess.run(command, cwd=calm, check=True, capture_output=True, timeout=1500)
    chance = random.Random(0)
    deaths: Counter[str] = Counter()
    for drivers_left in (3, 2, 1, 0):
        with subprocess.Popen(command, cwd=wild, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as driver:
            end = time.monotonic() + chance.uniform(3, 2 * pause + cells / 20)
            while driver.poll() is None:
                time.sleep(chance.uniform(0.2, 1) * pause)
                for pid in workers(wild / "results")[:1]:
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(pid, signal.SIGKILL)
                        deaths["workers"] += 1
                if drivers_left and driver.poll() is None and time.monotonic() > end:
                    driver.send_signal(signal.SIGKILL)
                    deaths["drivers"] += 1
        wait_for_orphans(wild / "results")
    last = subprocess.run(command, cwd=wild, capture_output=True, text=True, timeout=1500)
    assert last.returncode == 0, last.stderr
    states = Counter(record["status"] for record in Store(wild / "results").records())
    print(f"{cells} cells: {dict(states)} after {dict(deaths)} were killed")  # noqa: T201
    assert states == {"done": cells}
    assert deaths["drivers"] >= 1
    assert outcome(wild / "results") == outcome(calm / "results")
