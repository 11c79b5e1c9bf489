"""A verification that is killed in the middle of its training ends as an undisturbed one does."""

from __future__ import annotations

import json
import signal
import subprocess
from pathlib import Path
from typing import Any

import torch

from tests.faults.conftest import HARNESS, wait_for_orphans, wait_until

SETTINGS = {"iterations": 60, "crop": 64, "batch_size": 2, "accumulate": 2}
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


def told(results: Path) -> dict[str, Any]:
    """Return what a training has said of its progress, if it has."""
    for path in results.glob("work/*/progress.json"):
        progress = json.loads(path.read_text())
        if progress.get("what", "").startswith("verify") and progress["total"]:
            return progress
    return {}


def test_kill_in_the_middle_of_verify_then_the_same_command(tmp_path: Path) -> None:
    undisturbed, results = tmp_path / "undisturbed", tmp_path / "killed" / "results"
    for folder in (undisturbed, results.parent):
        folder.mkdir()
    subprocess.run(COMMAND, cwd=undisturbed, check=True, capture_output=True, timeout=300)
    with subprocess.Popen(COMMAND, cwd=results.parent, stderr=subprocess.DEVNULL) as driver:
        wait_until(lambda: list(results.glob("work/*/training/checkpoint.pth")))
        driver.send_signal(signal.SIGKILL)
    wait_for_orphans(results)
    assert not list(results.glob("artefacts/verify/*"))
    (checkpoint,) = results.glob("work/*/training/checkpoint.pth")
    kept = torch.load(checkpoint, weights_only=False)["meta"]["iter"] // SETTINGS["accumulate"]
    assert 0 < kept < SETTINGS["iterations"]
    for path in results.glob("work/*/progress.json"):
        path.unlink()
    with subprocess.Popen(COMMAND, cwd=results.parent, stderr=subprocess.DEVNULL) as driver:
        first = wait_until(lambda: told(results))
        assert driver.wait(200) == 0
    assert first["done"] > kept
    assert outcome(results) == outcome(undisturbed / "results")
