"""Images with masks to lay over them, for a page."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np
import pandas as pd
from PIL import Image

from harness.data.base import IGNORE, Dataset, open_mask, open_rgb, voc_palette
from harness.report.gallery import choose, kept_cells
from harness.report.notes import protocol_name
from harness.results.store import Store, UnusableArtefactError

SIDE = 448  # pixels, of the longer side
_QUALITY = 82
_PALETTE = voc_palette()


@dataclass(frozen=True)
class PageImage:
    """An image, and masks to lay over it.

    Attributes
    ----------
    id : str
    caption : str
        What it belongs to; images with the same caption share their controls.
    photo : Path or ndarray
        A file, or (H, W, 3) uint8 RGB.
    overlays : list of tuple
        Names and masks, (H, W) uint8 class indices of the photo's size. They are shown in the colours of the VOC
        palette; the background is left clear.
    classes : tuple of str
        Class names by index.
    """

    id: str
    caption: str
    photo: Path | np.ndarray
    overlays: list[tuple[str, np.ndarray]]
    classes: tuple[str, ...]


def images_of(
    results: pd.DataFrame, dataset: Dataset, split: str, store: Store, count: int = 24
) -> Iterator[PageImage]:
    """Yield some images of a split with ground truth and masks, of the best-scoring settings of each method.

    The same images in every report; see `harness.report.gallery.draw`. One at a time, because masks take memory.

    Parameters
    ----------
    results : DataFrame
        Rows of one dataset and protocol, as `load_results` gives them.
    dataset : Dataset
    split : str
    store : Store
        Holds the masks; what is gone is left out.
    count : int
        How many images.

    Yields
    ------
    Image
    """
    rows = results[results.split == split]
    cells = kept_cells(rows, split, store)
    if not cells:
        return
    caption = f"{dataset.name}, {split}, {protocol_name(rows.record.iloc[0])}"
    for image_id in choose(next(iter(cells[0].values())), count):
        overlays = [("ground truth", open_mask(dataset.mask_path(image_id)))]
        for cell in cells:
            for name, kept in cell.items():
                with suppress(UnusableArtefactError):
                    overlays.append((name, kept.mask(image_id)))
        yield PageImage(image_id, caption, dataset.image_path(image_id), overlays, dataset.classes)


@dataclass(frozen=True)
class Shown:
    """An image as a page shows it: `photo` and overlays are what an `img` takes as its source."""

    id: str
    caption: str
    width: int
    height: int
    photo: str
    overlays: list[tuple[str, str]]
    legend: list[tuple[str, str]]


def data_uri(kind: str, data: bytes) -> str:
    """Return an image as a URI that holds all of it."""
    return f"data:image/{kind};base64,{b64encode(data).decode()}"


def embedded(image: PageImage) -> Shown:
    """Return an image as data URIs."""
    return _shown(image, lambda layer, kind, data: data_uri(kind, data))


def beside(image: PageImage, folder: Path, number: int) -> Shown:
    """Write an image to a folder that stands beside the page, and return it as links to there."""

    def write(layer: int, kind: str, data: bytes) -> str:
        path = folder / f"{number:04d}-{layer}.{kind}"
        path.write_bytes(data)
        return quote(f"{folder.name}/{path.name}")

    folder.mkdir(parents=True, exist_ok=True)
    return _shown(image, write)


def _shown(image: PageImage, source: Callable[[int, str, bytes], str]) -> Shown:
    """Return an image as a page shows it; `source` of a layer's number, kind and bytes is where it is found."""
    photo = Image.fromarray(open_rgb(image.photo) if isinstance(image.photo, Path) else image.photo)
    photo.thumbnail((SIDE, SIDE), Image.Resampling.LANCZOS)
    overlays = []
    for layer, (name, mask) in enumerate(image.overlays, 1):
        overlay = Image.fromarray(mask)
        overlay.putpalette(_PALETTE)
        overlay = overlay.resize(photo.size, Image.Resampling.NEAREST)
        overlays.append((name, source(layer, "png", _bytes(overlay, "PNG", transparency=0, optimize=True))))
    front = source(0, "jpeg", _bytes(photo, "JPEG", quality=_QUALITY))
    return Shown(image.id, image.caption, *photo.size, front, overlays, _legend(image))


def _bytes(image: Image.Image, kind: str, **options: Any) -> bytes:
    stream = BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


def _legend(image: PageImage) -> list[tuple[str, str]]:
    """Return name and CSS colour of each class that a mask shows."""
    seen = sorted({int(index) for _, mask in image.overlays for index in np.unique(mask)} - {0})
    names = dict(enumerate(image.classes)) | {IGNORE: "not labelled"}
    return [(names.get(index, str(index)), _colour(index)) for index in seen]


def _colour(index: int) -> str:
    return "#" + bytes(_PALETTE[3 * index : 3 * index + 3]).hex()
