"""Files that are there as a whole or not at all."""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

_UMASK = os.umask(0)  # it can only be read by setting it
os.umask(_UMASK)


def permissions(mode: int) -> int:
    """Return a mode as the user's umask leaves it, which drafts and libraries that write for us do not follow."""
    return mode & ~_UMASK


@contextmanager
def atomic(path: Path) -> Iterator[IO[bytes]]:
    """Open a file to be written; it has its name when it is complete, so that nobody ever sees half of it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, draft = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    try:
        with os.fdopen(handle, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.chmod(draft, permissions(0o666))
        os.replace(draft, path)
    except BaseException:
        os.unlink(draft)
        raise


def write_atomic(path: Path, text: str) -> None:
    """Write a text file so that a reader, or a crash, never sees half of it."""
    with atomic(path) as file:
        file.write(text.encode())


def sync_folder(path: Path) -> None:
    """Make the names in a folder, after a rename say, survive a power cut."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def hash_file(path: Path) -> str:
    """Return the sha256 of a file."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
