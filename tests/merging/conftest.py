"""What the tests of merging share: stores of two machines, and archives of them."""

from __future__ import annotations

import tarfile
import zipfile
from pathlib import Path
from typing import Any

import pytest

from harness.results.merge import Merge, carry_out, plan_merge
from harness.results.store import Store


def quiet(what: str, done: int, total: int) -> None:
    assert 0 <= done <= total


def merge(into: Path, *sources: Path, max_bytes: int | None = None) -> Merge:
    """Merge as the command does."""
    found = plan_merge(sources, into, max_bytes, quiet)
    if not found.conflicts:
        carry_out(found, into, quiet)
    return found


@pytest.fixture
def here_store(tmp_path: Path) -> Store:
    return Store(tmp_path / "results", create=True)


@pytest.fixture
def other(tmp_path: Path) -> Store:
    return Store(tmp_path / "other", create=True)


def pack_tar(path: Path, trees: list[tuple[Path, str]]) -> None:
    with tarfile.open(path, "w" if path.suffix == ".tar" else "w:gz") as packed:
        for folder, name in trees:
            packed.add(folder, name)


def pack_zip(path: Path, store: Path, prefix: str) -> None:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as packed:
        for file in sorted(store.rglob("*")):
            packed.write(file, prefix + str(file.relative_to(store)))


def snapshot(folder: Path) -> dict[str, Any]:
    """Return all that stands in a folder, contents and times."""
    return {
        str(path.relative_to(folder)): (path.lstat().st_mtime_ns, path.is_file() and path.read_bytes())
        for path in folder.rglob("*")
    }
