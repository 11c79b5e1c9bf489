"""Masks or scores that somebody else made: checked strictly, each of them, before anything is computed on them."""

from __future__ import annotations

import hashlib
import os
import zipfile
import zlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from harness.data.base import IGNORE, open_mask
from harness.data.index import ImageFile, SplitIndex, complain
from harness.errors import UserError
from harness.strict import digest

if TYPE_CHECKING:
    from harness.method import Method

SUFFIXES = {"masks": (".png",), "scores": (".npy", ".npz")}
_LARGEST = np.finfo(np.float16).max


def check_folder(
    folder: Path,
    method: Method,
    channels: int,
    classes: int,
    indices: list[SplitIndex],
    progress: Callable[[int, int], None] = lambda done, total: None,
    remark: Callable[[str], None] = lambda text: None,
) -> str:
    """Check that a folder holds what an external method promises, for every image of some splits and for no other.

    Parameters
    ----------
    folder : Path
    method : Method
        An external one.
    channels : int
        How many classes count, background included.
    classes : int
        How many the dataset has.
    indices : list of SplitIndex
    progress : callable
        Called with (done, total) files.
    remark : callable
        Called with what a person should know.

    Returns
    -------
    str
        A key of its content.

    Raises
    ------
    UserError
        If the folder is missing, or with every file that cannot be used, by id and with the reason.
    """
    kind = method.params.kind
    if not folder.is_dir():
        raise UserError(f"no folder {folder}: it should hold the {kind}, one file per image, named by its id")
    images = {image.id: image for index in indices for image in index.images}
    found: dict[str, list[Path]] = {}
    for path in sorted(folder.iterdir()):
        if path.suffix in SUFFIXES[kind]:
            found.setdefault(path.stem, []).append(path)
    problems = dict.fromkeys(found.keys() - images.keys(), "is no image of this split")

    transposed: list[bool] = []

    def look(image: ImageFile) -> str:
        """Return a hash of an image's file, after checking it."""
        if image.id not in found:
            raise ValueError(f"is missing (expected {image.id}{' or '.join(SUFFIXES[kind])})")
        path, *more = found[image.id]
        if more:
            raise ValueError(f"has {len(more) + 1} files: {', '.join(file.name for file in found[image.id])}; keep one")
        if kind == "masks":
            _check_mask(open_mask(path), image, classes - 1)
        else:
            sides = read_maps(path, channels, method.background, method.output).shape[1:]
            transposed.append(_is_transposed(sides, image))
        return hashlib.sha256(path.read_bytes()).hexdigest()[:20]

    def try_to(image: ImageFile) -> tuple[str, str]:
        try:
            return look(image), ""
        except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
            return "", str(error).partition("\n")[0] or type(error).__name__

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        results = []
        for result in pool.map(try_to, images.values()):
            results.append(result)
            progress(len(results), len(images))
    problems |= {name: why for name, (_, why) in zip(images, results, strict=True) if why}
    if problems:
        raise UserError(complain(str(folder), f"{len(problems)} {kind}", dict(sorted(problems.items()))))
    if len(transposed) > 1 and all(transposed):
        remark(f"the maps of {folder} are as high as their images are wide: are they transposed?")
    return digest([[name, content] for name, (content, _) in zip(images, results, strict=True)])


def find(folder: Path, kind: str, image_id: str) -> Path:
    """Return the file of an image; `check_folder` has seen that it is there."""
    return next(path for suffix in SUFFIXES[kind] if (path := folder / f"{image_id}{suffix}").exists())


def _check_mask(mask: np.ndarray, image: ImageFile, largest: int) -> None:
    if mask.shape != (image.height, image.width):
        sizes = (*mask.shape, image.height, image.width)
        raise ValueError("mask is {}x{}, image {}x{} (height x width)".format(*sizes))
    undefined = [value for value in np.unique(mask) if value != IGNORE and value > largest]
    if undefined:
        raise ValueError(f"holds undefined index {undefined[0]} (classes are 0..{largest}, 255)")


def _is_transposed(sides: tuple[int, ...], image: ImageFile) -> bool:
    """Return whether the sides of a map are those of its image, swapped."""
    tall, wide = sides[0] / max(1, sides[1]), image.height / image.width
    return abs(tall * wide - 1) < 0.05 and abs(tall / wide - 1) > 0.1


def _load(path: Path) -> Any:
    """Open a file of numpy's without running anything in it, and without believing a header that is too large.

    Raises
    ------
    ValueError
        If it is none.
    """
    size = path.stat().st_size
    if not size:
        raise ValueError("empty file")
    try:
        if path.suffix == ".npy":
            mapped = np.load(path, mmap_mode="r", allow_pickle=False)  # a false header ends here, not in the memory
            return np.array(mapped)
        with open(path, "rb") as file:
            return dict(np.load(file, allow_pickle=False))
    except (EOFError, zipfile.BadZipFile, KeyError, MemoryError, OverflowError, zlib.error) as error:
        raise ValueError(f"cannot be read: {error or type(error).__name__}") from None


def read_maps(path: Path, classes: int, background: bool, output: str) -> np.ndarray:
    """Read the (C, h, w) scores of an image: a .npy array, or a .npz with `scores` and, of some channels, `classes`.

    Returns
    -------
    ndarray
        (C, h, w) float16, C as a method of this background would give; classes that the file leaves out are 0.

    Raises
    ------
    ValueError
        If it is pickled, or its shape or values are not those of scores.
    """
    channels = classes if background else classes - 1
    loaded = _load(path)
    if isinstance(loaded, np.ndarray):
        scores, chosen = loaded, None
    else:
        if "scores" not in loaded:
            raise ValueError(f"holds {', '.join(loaded)}, expected an array called scores")
        scores, chosen = loaded["scores"], loaded.get("classes")
    if scores.ndim != 3 or not np.issubdtype(scores.dtype, np.number):
        raise ValueError(f"is {scores.dtype} of shape {scores.shape}, expected numbers of shape (classes, h, w)")
    if not np.isfinite(scores).all():
        raise ValueError("holds NaN or infinity")
    if scores.size and (scores.min() < 0 or scores.max() > (1 if output == "probability" else _LARGEST)):
        raise ValueError(
            f"ranges from {scores.min():g} to {scores.max():g}, expected "
            + ("probabilities in 0..1" if output == "probability" else "non-negative activations")
        )
    if chosen is not None:
        if chosen.ndim != 1 or not np.issubdtype(chosen.dtype, np.integer):
            raise ValueError(f"its classes are {chosen.dtype} of shape {chosen.shape}, expected a list of integers")
        if len(set(chosen.tolist())) < len(chosen):
            raise ValueError(f"its classes {chosen.tolist()} name one twice")
        if len(chosen) != len(scores) or not all(0 <= number < channels for number in chosen.tolist()):
            raise ValueError(f"its classes {chosen.tolist()} do not name {len(scores)} of 0..{channels - 1}")
        full = np.zeros((channels, *scores.shape[1:]), np.float16)
        full[chosen] = scores
        return full
    if len(scores) != channels:
        raise ValueError(
            f"has {len(scores)} channels, expected {channels} ({'with' if background else 'without'} background)"
        )
    return scores.astype(np.float16)
