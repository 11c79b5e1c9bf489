"""Leases: while the holder lives, no stage is computed twice, whoever shares the results folder."""

from __future__ import annotations

import fcntl
import json
import os
import platform
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from harness.files import write_atomic

STALE_SECONDS = 60.0


@contextmanager
def locked(path: Path, *, shared: bool = False, wait: bool = True) -> Iterator[None]:
    """Hold a lock on a file; it ends with the process, however that ends.

    Parameters
    ----------
    path : Path
        Made if it is not there.
    shared : bool
        Whether others may share it.
    wait : bool
        Whether to wait for it.

    Raises
    ------
    BlockingIOError
        If it is held by somebody else and `wait` is not set.
    """
    with open(path, "a") as file:
        fcntl.flock(file, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | (0 if wait else fcntl.LOCK_NB))
        yield


class Leases:
    """The leases of one scheduler.

    A lease is a file that names its holder. On the same machine the holder's process decides whether it lives; from
    another machine, whether it has touched the file of late, by the file server's own clock.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.held: set[str] = set()
        self._lock = folder / ".lock"
        self._me = {"machine": _machine(), "pid": os.getpid(), "started": _started(os.getpid())}

    def acquire(self, key: str) -> bool:
        """Take the lease of a stage; False while somebody else holds it."""
        with locked(self._lock):
            holder = self._read(key)
            if holder is not None and holder != self._me and self._lives(key, holder):
                return False
            write_atomic(self._path(key), json.dumps(self._me))
        self.held.add(key)
        return True

    def release(self, key: str) -> None:
        """Give a lease back."""
        self.held.discard(key)
        with locked(self._lock):
            if self._read(key) == self._me:
                self._path(key).unlink(missing_ok=True)

    def sweep(self) -> list[str]:
        """Remove the leases of holders that are gone; return what they were for."""
        gone = []
        with locked(self._lock):
            for path in self.folder.glob("*.json"):
                holder = self._read(path.stem)
                if holder is None or not self._lives(path.stem, holder):
                    path.unlink(missing_ok=True)
                    gone.append(path.stem)
        return gone

    def heartbeat(self) -> None:
        """Say to other machines that this scheduler lives; to be called every few seconds."""
        for key in self.held:
            if self._read(key) == self._me:
                os.utime(self._path(key))

    def living(self) -> list[str]:
        """Return the keys of all stages that somebody is computing."""
        keys = sorted(path.stem for path in self.folder.glob("*.json"))
        return [key for key in keys if (holder := self._read(key)) is not None and self._lives(key, holder)]

    def _lives(self, key: str, holder: dict[str, Any]) -> bool:
        if holder["machine"] == self._me["machine"]:
            return _started(holder["pid"]) == holder["started"]
        with tempfile.NamedTemporaryFile(dir=self.folder) as now:
            age = os.stat(now.name).st_mtime - self._path(key).stat().st_mtime
        return age < STALE_SECONDS

    def _read(self, key: str) -> dict[str, Any] | None:
        try:
            holder = json.loads(self._path(key).read_text("utf-8"))
        except (FileNotFoundError, ValueError):
            return None
        return holder if isinstance(holder, dict) and holder.keys() == self._me.keys() else None

    def _path(self, key: str) -> Path:
        return self.folder / f"{key}.json"


def _machine() -> str:
    """Return what distinguishes one set of process ids from another: the host's boot and the pid namespace."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot} {os.readlink('/proc/self/ns/pid')}"
    except OSError:
        return platform.node()


def _started(pid: int) -> str | None:
    """Return when a process started, or None if it is gone or dead."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return None if fields[0] in "ZX" else fields[19]
