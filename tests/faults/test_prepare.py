"""`harness prepare` as a process: killed, stopped, out of room, forbidden; the same command goes on from there."""

from __future__ import annotations

import os
import resource
import shutil
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.data import official
from tests.data.official import VOC_TRAIN, serving
from tests.faults.conftest import HARNESS, wait_until

OTHERS = tuple(f"2008_{number:06d}" for number in range(5, 305))
COUNTS = {"train": 2, "train_aug": 2 + len(OTHERS), "val": 2}
WITHOUT_RIGHTS = ["setpriv", "--bounding-set=-dac_override,-dac_read_search"]  # root may do what an owner may, no more


@pytest.fixture(scope="module")
def archives(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("official archives")
    official.write_tar(folder / "VOCtrainval_11-May-2012.tar", official.voc_files(OTHERS))
    official.write_tar(folder / "benchmark.tgz", official.sbd_files(OTHERS))
    return folder


@pytest.fixture(scope="module")
def sources(archives: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return official.write_sources(
        tmp_path_factory.mktemp("sources") / "archives.yaml", "voc12", sorted(archives.iterdir()), COUNTS
    )


Prepare = Callable[..., list[str]]


@pytest.fixture
def prepare(archives: Path, sources: Path, tmp_path: Path) -> Prepare:
    """The command that prepares `tmp_path / root`, from the archives or by download."""

    def command(*more: str, of: Path = sources, taken: bool = True) -> list[str]:
        taken_from = ["--archives", str(archives)] if taken else []
        root = str(tmp_path / "the root")
        return [HARNESS, "prepare", "voc12", "--root", root, "--sources", str(of), "--workers", "2", *taken_from, *more]

    return command


def finish(command: list[str]) -> str:
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert "complete and verified" in done.stderr
    return done.stderr


DRAFTS = (".train_aug.txt.", ".prepared-voc12.json.")  # of a killed process; nobody reads them


def files(root: Path) -> dict[str, bytes]:
    found = [path for path in root.rglob("*") if path.is_file() and not path.name.startswith(DRAFTS)]
    return {str(path.relative_to(root)): path.read_bytes() for path in found}


@pytest.fixture(scope="module")
def undisturbed(archives: Path, sources: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    root = tmp_path_factory.mktemp("undisturbed")
    finish([HARNESS, "prepare", "voc12", "--root", str(root), "--sources", str(sources), "--archives", str(archives)])
    return files(root)


MOMENTS = {"JPEGImages": 100, "SegmentationClassAug.part": 100, "SegmentationClassAug": 304}


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_stopped_at_any_moment_then_the_same_command(
    prepare: Prepare, tmp_path: Path, undisturbed: dict[str, bytes], number: signal.Signals
) -> None:
    """The end of the output is waited for, and that is the end of the last worker: none outlives the command."""
    root = tmp_path / "the root"
    for folder, count in MOMENTS.items():
        with subprocess.Popen(prepare(), stderr=subprocess.PIPE, text=True, start_new_session=True) as process:
            inside = root / "VOCdevkit" / "VOC2012" / folder
            wait_until(lambda: inside.is_dir() and len(os.listdir(inside)) >= count)  # noqa: B023
            os.killpg(process.pid, number) if number == signal.SIGINT else process.kill()
            said = process.communicate(timeout=60)[1]
        assert process.returncode == (130 if number == signal.SIGINT else -9)
        if number == signal.SIGINT:
            assert said == "error: interrupted: what was finished is kept; the same command goes on from there\n"
    finish(prepare())
    assert files(root) == undisturbed


def test_killed_in_the_middle_of_a_download_then_the_same_command(
    prepare: Prepare, archives: Path, tmp_path: Path, undisturbed: dict[str, bytes]
) -> None:
    root, part = tmp_path / "the root", tmp_path / "the root" / "archives" / "benchmark.tgz.part"
    half = (archives / "benchmark.tgz").stat().st_size // 2
    with serving(archives) as server:
        mine = tmp_path / "mine.yaml"
        official.write_sources(mine, "voc12", sorted(archives.iterdir()), COUNTS, server.address)
        command = prepare(of=mine, taken=False)
        server.cuts = [10**9, half, *[0] * 20]  # the second archive comes no further
        with subprocess.Popen(command, stderr=subprocess.DEVNULL) as process:
            wait_until(lambda: part.exists() and part.stat().st_size == half)
            process.kill()
        server.cuts, server.asked = [], []
        finish(command)
        assert server.asked == [("/benchmark.tgz", f"bytes={half}-")]
    shutil.rmtree(root / "archives")
    assert files(root) == undisturbed


@pytest.mark.parametrize("size", [10, 100, 250, 3000])
def test_a_full_disk_is_said_at_any_moment_and_loses_nothing(
    prepare: Prepare, tmp_path: Path, undisturbed: dict[str, bytes], size: int
) -> None:
    """A limit on the size of files stops the note, a mask of a worker, an image or a list."""

    def full() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))

    done = subprocess.run(prepare(), capture_output=True, text=True, timeout=120, preexec_fn=full)
    root = tmp_path / "the root"
    said = f"error: the disk of {root} is full: make room; the same command goes on from there\n"
    assert (done.returncode, done.stderr) == (2, said)
    finish(prepare())
    assert files(root) == undisturbed


@pytest.mark.skipif(shutil.which("setpriv") is None, reason="needs setpriv, to be no more than an owner")
def test_what_may_not_be_read_or_written_is_named(prepare: Prepare, tmp_path: Path, archives: Path) -> None:
    def refused(path: Path, mode: int, *command: str) -> str:
        kept = path.stat().st_mode
        path.chmod(mode)
        try:
            done = subprocess.run([*WITHOUT_RIGHTS, *command], cwd=tmp_path, capture_output=True, text=True, timeout=60)
        finally:
            path.chmod(kept)
        assert done.returncode in (1, 2)
        assert "Traceback" not in done.stderr
        return done.stderr

    root = tmp_path / "the root"
    root.mkdir()
    denied = "Permission denied; when that is fixed, give the same command again"
    assert f"{root}/.prepare.lock: {denied}" in refused(root, 0o555, *prepare())
    assert f"benchmark.tgz: {denied}" in refused(archives / "benchmark.tgz", 0, *prepare())
    finish(prepare())
    images = root / "VOCdevkit" / "VOC2012" / "JPEGImages"
    found = refused(images, 0, *prepare("--check"))
    assert f"{VOC_TRAIN[0]}: JPEGImages/{VOC_TRAIN[0]}.jpg cannot be read: Permission denied" in found
    assert f"harness prepare voc12 --root '{root}'" in found
    assert denied in refused(images, 0, *prepare())
    run = [HARNESS, "run", "--methods", "sanity-random", "--dataset", "voc12", "--root", str(root)]
    assert "cannot be read: Permission denied" in refused(images, 0, *run)
    assert "split" in refused(images.parent / "ImageSets" / "Segmentation", 0, *run)


@pytest.mark.skipif(shutil.which("setpriv") is None, reason="needs setpriv, to be no more than an owner")
def test_a_root_that_is_read_only_is_checked_and_planned_on(prepare: Prepare, tmp_path: Path) -> None:
    root = tmp_path / "the root"
    finish(prepare())
    folders = [path for path in (root, *root.rglob("*")) if path.is_dir()]
    for folder in folders:
        folder.chmod(0o555)
    run = [HARNESS, "run", "--methods", "sanity-random", "--dataset", "voc12", "--root", str(root), "--dry-run"]
    try:
        for command in (prepare("--check"), run):
            done = subprocess.run(
                [*WITHOUT_RIGHTS, *command], cwd=tmp_path, capture_output=True, text=True, timeout=120
            )
            assert done.returncode == 0, done.stderr
    finally:
        for folder in folders:
            folder.chmod(0o755)
