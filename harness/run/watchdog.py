"""Watch the process of a stage from inside: what it prints stays small, and one that eats the memory ends itself.

A limit of the kernel on address space would be no use: CUDA reserves far more than it takes. So a thread looks at what
the process holds, ten times a second. Code that keeps Python's lock in one long call is seen when it lets go.
"""

from __future__ import annotations

import contextlib
import faulthandler
import os
import threading
from collections.abc import Iterator
from pathlib import Path

SECONDS = 0.1
LOG_BYTES = 1 << 20
TAIL_BYTES = 1 << 16  # what is kept of a longer log
CUT = b"[too much was printed; this is the end of it]\n"
OUT_OF_MEMORY = "Out of memory: "  # begins the line that a stage leaves in its log when it ends itself
KEPT_BYTES = 8 << 30  # at most, by a stage for its speed alone
_GIB = 2**30


@contextlib.contextmanager
def guarded(log: Path, memory_gb: float = 0.0) -> Iterator[None]:
    """Keep the log of this process below its size, and this process below its memory, until the end.

    Parameters
    ----------
    log : Path
        Open for appending.
    memory_gb : float
        What this process may hold, in GiB; 0 is all that the machine can do without, see `too_much`.
    """
    ended = threading.Event()
    watch = threading.Thread(target=_watch, args=(log, memory_gb, ended), daemon=True)
    watch.start()
    try:
        yield
    finally:
        ended.set()
        watch.join()
        cut(log)


def _watch(log: Path, memory_gb: float, ended: threading.Event) -> None:
    while not ended.wait(SECONDS):
        cut(log)
        if why := too_much(memory_gb * _GIB, *_memory()):
            os.write(2, f"{OUT_OF_MEMORY}{why}\n".encode())
            faulthandler.dump_traceback(2)
            os._exit(1)


def cut(log: Path) -> None:
    """Leave the end of a log that has grown too long, and say so in it."""
    if not log.exists() or log.stat().st_size <= LOG_BYTES:
        return
    with open(log, "rb") as file:
        file.seek(-TAIL_BYTES, os.SEEK_END)
        end = file.read(TAIL_BYTES)
    os.truncate(log, 0)
    with open(log, "ab") as file:  # others go on writing meanwhile, and all write to its end
        file.write(CUT + end)


def too_much(limit: float, held: int, total: int, available: int) -> str:
    """Return why a process must end; empty while it may go on.

    It may hold its limit. And where less than a tenth of the machine's memory is left, the process that holds more than
    half of it ends, before the kernel or Ray choose one that has done nothing.

    Parameters
    ----------
    limit : float
        0 for none.
    held, total, available : int
        By the process; in the machine; and free there. All in bytes.
    """
    if limit and held > limit:
        return f"it held {held / _GIB:.1f} GiB, and was allowed {limit / _GIB:.1f}"
    if held > total / 2 and available < total / 10:
        return (
            f"it held {held / _GIB:.1f} of the machine's {total / _GIB:.1f} GiB, and {available / _GIB:.1f} were left"
        )
    return ""


def spare(memory_gb: float) -> int:
    """Return the bytes that a stage may hold for its speed alone: a quarter of its limit, or of what is free."""
    return min(KEPT_BYTES, int(memory_gb * _GIB) // 4 if memory_gb else _memory()[2] // 4)


def _memory() -> tuple[int, int, int]:
    """Return what this process holds, what the machine has and what is free, in bytes; zeros where Linux is not."""
    try:
        held = int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
        machine = dict(line.split(":") for line in Path("/proc/meminfo").read_text().splitlines())
    except OSError:
        return 0, 0, 0
    total, available = (int(machine[name].split()[0]) << 10 for name in ("MemTotal", "MemAvailable"))
    return held, total, available
