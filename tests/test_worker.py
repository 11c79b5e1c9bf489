"""The lock of a stage, tried by processes, and how long a stage took that was killed."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from harness.run.worker import seconds_before

CODE = """
import os, sys, time
from pathlib import Path
from harness.run.worker import _alone
lock, inside = Path(sys.argv[1]), sys.argv[1] + ".inside"
for _ in range(60):
    with _alone(lock):
        handle = os.open(inside, os.O_CREAT | os.O_EXCL)  # fails if another process is in here
        time.sleep(0.0005)
        os.close(handle)
        os.unlink(inside)
"""


def test_a_stage_is_held_by_one_process_at_a_time(tmp_path: Path) -> None:
    command = [sys.executable, "-c", CODE, str(tmp_path / "stage.lock")]
    holders = [subprocess.Popen(command, stderr=subprocess.PIPE, text=True) for _ in range(4)]
    for holder in holders:
        _, errors = holder.communicate(timeout=100)
        assert holder.returncode == 0, errors
    assert [path.name for path in tmp_path.iterdir()] == ["stage.lock"]


def test_a_stage_s_seconds_are_those_of_all_attempts_up_to_what_they_left(tmp_path: Path) -> None:
    """What an attempt did after its last checkpoint is done again, and counts then."""
    (tmp_path / "training").mkdir()
    checkpoint, clock = tmp_path / "training" / "checkpoint.pt", tmp_path / "clock.json"
    assert seconds_before(tmp_path) == 0
    began = json.loads(clock.read_text())[1]
    assert began == pytest.approx(time.time(), abs=60)
    assert seconds_before(tmp_path) == 0  # the first attempt has left nothing

    checkpoint.write_bytes(b"")
    for name in ("log.txt", "progress.json"):
        (tmp_path / name).write_text("of a later time")
    for start, saved, total in ((1000, 1090, 90), (2000, 2030, 120), (3000, 2030, 120)):  # the third has left nothing
        clock.write_text(json.dumps([json.loads(clock.read_text())[0], start]))
        os.utime(checkpoint, (saved, saved))
        assert seconds_before(tmp_path) == total
