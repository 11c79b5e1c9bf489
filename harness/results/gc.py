"""Find and remove what no record of a results folder needs.

What makes it safe: whoever counts on artefacts, a run or a merge, shares a lock on the folder from before it looks at
them until its records are written. Removing takes that lock alone. It refuses while another process has it, and, for
machines that the lock does not reach, while there is a living lease or a worker that has outlived its run.
"""

from __future__ import annotations

import os
import re
import shutil
import tempfile
import time
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.data.decoded import decoded_folder
from harness.errors import UserError
from harness.results.lease import Leases, locked
from harness.results.record import Record
from harness.results.store import MANIFEST, Store
from harness.stages import STAGES
from harness.strict import KEY

if TYPE_CHECKING:
    from harness.inputs import ScanProgress

DRAFT_SECONDS = 3600.0  # a younger draft may be on its way

_DRAFT = re.compile(r"\..+\.[a-z0-9_]{8}|tmp[a-z0-9_]{8}")  # names that `tempfile` gives


@dataclass(frozen=True)
class Waste:
    """Something that no record needs.

    Attributes
    ----------
    path : Path
    kind : str
        `work`, `lease`, `draft`, `cache`, or the stage of an artefact.
    why : str
    """

    path: Path
    kind: str
    why: str


def find_waste(store: Store, keep: Collection[str] = STAGES) -> list[Waste]:
    """Return what no record needs and nobody uses.

    Parameters
    ----------
    store : Store
    keep : collection of str
        Stages of which the cells that are done keep their artefacts.

    Raises
    ------
    UserError
        If a record cannot be read: what it needs is not known then.
    """
    records = list(store.records(strict=True))
    needed = {key for record in records if record["status"] == "done" for key in _keys(record)}
    datasets = {record["spec"]["dataset"] for record in records}
    used = set(in_use(store))
    return [
        *(found for found in _artefacts(store, needed, keep) if found.path.name not in used),
        *(Waste(path, "work", "nobody works on it") for path in _inside(store.root / "work") if path.name not in used),
        *(Waste(path, "lease", "its holder is gone") for path in _leases(store) if _is_left(path, used)),
        *_caches(store, datasets),
        *(Waste(path, "draft", "its writer is gone") for path in _drafts(store)),
    ]


def remove_waste(store: Store, keep: Collection[str], progress: ScanProgress) -> list[tuple[Waste, int]]:
    """Remove what `find_waste` finds; return it with its bytes.

    Everything is moved aside first, each artefact in one step: a kill leaves no half artefact, and the next call
    removes what was moved.

    Raises
    ------
    UserError
        If somebody uses the folder, or a record in it cannot be read.
    """
    store = Store(store.root, create=True)  # one of records alone has no folder for leases and work
    leases = Leases(store.root / "leases")
    busy = f"at work in {store.root}: {{}}; wait, then give the same command"
    try:
        with locked(store.usage, wait=False):
            if users := in_use(store):
                raise UserError(busy.format(", ".join(users[:5])))
            waste = find_waste(store, keep)
            trash = Path(tempfile.mkdtemp(prefix="gc-", dir=store.root / "work"))
            leases.acquire(trash.name)
            for number, found in enumerate(waste):
                os.rename(found.path, trash / str(number))
            for lock in (store.root / "leases").glob("[!.]*.lock"):  # empty, and held by nobody now: see `in_use`
                lock.unlink()
    except BlockingIOError:
        raise UserError(busy.format("a run or a merge")) from None
    removed = []
    for number, found in enumerate(waste):
        progress(str(store.root), number, len(waste))
        leases.heartbeat()
        removed.append((found, _size(trash / str(number))))
        _remove(trash / str(number))
    trash.rmdir()
    leases.release(trash.name)
    return removed


def in_use(store: Store) -> list[str]:
    """Return what somebody works on: keys of stages, `merge`, what `gc` has moved aside."""
    leases = store.root / "leases"
    held = [path.stem for path in _leases(store) if path.suffix == ".lock" and _is_held(path)]
    return sorted({*Leases(leases).living(), *held})


def measure(store: Store, waste: list[Waste], progress: ScanProgress) -> list[tuple[Waste, int]]:
    """Return waste with its bytes."""
    measured = []
    for number, found in enumerate(waste):
        progress(str(store.root), number, len(waste))
        measured.append((found, _size(found.path)))
    return measured


def _artefacts(store: Store, needed: set[str], keep: Collection[str]) -> Iterator[Waste]:
    for stage in STAGES:
        for path in _inside(store.root / "artefacts" / stage):
            if not re.fullmatch(KEY, path.name):
                continue
            if not (path / MANIFEST).exists():
                yield Waste(path, stage, "half an artefact")
            elif path.name not in needed:
                yield Waste(path, stage, "no cell that is done needs it")
            elif stage not in keep:
                yield Waste(path, stage, "not to be kept")


def _keys(record: Record) -> Iterator[str]:
    """Yield the keys of all stages of a cell."""
    yield from (stage["key"] for stage in record["stages"])
    yield from _leaves(record["artefacts"])


def _leaves(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict | list):
        for part in value.values() if isinstance(value, dict) else value:
            yield from _leaves(part)


def _leases(store: Store) -> list[Path]:
    files = _inside(store.root / "leases")
    return [path for path in files if path.suffix in (".json", ".lock") and not path.name.startswith(".")]


def _is_left(lease: Path, used: Collection[str]) -> bool:
    return lease.suffix == ".json" and lease.stem not in used


def _caches(store: Store, datasets: set[str]) -> Iterator[Waste]:
    needed = {f"files-{dataset}.json" for dataset in datasets}
    for path in _inside(store.root / "cache"):
        if path.match("files-*.json") and path.name not in needed:  # what the check pass remembers
            yield Waste(path, "cache", "of a dataset without records")
    if (decoded := decoded_folder(store.root)).is_dir():
        yield Waste(decoded, "cache", "decoded images, made again when asked for")


def _drafts(store: Store) -> list[Path]:
    """Return the drafts of single files that were neither finished nor thrown away."""
    files = [path for name in (".", "records", "leases", "cache") for path in _inside(store.root / name)]
    oldest = time.time() - DRAFT_SECONDS
    return [path for path in files if _DRAFT.fullmatch(path.name) and path.lstat().st_mtime < oldest]


def _inside(folder: Path) -> list[Path]:
    return sorted(folder.iterdir()) if folder.is_dir() else []


def _is_held(lock: Path) -> bool:
    try:
        with locked(lock, wait=False):
            return False
    except BlockingIOError:
        return True


def _size(path: Path) -> int:
    """Return the bytes of a file, or of all files in a folder; 0 if it has just gone."""
    if path.is_dir() and not path.is_symlink():
        return sum(_size(inside) for inside in path.iterdir())
    try:
        return path.lstat().st_size
    except FileNotFoundError:
        return 0


def _remove(path: Path) -> None:
    if path.is_symlink() or not path.is_dir():
        path.unlink()
    else:
        shutil.rmtree(path)
