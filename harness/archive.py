"""Archives, and results folders, read as a stream of plain files.

Whoever made one may be a stranger. A link, a device, a name that leads elsewhere, the same name twice, or more than was
agreed on is refused. Nothing is unpacked here: the reader is handed names and bytes, and decides where they go.
"""

from __future__ import annotations

import gzip
import io
import os
import stat
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import IO, Any, Protocol

from harness.errors import UserError

TAR, TAR_GZ, ZIP = (".tar",), (".tar.gz", ".tgz"), (".zip",)
MEMBERS = 1_000_000  # files in an archive
CHUNK = 1 << 20  # bytes
_HEADER = 1 << 13  # bytes of one header of a tar archive
_NAME, _PART = 500, 255  # characters of a path, bytes of a part of it
_BLOCK = 512  # bytes; what a tar archive is made of


class UnreadableFileError(UserError):
    """One file of a source cannot be read; the others may be fine."""


@dataclass(frozen=True)
class File:
    """A plain file of a source.

    Attributes
    ----------
    name : str
        Its path in the source, checked: relative, printable, straight down.
    size : int
        In bytes.
    share : float
        How far into the source it stands, in [0, 1].
    chunks : callable
        Returns its bytes piece by piece; to be read before the next file is asked for. Raises `UnreadableFileError` if
        they are damaged.
    """

    name: str
    size: int
    share: float
    chunks: Callable[[], Iterator[bytes]]


class Source(Protocol):
    """A results folder, or an archive of one."""

    path: Path

    def files(self) -> Iterator[File]:
        """Yield every file, in the order in which they are cheap to read.

        Raises
        ------
        UserError
            At whatever a results folder cannot hold, or if the archive is damaged.
        """


def open_archive(path: Path, max_bytes: int, more: str, only: tuple[str, ...] = ("",)) -> Source:
    """Return an archive as a source.

    Parameters
    ----------
    path : Path
    max_bytes : int
        How much it may unpack to.
    more : str
        The end of the error message if it unpacks to more.
    only : tuple of str
        How the names begin that are wanted; others are passed over, whatever they are.

    Raises
    ------
    UserError
        If it is none.
    """
    name = path.name.lower()
    if not path.is_file():
        raise UserError(f"no archive {path}")
    if name.endswith(ZIP):
        return ZipSource(path, max_bytes, more, only)
    if name.endswith(TAR + TAR_GZ):
        return TarSource(path, max_bytes, more, only)
    raise UserError(f"{path}: expected an archive: {', '.join(TAR + TAR_GZ + ZIP)}")


def open_source(path: Path, max_bytes: int) -> Source:
    """Return a results folder, or an archive of one, as a source.

    Parameters
    ----------
    path : Path
    max_bytes : int
        How much an archive may unpack to.

    Raises
    ------
    UserError
        If it is neither.
    """
    if path.is_dir():
        return FolderSource(path)
    if not path.exists():
        raise UserError(f"no results folder or archive {path}")
    if not path.name.lower().endswith(TAR + TAR_GZ + ZIP):
        raise UserError(f"{path}: expected a results folder, or an archive of one: {', '.join(TAR + TAR_GZ + ZIP)}")
    return open_archive(path, max_bytes, "--max-bytes allows more")


def is_plain(name: str) -> bool:
    """Return whether a path is printable, not too long, and leads straight down from where it begins."""
    if len(name) > _NAME or not name.isprintable() or "\\" in name:
        return False
    return not any(part in ("", ".", "..") or len(part.encode()) > _PART for part in name.split("/"))


