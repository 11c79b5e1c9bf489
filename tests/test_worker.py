"""The lock of a stage, tried by processes."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

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
