"""What every recipe works with: verified archives, files that are there as a whole, workers, a written note."""

from __future__ import annotations

import json
import multiprocessing
import os
import shutil
import signal
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property, partial
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from harness.archive import File, Source, open_archive
from harness.data.base import Dataset, open_mask, save_mask
from harness.data.download import download, need_room
from harness.data.prepare.sources import Archive, Sources
from harness.data.voc import prepared_file
from harness.errors import UserError
from harness.files import write_atomic

MAX_FILE = 1_000_000_000  # bytes; no file of these datasets is larger
ARCHIVES = "archives"  # the folder in the root that downloads go to

Scan = Callable[[str, int, int], None]
Result = TypeVar("Result")


@dataclass
class Job:
    """One preparation.

    Attributes
    ----------
    dataset : type
    root : Path
        As the user gave it.
    home : Path
        The folder in it that holds the images.
    sources : Sources
    archives : Path or None
        A folder of archives that the user has; without one they are downloaded.
    masks : Path or None
        An archive of masks that somebody else has made.
    workers : int
        Processes that make masks.
    scan : callable
        Called with (what, done, total).
    say : callable
        Called with a line.
    """

    dataset: type[Dataset]
    root: Path
    home: Path
    sources: Sources
    archives: Path | None
    masks: Path | None
    workers: int
    scan: Scan
    say: Callable[[str], None]
    used: dict[str, dict[str, Any]] = field(default_factory=dict)

    @cached_property
    def before(self) -> dict[str, Any]:
        """What an earlier preparation has written down; empty if there was none."""
        path = prepared_file(self.home, self.dataset.prepared_as)
        return json.loads(path.read_text("utf-8")) if path.exists() else {}

    @property
    def ended_before(self) -> bool:
        """Whether an earlier preparation came to its end: only then is its note whole."""
        return "pictures" in self.before

    def write_down(self, note: dict[str, Any]) -> None:
        """Write down what was made from what, beside the images."""
        kept = self.before.get("archives", {})
        note = {"schema": 1, "dataset": self.dataset.prepared_as, "archives": kept | self.used, **note}
        write_atomic(prepared_file(self.home, self.dataset.prepared_as), json.dumps(note, indent=1) + "\n")

    def need_room(self) -> None:
        """Check that the disk has room for all that is still to come."""
        needed = self.sources.made
        for name, archive in self.sources.archives.items():
            needed += archive.unpacks_to if archive.unpacked else 0
            if not self.archives:
                have = [self.root / ARCHIVES / name, self.root / ARCHIVES / f"{name}.part"]
                needed += max(0, (archive.size or 0) - sum(path.stat().st_size for path in have if path.exists()))
        own = [path for path in self.home.rglob("*") if ARCHIVES not in path.parts[len(self.home.parts) :]]
        there = sum(path.stat().st_size for path in own if path.is_file())
        need_room(self.root, max(0, needed - there), self.dataset.prepared_as)

    def archive(self, name: str, only: tuple[str, ...]) -> Source:
        """Return an official archive, verified, of which only files count whose names begin so.

        Raises
        ------
        UserError
            If the user's file is missing or another one.
        EnvironmentUnfitError
            If it cannot be fetched.
        """
        official = self.sources.archives[name]
        path = (self.archives or self.root / ARCHIVES) / name
        if path.exists():
            self._remember(official, path)
        elif self.archives:
            known = official.vouched or "no checksum is known"
            raise UserError(f"{self.archives} has no {name} ({known}; from {' or '.join(official.urls)})")
        else:
            self.say(f"downloading {name} to {path.parent}")
            progress = partial(self._scan_bytes, f"downloading {name} MB")
            download(official.urls, path, partial(self._remember, official), progress=progress)
        return open_archive(path, official.unpacks_to, "is it the official one?", only)

    def _scan_bytes(self, what: str, done: int, total: int) -> None:
        self.scan(what, done // 10**6, total // 10**6)

    def _remember(self, official: Archive, path: Path) -> None:
        """Verify an archive; keep its checksums for the note."""
        name = path.name.removesuffix(".part")
        found = official.verify(path, partial(self._scan_bytes, f"verifying {name} MB"))
        vouched = official.vouched.partition(" ")[0]
        self.used[name] = {"bytes": path.stat().st_size, **found, "vouched_by": vouched}
        if not vouched:
            self.say(f"{name}: no published checksum is known, nothing vouches for it; its sha256 is {found['sha256']}")

    def unpack(self, source: Source, place: Callable[[str], Path | None]) -> int:
        """Write the files of an archive to where `place` says; leave alone what is there already, byte for byte.

        Returns
        -------
        int
            How many files there are.
        """
        count = 0
        for file in source.files():
            self.scan(f"unpacking {source.path.name} %", int(100 * file.share), 100)
            path = place(file.name)
            if path is not None:
                _put(path, read(source, file))
                count += 1
        return count

    def every(self, work: Callable[..., Result], tasks: Iterable[tuple[Any, ...]]) -> Iterator[Result]:
        """Return what a function of a module gives for every task, in order, made by several processes."""
        return _parallel(work, tasks, self.workers)


def read(source: Source, file: File) -> bytes:
    """Return a file of an archive.

    Raises
    ------
    UserError
        If it is larger than any of these datasets, or damaged.
    """
    if file.size > MAX_FILE:
        raise UserError(f"{source.path} is refused: {file.name} has {file.size:,} bytes")
    return b"".join(file.chunks())


def put_mask(path: Path, mask: np.ndarray) -> None:
    """Write a mask, unless the same is there."""
    if path.exists():
        try:
            if np.array_equal(open_mask(path), mask):
                return
        except (OSError, ValueError, SyntaxError):
            pass  # damaged: written again
    draft = path.with_name(f".{os.getpid()}-{path.name}")
    save_mask(draft, mask)
    os.replace(draft, path)


class Draft:
    """A folder that has its name when it is complete, and another one before."""

    def __init__(self, final: Path) -> None:
        self.final = final
        self.path = final if final.exists() else final.with_name(f"{final.name}.part")
        self.path.mkdir(parents=True, exist_ok=True)

    def discard_part(self) -> None:
        """Begin anew, unless it is complete: what stands there was made from something else."""
        if self.path != self.final:
            shutil.rmtree(self.path)
            self.path.mkdir()

    def publish(self) -> None:
        """Give it its name."""
        for left in self.path.glob(".*"):  # of a process that was killed
            left.unlink()
        if self.path != self.final:
            os.rename(self.path, self.final)


def _put(path: Path, data: bytes) -> None:
    if path.exists() and path.stat().st_size == len(data) and path.read_bytes() == data:
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f".{path.name}.part")
    draft.write_bytes(data)
    os.replace(draft, path)


def _parallel(work: Callable[..., Result], tasks: Iterable[tuple[Any, ...]], workers: int) -> Iterator[Result]:
    """Yield results in order; no more tasks wait in memory than keep the processes busy."""
    tasks = iter(tasks)
    with ProcessPoolExecutor(workers, multiprocessing.get_context("spawn"), _end_with_parent) as pool:
        waiting: deque[Future[Result]] = deque()

        def submit(count: int) -> None:
            with _sigint_blocked():
                waiting.extend(pool.submit(work, *task) for task in islice(tasks, count))

        try:
            submit(8 * workers)
            while waiting:
                result = waiting.popleft().result()
                submit(1)
                yield result
        finally:
            for future in waiting:
                future.cancel()


@contextmanager
def _sigint_blocked() -> Iterator[None]:
    """Block SIGINT; processes that are started meanwhile keep it blocked, and leave Ctrl-C to this one."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _end_with_parent() -> None:
    """End this process when the one that started it is killed: it would wait for work for ever."""
    parent = multiprocessing.parent_process()
    assert parent

    def watch() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
