"""The check pass: every image and mask of a split is opened once, before anything is computed on it.

It yields what the stage keys need (content hashes) and what the labels need (the classes of each mask). What was read
is remembered by path, size and time of change, so that a second pass costs a `stat` per file.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from PIL import ExifTags, Image

from harness.data.base import IGNORE, Dataset, open_mask, open_rgb
from harness.errors import UserError
from harness.files import write_atomic
from harness.strict import digest

NO_LABELS = "none"  # the label source of a blind split

Progress = Callable[[int, int], None]

_FORMAT = 3  # of what is remembered of a file


@dataclass(frozen=True)
class ImageFile:
    """What the check pass found out about an image.

    Attributes
    ----------
    id : str
    image, mask : str
        Hashes of the files; `mask` is empty where none was asked for.
    pixels : str
        Hash of the mask's pixels, which does not depend on who has packed them.
    height, width : int
    mode : str
        How the image is stored; anything but RGB was converted.
    mask_values : tuple of int
        The values in its mask, 255 left out.
    labels : tuple of int
        The classes of its image labels, without the background.
    turned : bool
        Whether its EXIF tag turns it.
    """

    id: str
    image: str
    mask: str
    pixels: str
    height: int
    width: int
    mode: str
    mask_values: tuple[int, ...]
    labels: tuple[int, ...]
    turned: bool = False


@dataclass(frozen=True)
class SplitIndex:
    """A checked split: its images, in order, with or without their masks."""

    dataset: str
    split: str
    masks: bool
    images: tuple[ImageFile, ...]

    @cached_property
    def ids(self) -> list[str]:
        """The image ids."""
        return [image.id for image in self.images]

    @cached_property
    def digest(self) -> str:
        """A key of all content: ids, images, masks and labels."""
        return digest([(image.id, image.image, image.mask, image.labels) for image in self.images])

    @cached_property
    def mask_digest(self) -> str:
        """A key of the pixels of its masks, by id; empty without masks."""
        return digest(sorted((image.id, image.pixels) for image in self.images)) if self.masks else ""


def index_split(
    dataset: Dataset,
    split: str,
    *,
    label_source: str,
    masks: bool,
    limit: int | None = None,
    cache: Path | None = None,
    progress: Progress = lambda done, total: None,
) -> SplitIndex:
    """Open every image of a split, its image labels, and its mask where `masks` is set or the labels come from it.

    Raises
    ------
    UserError
        If any cannot be used: each by id with the reason.
    """
    ids = dataset.ids(split)[:limit]
    if not ids:
        raise UserError(f"split '{split}' of {dataset.name} is empty")
    if len(set(ids)) < len(ids):
        twice = next(image_id for image_id in ids if ids.count(image_id) > 1)
        raise UserError(f"split '{split}' of {dataset.name} names {twice} twice")
    masks = masks or label_source == "masks"
    images, problems = examine(dataset, ids, label_source, masks, cache, progress)
    if problems:
        what = complain(f"{dataset.name}/{split}", f"{len(problems)} of {len(ids)} images", problems)
        raise UserError(what + dataset.remedy(dataset.root))
    return SplitIndex(dataset.name, split, masks, tuple(images))


def examine(
    dataset: Dataset,
    ids: list[str],
    label_source: str,
    masks: bool,
    cache: Path | None = None,
    progress: Progress = lambda done, total: None,
) -> tuple[list[ImageFile], dict[str, str]]:
    """Open images, their image labels and their masks; return what can be used, and by id why the rest cannot."""
    memory = _Memory(cache / f"files-{dataset.name}.json" if cache else None)
    problems: dict[str, str] = {}
    images: list[ImageFile] = []

    def look(image_id: str) -> ImageFile | str:
        try:
            return _look(dataset, image_id, label_source, masks, memory)
        except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
            return _explain(error)

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for done, (image_id, found) in enumerate(zip(ids, pool.map(look, ids), strict=True), 1):
            if isinstance(found, ImageFile):
                images.append(found)
            else:
                problems[image_id] = found
            progress(done, len(ids))
    memory.save()
    return images, problems


def _look(dataset: Dataset, image_id: str, label_source: str, masks: bool, memory: _Memory) -> ImageFile:
    image = memory.recall(dataset.image_path(image_id), _read_image)
    mask: dict[str, Any] = {"hash": "", "pixels": "", "values": []}
    if masks:
        mask = memory.recall(dataset.mask_path(image_id), _read_mask)
        if mask["size"] != image["size"]:
            raise ValueError("mask is {}x{}, image {}x{} (height x width)".format(*mask["size"], *image["size"]))
        undefined = [v for v in mask["values"] if v != IGNORE and v >= len(dataset.classes)]
        if undefined:
            raise ValueError(
                f"mask holds undefined index {undefined[0]} (classes are 0..{len(dataset.classes) - 1}, 255)"
            )
    values = tuple(value for value in mask["values"] if value != IGNORE)
    if label_source == "masks":
        labels = [value for value in values if value]
    else:
        labels = [] if label_source == NO_LABELS else dataset.image_labels(image_id, label_source)
    height, width = image["size"]
    return ImageFile(
        image_id, image["hash"], mask["hash"], mask["pixels"], height, width, image["mode"], values, tuple(labels),
        image["turned"],
    )  # fmt: skip


def _read_image(path: Path) -> dict[str, Any]:
    data = path.read_bytes()
    with Image.open(BytesIO(data)) as image:
        mode, turned = image.mode, image.getexif().get(ExifTags.Base.Orientation, 1) != 1
    size = open_rgb(BytesIO(data)).shape[:2]
    return {"hash": content_key(data), "size": size, "mode": mode, "turned": turned}


def _read_mask(path: Path) -> dict[str, Any]:
    data = path.read_bytes()
    mask = open_mask(BytesIO(data))
    values = np.unique(mask).tolist()
    return {"hash": content_key(data), "pixels": content_key(mask.tobytes()), "size": mask.shape, "values": values}


def content_key(data: bytes) -> str:
    """Return a key of some bytes."""
    return hashlib.sha256(data).hexdigest()[:20]


class _Memory:
    """What was read from each file, kept as long as its size and time of change stay the same."""

    def __init__(self, path: Path | None) -> None:
        self.path = path
        self.changed = False
        try:
            self.rows: dict[str, Any] = json.loads(path.read_text("utf-8")) if path else {}
        except (OSError, ValueError):
            self.rows = {}

    def recall(self, path: Path, read: Callable[[Path], dict[str, Any]]) -> dict[str, Any]:
        stat = path.stat()
        stamp = [_FORMAT, stat.st_size, stat.st_mtime_ns]
        row = self.rows.get(str(path))
        if row is None or row["stamp"] != stamp:
            row = {"stamp": stamp, **json.loads(json.dumps(read(path)))}
            self.rows[str(path)] = row
            self.changed = True
        return row

    def save(self) -> None:
        if self.path and self.changed:
            write_atomic(self.path, json.dumps(self.rows))


def _explain(error: Exception) -> str:
    if isinstance(error, OSError) and error.filename:
        path = Path(error.filename)
        why = "is missing" if isinstance(error, FileNotFoundError) else f"cannot be read: {error.strerror}"
        return f"{path.parent.name}/{path.name} {why}"
    if isinstance(error, OSError | SyntaxError):
        return "cannot be decoded: " + str(error).partition("\n")[0][:80]
    return str(error)


def complain(where: str, what: str, problems: dict[str, str], shown: int = 20) -> str:
    """Say on one line what is wrong with which images."""
    named = "; ".join(f"{image_id}: {problem}" for image_id, problem in list(problems.items())[:shown])
    more = f"; and {len(problems) - shown} more" if len(problems) > shown else ""
    return f"{where}: {what} cannot be used: {named}{more}"
