"""The contract of a dataset, and the one way in which an image or a mask is opened."""

from __future__ import annotations

import os
import shlex
from collections.abc import Collection, Mapping
from contextlib import suppress
from functools import cached_property
from pathlib import Path
from typing import IO, Any, ClassVar

import numpy as np
from PIL import Image, ImageOps

from harness.errors import UserError, closest

IGNORE = 255
DECODED = ".npy"  # ends the name of an image that `harness.data.decoded` keeps


class Dataset:
    """Images with image labels and masks, in named splits.

    Attributes
    ----------
    name : str
    classes : tuple of str
        Class names; index 0 is the background.
    weights : str
        Start weights of a plain run: `hub` or `random`.
    fit_split : str
        The split that methods train on, unless the protocol says otherwise.
    eval_splits : tuple of str
        The splits that are scored, unless the protocol says otherwise.
    training_splits : tuple of str
        The splits whose image labels are allowed supervision.
    blind_splits : tuple of str
        The splits of which only the images are public: masks are made of them, and scored by somebody else.
    subset : tuple of str
        The classes that count unless the protocol says otherwise; empty means all.
    settings : dict
        Settings of methods, by method name or glob, where this dataset needs others than their defaults.
    official : dict
        How many images each official split has; a score on another number of them says so.
    note : str
        What a reader of a score must know about it; printed under every table.
    label_source : str
        Where its image labels come from, unless the protocol says otherwise.
    needs_root : bool
        Whether a folder must be given.
    has_masks : bool
        Whether there is ground truth to evaluate on.
    version : str
        Of what the dataset draws or downloads by itself.
    prepared_as : str
        The name under which `harness prepare` makes it; empty if it does not.
    expected_failures : mapping
        Checks of `harness check` that it cannot pass, each with the reason.
    """

    name: ClassVar[str]
    classes: tuple[str, ...]
    weights: ClassVar[str] = "hub"
    fit_split: ClassVar[str] = "train"
    eval_splits: ClassVar[tuple[str, ...]] = ("train", "val")
    training_splits: ClassVar[tuple[str, ...]] = ("train",)
    blind_splits: ClassVar[tuple[str, ...]] = ()
    subset: ClassVar[tuple[str, ...]] = ()
    settings: ClassVar[dict[str, dict[str, Any]]] = {}
    official: ClassVar[dict[str, int]] = {}
    note: ClassVar[str] = ""
    label_source: ClassVar[str] = "masks"
    needs_root: ClassVar[bool] = True
    has_masks: bool = True
    version: ClassVar[str] = "1"
    prepared_as: ClassVar[str] = ""
    expected_failures: ClassVar[Mapping[str, str]] = {}

    def __init__(self, root: Path) -> None:
        self.root = root

    def prepare(self) -> None:
        """Make the dataset ready, if it can do so itself.

        Raises
        ------
        UserError
            If the folder does not hold it, with what was expected.
        """

    @classmethod
    def remedy(cls, root: Path | str = "DIR") -> str:
        """Return the end of an error message: the command that makes what is missing, if there is one."""
        where = shlex.quote(str(root))
        return f"\n`harness prepare {cls.prepared_as} --root {where}` makes it" if cls.prepared_as else ""

    def has_labels(self, source: str) -> bool:
        """Return whether image labels of a source, `xml` or `file`, are there at all."""
        return True

    def remarks(self, splits: Collection[str]) -> list[str]:
        """Return what a person should know when these splits are used, and no others."""
        return []

    def mask_set(self) -> str:
        """Return the name of its set of masks, for those that exist in several versions."""
        return ""

    def splits(self) -> list[str]:
        """Return the names of the splits that stand in the folder."""
        raise NotImplementedError

    def ids(self, split: str) -> list[str]:
        """Return the image ids of a split, in order."""
        raise NotImplementedError

    def image_path(self, image_id: str) -> Path:
        """Return where an image is."""
        raise NotImplementedError

    def mask_path(self, image_id: str) -> Path:
        """Return where an image's mask is: an indexed PNG, 255 where it is not labelled."""
        raise NotImplementedError

    def label_file(self, image_id: str, source: str) -> Path:
        """Return the file that an image's image labels are read from, for the sources `xml` and `file`."""
        raise UserError(
            f"dataset {self.name} has no image labels from '{source}': --set protocol.label_source={self.label_source}"
        )

    def image_labels(self, image_id: str, source: str) -> list[int]:
        """Return the class indices of an image's image labels, without the background."""
        raise NotImplementedError

    def class_ids(self, names: tuple[str, ...]) -> list[int]:
        """Return class indices, background first, of a subset of the classes; of the dataset's own for an empty one.

        Raises
        ------
        UserError
            For an unknown class, with the closest.
        """
        for name in names:
            if name not in self.classes[1:]:
                raise UserError(f"dataset {self.name} has no class '{name}': {closest(name, self.classes[1:])}")
        wanted = names or self.subset or self.classes
        return [0, *(i for i, name in enumerate(self.classes) if i and name in wanted)]


