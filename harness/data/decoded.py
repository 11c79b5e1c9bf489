"""Images decoded once and kept, for stages that open them again and again.

Each has a file of its own, named by the content of the image's, which `open_rgb` maps into memory. So a changed
image has another file, and splits, runs and processes share what they have in common. Its time of change is a
function of its name: a file that was changed since, at whatever size, has another, and is written again.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from io import BytesIO
from pathlib import Path

import numpy as np

from harness.data.base import DECODED, open_rgb
from harness.data.download import disk_watched, need_room
from harness.data.index import ImageFile, Progress, content_key
from harness.errors import UserError
from harness.files import atomic

_HEADER = 128  # bytes before the pixels


def decoded_folder(store: Path) -> Path:
    """Return where a results folder keeps decoded images."""
    return store / "cache" / "pictures"


class DecodedImages:
    """Decoded images in a folder.

    Parameters
    ----------
    folder : Path
    images : iterable of (str, Image)
        Files, and what the check pass found in them.

    Attributes
    ----------
    size, missing : int
        Bytes of all of them, and of those that are still to be written.
    """

    def __init__(self, folder: Path, images: Iterable[tuple[str, ImageFile]]) -> None:
        self.folder = folder
        self._wanted = {self.place(image): (Path(path), image) for path, image in images}
        self._missing = [target for target, (_, image) in self._wanted.items() if not _is_there(target, image)]
        self.size = sum(_size(image) for _, image in self._wanted.values())
        self.missing = sum(_size(self._wanted[target][1]) for target in self._missing)

    def __str__(self) -> str:
        have = f"{len(self._wanted):,} take {self.size:,} bytes, {self.missing:,} of them still to be written"
        return f"decoded images: {have}; `harness gc --yes` removes them"

    def place(self, image: ImageFile) -> Path:
        """Return where a decoded image is, or will be."""
        return self.folder / f"{image.image}{DECODED}"

    def write(self, progress: Progress) -> None:
        """Decode those that are not there.

        Raises
        ------
        UserError
            If the disk has no room for them, or an image is no longer the one that was checked.
        """
        need_room(self.folder, self.missing, "--cache-images")
        with disk_watched(self.folder), ThreadPoolExecutor(os.cpu_count()) as pool:
            for done, _ in enumerate(pool.map(self._write, self._missing), 1):
                progress(done, len(self._missing))

    def _write(self, target: Path) -> None:
        path, image = self._wanted[target]
        data = path.read_bytes()
        if content_key(data) != image.image:
            raise UserError(f"{path} is not the image that was checked a moment ago: give the same command again")
        array = BytesIO()
        np.save(array, open_rgb(BytesIO(data)))  # into memory: to a file that cannot grow, it would not say why
        with atomic(target) as file:
            file.write(array.getbuffer())
        os.utime(target, ns=(_time(image),) * 2)


def _size(image: ImageFile) -> int:
    return _HEADER + 3 * image.height * image.width


def _time(image: ImageFile) -> int:
    """Return the time of change of its file, in nanoseconds of the first days of 1970."""
    return int(image.image[:12], 16)


def _is_there(target: Path, image: ImageFile) -> bool:
    try:
        found = target.stat()
    except OSError:
        return False
    return found.st_size == _size(image) and found.st_mtime_ns == _time(image)