class FolderSource:
    """A results folder; only what a store is made of is looked at."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def files(self) -> Iterator[File]:
        """Yield its marker, its records, and its artefacts one by one; see `Source`."""
        with _reading(self.path):
            artefacts = [key for stage in self._inside("artefacts") for key in self._inside(stage)]
            yield from self._files(["store.json"], 0)
            for number, folder in enumerate(["records", *artefacts]):
                yield from self._files(self._inside(folder), number / (1 + len(artefacts)))

    def _inside(self, folder: str) -> list[str]:
        """Return what stands in a folder, if it is one."""
        found = self._look(folder)
        if found is None or not stat.S_ISDIR(found.st_mode):
            return []
        return sorted(f"{folder}/{name}" for name in os.listdir(self.path / folder))

    def _files(self, names: list[str], share: float) -> Iterator[File]:
        for name in names:
            found = self._look(name)
            if found is not None and stat.S_ISREG(found.st_mode):
                chunks = partial(_chunks, partial(io.FileIO, self.path / name), f"{self.path}: {name}")
                yield File(name, found.st_size, share, chunks)

    def _look(self, name: str) -> os.stat_result | None:
        try:
            found = os.lstat(self.path / name)
        except FileNotFoundError:
            return None
        if not (stat.S_ISREG(found.st_mode) or stat.S_ISDIR(found.st_mode)):
            raise _refused(self.path, f"{name!a} is a link or a device")
        if not is_plain(name):
            raise _refused(self.path, f"{ascii(name)[:100]} is no name of a store's file")
        return found


@dataclass
class _Packed:
    """An archive: where it is, what it may unpack to, the option that raises that, and the wanted prefixes."""

    path: Path
    max_bytes: int
    more: str
    only: tuple[str, ...]


class ZipSource(_Packed):
    """A .zip archive; only stored and deflated files, which cannot unpack to more than their entries say."""

    def files(self) -> Iterator[File]:
        """Yield its files in the order of its directory; see `Source`."""
        names = _Names(self.path, self.only)
        with _reading(self.path), zipfile.ZipFile(self.path) as archive:
            members = archive.infolist()
            if sum(member.file_size for member in members) > self.max_bytes:
                raise _too_much(self.path, self.max_bytes, self.more)
            for number, member in enumerate(members):
                name = names.admit(member.filename, member.is_dir())
                if name is None:
                    continue
                if stat.S_IFMT(member.external_attr >> 16) not in (0, stat.S_IFREG):
                    raise _refused(self.path, f"{name!a} is a link or a device")
                if member.flag_bits & 1 or member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
                    raise _refused(self.path, f"{name!a} is encrypted, or packed in an unusual way")
                chunks = partial(_chunks, partial(archive.open, member), f"{self.path}: {name}")
                yield File(name, member.file_size, number / len(members), chunks)


class TarSource(_Packed):
    """A .tar archive, packed with gzip or not; read from its first byte to its last."""

    def files(self) -> Iterator[File]:
        """Yield its files in their order; see `Source`."""
        names, total = _Names(self.path, self.only), self.path.stat().st_size
        with _reading(self.path), open(self.path, "rb") as packed:
            packs = self.path.name.lower().endswith(TAR_GZ)
            tape = _Tape(gzip.GzipFile(fileobj=packed) if packs else packed, self.path, self.max_bytes, self.more)
            archive = tarfile.TarFile(fileobj=tape)  # type: ignore[arg-type]
            while (member := archive.next()) is not None:
                archive.members, archive.pax_headers = [], {}  # type: ignore[attr-defined]  # it would keep all
                name = names.admit(member.name, member.isdir())
                if name is None:
                    continue
                if member.type not in (tarfile.REGTYPE, tarfile.AREGTYPE) or member.issparse():
                    raise _refused(self.path, f"{name!a} is a link or a device")
                if member.size < 0:  # `tarfile` would go back and read the same for ever
                    raise tarfile.ReadError("a file of negative size")
                yield File(name, member.size, packed.tell() / total, partial(tape.chunks, member.size))
            tape.finish()


class _Tape:
    """What `tarfile` reads through: headers of a sensible length, and so many bytes in all.

    `tarfile` itself would read a header of any length into memory, and take a damaged one for the end of the archive.
    """

    def __init__(self, file: IO[bytes] | gzip.GzipFile, path: Path, max_bytes: int, more: str) -> None:
        self.file: Any = file
        self.path = path
        self.max_bytes = max_bytes
        self.more = more
        self.header = b""

    def tell(self) -> int:
        return self.file.tell()

    def seek(self, position: int) -> int:
        if position > self.max_bytes:
            raise _too_much(self.path, self.max_bytes, self.more)
        return self.file.seek(position)

    def read(self, size: int) -> bytes:
        if not 0 <= size <= _HEADER:
            raise tarfile.ReadError("a header is too long")
        self.header = self._read(size)
        return self.header

    def chunks(self, size: int) -> Iterator[bytes]:
        with _reading(self.path):
            while size:
                chunk = self._read(min(size, CHUNK))
                if not chunk:
                    raise tarfile.ReadError("unexpected end of data")
                size -= len(chunk)
                yield chunk

    def finish(self) -> None:
        """Check that the last header was the one that ends an archive, and that nothing stands behind it."""
        if len(self.header) < _BLOCK or self.header.strip(b"\0"):
            raise tarfile.ReadError("it ends too soon, or a header is damaged")
        while chunk := self._read(CHUNK):
            if chunk.strip(b"\0"):
                raise tarfile.ReadError("something stands behind its end")

    def _read(self, size: int) -> bytes:
        data = self.file.read(size)
        if self.tell() > self.max_bytes:
            raise _too_much(self.path, self.max_bytes, self.more)
        return data


class _Names:
    """The names in an archive: each plain, none twice on any file system, not too many."""

    def __init__(self, path: Path, only: tuple[str, ...]) -> None:
        self.path = path
        self.only = only
        self.seen: set[str] = set()
        self.count = 0

    def admit(self, name: str, is_folder: bool) -> str | None:
        """Return the path of a file, checked, or None for a folder and what is not wanted.

        Raises
        ------
        UserError
            If no archive of plain files would hold it.
        """
        self.count += 1
        if self.count > MEMBERS:
            raise _refused(self.path, f"it holds more than {MEMBERS:,} files")
        plain = (name.rstrip("/") if is_folder else name).removeprefix("./")
        if not plain.startswith(self.only) or (is_folder and plain in ("", ".")):
            return None
        if not is_plain(plain):
            raise _refused(self.path, f"{ascii(name)[:100]} is no name of a plain file")
        if is_folder:
            return None
        if plain.casefold() in self.seen:
            raise _refused(self.path, f"it holds {plain!a} twice, in the same or another case")
        self.seen.add(plain.casefold())
        return plain


@contextmanager
def _reading(path: Path) -> Iterator[None]:
    """Turn what goes wrong with an archive into an error that names it."""
    try:
        yield
    except (tarfile.TarError, zipfile.BadZipFile, zlib.error, EOFError, OSError, ValueError, RuntimeError) as error:
        raise UserError(f"{path} cannot be read: {error}") from None


def _chunks(open_file: Callable[[], IO[bytes]], name: str) -> Iterator[bytes]:
    """Yield the bytes of a file that can be opened on its own."""
    try:
        with open_file() as file:
            while chunk := file.read(CHUNK):
                yield chunk
    except (zipfile.BadZipFile, zlib.error, EOFError, OSError, RuntimeError) as error:
        raise UnreadableFileError(f"{name} cannot be read: {error}") from None


def _refused(path: Path, why: str) -> UserError:
    return UserError(f"{path} is refused: {why}")


def _too_much(path: Path, max_bytes: int, more: str) -> UserError:
    return _refused(path, f"it unpacks to more than {max_bytes:,} bytes; {more}")
