"""What must not grow: memory with images, open files and shared memory with cells."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from harness.data.base import save_mask
from harness.results.store import Store
from tests.conftest import Run

MANY, FEW = 10_000, 1_000
MARGIN_MB = 60  # lists of ids, sizes and labels; and what the allocator of each thread has not yet given back


@pytest.fixture
def crowd(tmp_path: Path) -> Path:
    """A folder of many small images, which are four."""
    root, rng = tmp_path / "crowd", np.random.default_rng(0)
    for name in ("images", "masks"):
        (root / name).mkdir(parents=True)
    for number in range(MANY):
        image, mask = root / "images" / f"{number:05d}.jpg", root / "masks" / f"{number:05d}.png"
        if number < 4:
            Image.fromarray(rng.integers(0, 255, (120, 160, 3), np.uint8)).save(image)
            save_mask(mask, rng.integers(0, 3, (120, 160), np.uint8))
        else:
            image.hardlink_to(root / "images" / f"{number % 4:05d}.jpg")
            mask.hardlink_to(root / "masks" / f"{number % 4:05d}.png")
    lines = [f"{number:05d},train,{number % 2},{1 - number % 2}" for number in range(MANY)]
    (root / "labels.csv").write_text("id,split,cat,dog\n" + "\n".join(lines) + "\n")
    return root


@pytest.mark.slow
def test_ten_times_the_images_take_no_more_memory(crowd: Path, tmp_path: Path) -> None:
    peaks = []
    for limit in (FEW, MANY):
        command = [
            Path(sys.executable).parent / "harness", "run", "--methods", "cam", "--backbones", "timm:test_vit",
            "--dataset", "folder", "--root", str(crowd),
            "--weights", "random", "--set", "cam.image_size=32", "--set", "cam.inference_size=32",
            "--set", "cam.epochs=1", "--limit", str(limit), "--results", str(limit),
        ]  # fmt: skip
        found = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False, timeout=1800)
        assert found.returncode == 0, found.stderr
        (record,) = Store(tmp_path / str(limit)).records()
        stages: dict[str, int] = {}
        for stage in record["stages"]:
            stages[stage["stage"]] = max(stages.get(stage["stage"], 0), stage["memory_mb"]["host"])
        peaks.append(stages)
        assert sum(stage["stage"] == "mask" for stage in record["stages"]) == -(-limit // 256)
    few, many = peaks
    assert {name: peak for name, peak in many.items() if peak > few[name] + MARGIN_MB} == {}, peaks


@pytest.mark.slow
def test_forty_cells_leave_no_more_open_files_and_shared_memory_than_two(here: Run) -> None:
    def run(first: int, last: int) -> None:
        seeds = ",".join(map(str, range(first, last)))
        found = here("run", "--methods", "sanity-background", "--limit", "2", "--seeds", seeds)
        assert found.returncode == 0, found.stderr

    run(0, 2)
    before, shared = _open_files(), shutil.disk_usage("/dev/shm").used  # noqa: S108
    run(2, 42)
    after = _open_files()
    both = before.keys() & after.keys()
    assert len(both) >= 2, "this process and a worker"
    assert {pid: (before[pid], after[pid]) for pid in both if after[pid] > before[pid] + 3} == {}
    assert shutil.disk_usage("/dev/shm").used <= shared + (1 << 20)  # noqa: S108


def _open_files() -> dict[int, int]:
    """Return how many files this process and each of Ray's workers below it have open."""
    counts = {}
    for folder in Path("/proc").glob("[0-9]*"):
        pid = int(folder.name)
        try:
            if pid == os.getpid() or (_below_us(pid) and (folder / "cmdline").read_text().startswith("ray::")):
                counts[pid] = len(list((folder / "fd").iterdir()))
        except (FileNotFoundError, ProcessLookupError):
            continue
    return counts


def _below_us(pid: int) -> bool:
    while pid > 1:
        if pid == os.getpid():
            return True
        pid = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    return False
