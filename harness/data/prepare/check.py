"""Is a prepared dataset complete, and is it what was prepared? Every image, mask and label is opened."""

from __future__ import annotations

import json
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any
from xml.etree.ElementTree import ParseError

from PIL import Image

from harness.data.base import Dataset, voc_palette
from harness.data.index import SplitIndex, examine
from harness.data.prepare.job import Scan
from harness.data.voc import prepared_file
from harness.errors import UserError


@dataclass
class Findings:
    """What a check has found.

    Attributes
    ----------
    images : dict
        How many images each split has.
    masks : dict
        `name` of the set of masks, and `pixels`: a hash of the pixels of each split's masks.
    problems : dict
        What is wrong, by image id, split or folder; empty if nothing is.
    """

    images: dict[str, int] = field(default_factory=dict)
    masks: dict[str, Any] = field(default_factory=dict)
    problems: dict[str, str] = field(default_factory=dict)


def check(
    dataset_class: type[Dataset],
    root: Path,
    home: Path,
    splits: tuple[str, ...],
    labels: str,
    counts: Mapping[str, int],
    scan: Scan,
) -> Findings:
    """Look at all that a dataset consists of.

    Parameters
    ----------
    dataset_class : type
    root, home : Path
        As the user gave it; the folder in it that holds the images.
    splits : tuple of str
        Those that must be there.
    labels : str
        Where its image labels come from: `xml` or `file`.
    counts : mapping
        How many images each split must have.
    scan : callable
        Called with (what, done, total).
    """
    dataset, found = dataset_class(root), Findings()
    members: dict[str, list[str]] = {}
    try:
        dataset.prepare()
    except UserError as error:
        found.problems[str(root)] = _first_line(error)
        return found
    for split in splits:
        try:
            members[split] = dataset.ids(split)
        except UserError as error:
            found.problems[split] = _first_line(error)
            continue
        found.images[split] = len(members[split])
        if found.images[split] != counts[split]:
            found.problems[split] = f"{found.images[split]:,} images instead of {counts[split]:,}"
    ids = sorted({image_id for split in members.values() for image_id in split})
    images, problems = examine(dataset, ids, "masks", True, progress=partial(scan, "images"))
    with ThreadPoolExecutor() as pool:
        others = pool.map(partial(_labels_and_palette, dataset, labels), ids)
        for number, (image_id, problem) in enumerate(zip(ids, others, strict=True), 1):
            scan("labels", number, len(ids))
            if problem:
                problems.setdefault(image_id, problem)
    found.problems |= dict(sorted(problems.items()))
    by_id = {image.id: image for image in images}
    found.masks = {"name": dataset.mask_set(), "pixels": {}}
    for split, names in members.items():
        if all(name in by_id for name in names):
            index = SplitIndex(dataset.name, split, True, tuple(by_id[name] for name in names))
            found.masks["pixels"][split] = index.mask_digest
    _compare(found, prepared_file(home, dataset_class.prepared_as))
    return found


def _compare(found: Findings, note: Path) -> None:
    """Compare the masks with what was written down when they were made."""
    if not note.exists():
        return
    for split, pixels in json.loads(note.read_text("utf-8"))["masks"].get("pixels", {}).items():
        if found.masks["pixels"].get(split, pixels) != pixels:
            found.problems.setdefault(split, "its masks are not the ones that were prepared")


def _labels_and_palette(dataset: Dataset, labels: str, image_id: str) -> str:
    """Return what is wrong with the image labels of an image, or with the palette of its mask."""
    try:
        dataset.image_labels(image_id, labels)
        with Image.open(dataset.mask_path(image_id)) as mask:
            palette = mask.getpalette() or []
            if mask.mode == "P" and palette != voc_palette()[: len(palette)]:
                return "the palette of its mask is not VOC's: do its indices mean what they should?"
    except UserError as error:
        return _first_line(error)
    except ParseError as error:
        return f"its XML cannot be read: {error}"
    except (OSError, SyntaxError):
        pass  # `examine` has said so
    return ""


def _first_line(error: UserError) -> str:
    return str(error).partition("\n")[0]
