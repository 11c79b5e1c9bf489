"""A verification that is killed in the middle of its training ends as an undisturbed one does."""

from __future__ import annotations

import json
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.conftest import run_here
from tests.faults.conftest import HARNESS, kill, wait_for_orphans, wait_until

SETTINGS = {"iterations": 40, "crop": 64, "batch_size": 2, "accumulate": 2}
COMMAND = [
    HARNESS, "run", "--methods", "sanity-oracle", "--limit", "5", "--threads", "1", "--verify", "deeplabv2:toy",
    *(word for name, value in SETTINGS.items() for word in ("--set", f"deeplabv2.{name}={value}")),
]  # fmt: skip


def outcome(results: Path) -> dict[str, Any]:
    (record,) = [json.loads(path.read_text()) for path in results.glob("records/*.json")]
    (trained,) = results.glob("artefacts/verify/*")
    masks = {path.name: path.read_bytes() for path in results.glob("artefacts/segment/*/*.png")}
    files = {name: (trained / name).read_bytes() for name in ("model.safetensors", "curves.json", "verifier.json")}
    return {"scores": record["verification"], "key": record["key"], "masks": masks, **files}


def progress_of(results: Path) -> dict[str, Any]:
    """Return what a training has said of its progress, if it has."""
    for path in results.glob("work/*/progress.json"):
        progress = json.loads(path.read_text())
        if progress.get("what", "").startswith("verify") and progress["total"]:
            return progress
    return {}


@pytest.mark.slow
def test_kill_in_the_middle_of_verify_then_the_same_command(tmp_path: Path, ray_once: None) -> None:
    undisturbed, results = tmp_path / "undisturbed", tmp_path / "killed" / "results"
    for folder in (undisturbed, results.parent):
        folder.mkdir()
    assert run_here(undisturbed, *COMMAND[1:]).returncode == 0
    with subprocess.Popen(COMMAND, cwd=results.parent, stderr=subprocess.DEVNULL) as driver:
        wait_until(lambda: list(results.glob("work/*/training/checkpoint.pth")))
        kill(driver, results)
    wait_for_orphans(results)
    assert not list(results.glob("artefacts/verify/*"))
    (checkpoint,) = results.glob("work/*/training/checkpoint.pth")
    kept = torch.load(checkpoint, weights_only=False)["meta"]["iter"] // SETTINGS["accumulate"]
    assert 0 < kept < SETTINGS["iterations"]
    for path in results.glob("work/*/progress.json"):
        path.unlink()
    with ThreadPoolExecutor(1) as pool:
        first = pool.submit(wait_until, lambda: progress_of(results))
        assert run_here(results.parent, *COMMAND[1:]).returncode == 0
    assert first.result()["done"] > kept
    assert outcome(results) == outcome(undisturbed / "results")