class ImageFolder:
    """Image files of a folder by id, whatever the case of their suffix.

    Parameters
    ----------
    folder : Path
    suffixes : tuple of str
        In lower case; the first is expected where there is no file.
    """

    def __init__(self, folder: Path, suffixes: tuple[str, ...]) -> None:
        self.folder, self.suffixes = folder, suffixes

    @cached_property
    def _names(self) -> dict[str, list[str]]:
        found: dict[str, list[str]] = {}
        names: list[str] = []
        with suppress(OSError):  # opening a file says why
            names = sorted(os.listdir(self.folder))
        for name in names:
            stem, dot, suffix = name.rpartition(".")
            if dot + suffix.lower() in self.suffixes:
                found.setdefault(stem, []).append(name)
        return found

    def path(self, image_id: str) -> Path:
        """Return the file of an id.

        Raises
        ------
        ValueError
            If it has more than one.
        """
        names = self._names.get(image_id, [f"{image_id}{self.suffixes[0]}"])
        if len(names) > 1:
            raise ValueError(f"has {len(names)} files: {', '.join(names)}; keep one")
        return self.folder / names[0]


def open_rgb(path: Path | IO[bytes]) -> np.ndarray:
    """Return an image as (H, W, 3) uint8 RGB, upright by its EXIF tag; 16 bits are scaled to 8.

    Raises
    ------
    OSError
        If it is missing, truncated or no image.
    ValueError
        If its values have no known range: 32-bit integers or floats.
    """
    if isinstance(path, Path) and path.suffix == DECODED:
        return np.asarray(np.load(path, mmap_mode="r"))
    with Image.open(path) as stored:
        ImageOps.exif_transpose(stored, in_place=True)
        image: Image.Image = stored
        if image.mode.startswith("I;16"):
            return np.repeat(np.rint(np.asarray(image)[..., None] / 257).astype(np.uint8), 3, 2)
        if image.mode in ("I", "F"):
            raise ValueError(f"has mode {image.mode}, whose range is not known: save it with 8 or 16 bits")
        if image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info:
            image = image.convert("RGBA")
            image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
        return np.asarray(image if image.mode == "RGB" else image.convert("RGB"))


def open_mask(path: Path | IO[bytes]) -> np.ndarray:
    """Return a mask as (H, W) uint8 class indices.

    Raises
    ------
    OSError
        If it is missing, truncated or no image.
    ValueError
        If it holds colours rather than indices.
    """
    with Image.open(path) as image:
        if image.format in ("JPEG", "MPO", "WEBP"):
            raise ValueError(f"is a {image.format}, which blurs class indices (expected an indexed PNG)")
        if image.mode not in ("P", "L"):
            raise ValueError(f"holds {image.mode} colours, not class indices (expected an indexed PNG)")
        return np.asarray(image)


def voc_palette() -> list[int]:
    """Return the Pascal VOC palette: 256 RGB triples, flat."""
    index = np.arange(256)
    bits = (index[:, None, None] >> (3 * np.arange(8) + np.arange(3)[:, None])) & 1
    return (bits << (7 - np.arange(8))).sum(-1).astype(int).ravel().tolist()


def save_mask(path: Path, mask: np.ndarray) -> None:
    """Write (H, W) uint8 class indices as an indexed PNG with the VOC palette."""
    image = Image.fromarray(mask)
    image.putpalette(voc_palette())
    image.save(path)
