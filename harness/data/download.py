"""Large files over HTTP: resumed where they were cut, from one mirror after the other, checked before they count."""

from __future__ import annotations

import errno
import hashlib
import http.client
import json
import os
import shutil
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from harness.errors import EnvironmentUnfitError, UserError
from harness.files import write_atomic

CHUNK = 1 << 20  # bytes
TRIES = 4  # in a row that bring nothing, until the next mirror's turn
SILENCE = 60.0  # seconds without a byte

Progress = Callable[[int, int], None]

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_FORBIDDEN = (errno.EACCES, errno.EPERM, errno.EROFS)


class WrongFileError(UserError):
    """A file is not the one that its checksum names."""


def download(
    urls: Sequence[str],
    target: Path,
    verify: Callable[[Path], None],
    *,
    pause: float = 1.0,
    progress: Progress = lambda done, total: None,
) -> None:
    """Fetch a file from the first address that gives the right one.

    What has come stays in `NAME.part` until all of it is there and `verify` agrees; the next call goes on from it.

    Parameters
    ----------
    urls : sequence of str
        Addresses of the same file.
    target : Path
    verify : callable
        Raises `WrongFileError` for a file that is not the right one; that file is removed.
    pause : float
        Seconds before the second try; twice as long before each further one.
    progress : callable
        Called with the bytes that are there, and bytes in all, 0 where the server does not say.

    Raises
    ------
    EnvironmentUnfitError
        If no address gives it, with what each said.
    UserError
        If the disk cannot hold it.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    part = target.with_name(f"{target.name}.part")
    said = []
    for url in urls:
        try:
            _fetch(url, part, pause, progress)
            verify(part)
        except WrongFileError as error:
            part.unlink()
            said.append(f"{url}: {error}")
        except (OSError, http.client.HTTPException) as error:
            said.append(f"{url}: {_reason(error)}")
        else:
            os.replace(part, target)
            _note_of(part).unlink(missing_ok=True)
            return
    raise EnvironmentUnfitError(
        f"{target.name} cannot be fetched: {'; '.join(said)}\n"
        "the same command goes on from what has come; with --archives DIR it takes files that you have"
    )


@contextmanager
def disk_watched(folder: Path) -> Iterator[None]:
    """Turn a disk that is full, or a file that may not be read or written, into a message that says what to do."""
    try:
        yield
    except OSError as error:
        if error.errno in _FULL:
            raise UserError(f"the disk of {folder} is full: make room; the same command goes on from there") from error
        if error.errno in _FORBIDDEN:
            where = error.filename or folder
            raise UserError(f"{where}: {error.strerror}; when that is fixed, give the same command again") from error
        raise


def need_room(folder: Path, needed: int, what: str) -> None:
    """Check that a disk has room, before anything is written to it.

    Raises
    ------
    UserError
        If it has not.
    """
    free = shutil.disk_usage(next(place for place in (folder, *folder.absolute().parents) if place.exists())).free
    if needed > free:
        raise UserError(f"{what} needs {needed:,} bytes on the disk of {folder}, {free:,} are free: make room first")


def checksums(path: Path, progress: Progress = lambda done, total: None) -> dict[str, str]:
    """Return md5 and sha256 of a file, read once."""
    found = {"md5": hashlib.md5(usedforsecurity=False), "sha256": hashlib.sha256()}
    total, done = path.stat().st_size, 0
    with open(path, "rb") as file:
        while chunk := file.read(CHUNK):
            for each in found.values():
                each.update(chunk)
            done += len(chunk)
            progress(done, total)
    return {name: each.hexdigest() for name, each in found.items()}


def _fetch(url: str, part: Path, pause: float, progress: Progress) -> None:
    """Fill `part`, asking again after every cut, as long as something comes."""
    if not url.startswith(("http://", "https://")):
        raise UserError(f"{url}: expected an address that begins with http:// or https://")
    tries = 0
    while True:
        before = _size(part)
        try:
            if _ask(url, part, progress):
                return
            error: Exception = http.client.HTTPException("the connection was cut")
        except urllib.error.HTTPError as refusal:
            if refusal.code < 500:
                raise
            error = refusal
        except (urllib.error.URLError, http.client.HTTPException, ConnectionError, TimeoutError) as failure:
            error = failure
        tries = 1 if _size(part) > before else tries + 1
        if tries >= TRIES:
            raise error
        time.sleep(pause * 2 ** (tries - 1))


def _ask(url: str, part: Path, progress: Progress) -> bool:
    """Ask for what is missing; return whether all of it has come."""
    have, version = _size(part), _version_of(part, url)
    if not version:  # nobody knows what the beginning is the beginning of
        have = 0
    headers = {"Range": f"bytes={have}-", "If-Range": version} if have else {}
    request = urllib.request.Request(url, headers=headers)  # noqa: S310 (http or https, see `_fetch`)
    try:
        answer = urllib.request.urlopen(request, timeout=SILENCE)  # noqa: S310
    except urllib.error.HTTPError as refusal:
        refusal.close()
        if refusal.code != 416:  # there is nothing behind what has come
            raise
        if refusal.headers.get("Content-Range") == f"bytes */{have}":
            return True
        part.unlink()
        return False
    with answer:
        if answer.status != 206:
            have = 0
        length = answer.headers.get("Content-Length")
        total = have + int(length) if length else 0
        need_room(part.parent, max(0, total - have), part.stem)
        tag = answer.headers.get("ETag", "W/")
        version = answer.headers.get("Last-Modified", "") if tag.startswith("W/") else tag
        with disk_watched(part.parent), open(part, "ab" if have else "wb") as file:
            write_atomic(_note_of(part), json.dumps({"url": url, "version": version}))
            while chunk := answer.read(CHUNK):
                file.write(chunk)
                have += len(chunk)
                progress(have, total)
    return not total or have == total


def _version_of(part: Path, url: str) -> str:
    """Return which version of the file at an address `part` is the beginning of, if that is known."""
    try:
        note = json.loads(_note_of(part).read_text("utf-8"))
    except (OSError, ValueError):
        return ""
    return note["version"] if note["url"] == url else ""


def _note_of(part: Path) -> Path:
    return part.with_name(f"{part.name}.json")


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _reason(error: Exception) -> str:
    if isinstance(error, urllib.error.HTTPError):
        return f"{error.code} {error.reason}"
    return str(error) or type(error).__name__
