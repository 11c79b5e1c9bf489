"""COCO 2014: masks from instance annotations, under a rule that has a name; the two public lists; image labels."""

from __future__ import annotations

import csv
import importlib.util
import json
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np

from harness.data.base import IGNORE
from harness.data.coco import COCO14, COCO_CLASSES
from harness.data.prepare.job import Draft, Job, put_mask
from harness.errors import EnvironmentUnfitError, UserError
from harness.files import write_atomic

PARTS = ("train", "val")
SPLITS = ("train", "val", "train_vitpcm", "val_vitpcm")
LABELS = "file"
MIN_SIDE = 256  # pixels; ViT-PCM's code keeps no smaller image (datasets/parse_coco.py)
RULES = {
    "first": "the first annotation of a pixel wins, a crowd without an object on it is 255",
    "smallest": "the object of fewest pixels is on top, of equals the first, a crowd without an object on it is 255",
    "vitpcm": "the first annotation of a pixel wins, a crowd counts as its class",
}


@dataclass(frozen=True)
class Annotation:
    """One annotation of an image.

    Attributes
    ----------
    class_id : int
        1 to 80.
    crowd : bool
    segmentation : list or dict
        Polygons, or a run-length encoding, compressed or not, as it stands in the file.
    """

    class_id: int
    crowd: bool
    segmentation: Any


@dataclass(frozen=True)
class Annotated:
    """An image and its annotations, in the order of the file."""

    id: str
    height: int
    width: int
    annotations: tuple[Annotation, ...]


def home(root: Path) -> Path:
    """Return the folder that holds the images, or will."""
    return root


def name_masks(job: Job) -> str:
    """Return the name of the set of masks: the rule that they are painted by.

    Raises
    ------
    UserError
        If the user brings masks.
    """
    if job.masks:
        raise UserError("--masks is for voc12: COCO's masks are painted from its annotations")
    return f"{_rule(job)}: {RULES[_rule(job)]}"


def repair_options(masks: str) -> str:
    """Return the options of the command that repairs a dataset: nothing, its masks can always be made."""
    return ""


def make(job: Job) -> None:
    """Unpack images and annotations, paint the masks, write lists and labels.

    Raises
    ------
    UserError
        If an archive is wrong, or an annotation cannot be painted.
    EnvironmentUnfitError
        If pycocotools is missing, or an archive cannot be fetched.
    """
    if importlib.util.find_spec("pycocotools") is None:
        raise EnvironmentUnfitError("COCO's masks need pycocotools: pip install 'wsss-harness[prepare]'")
    wanted = tuple(f"annotations/instances_{part}2014.json" for part in PARTS)
    if job.unpack(job.archive("annotations_trainval2014.zip", wanted), job.home.joinpath) < len(PARTS):
        raise UserError("annotations_trainval2014.zip is not the official one: it lacks instances_*2014.json")
    for part in PARTS:
        job.unpack(job.archive(f"{part}2014.zip", (f"{part}2014/",)), job.home.joinpath)
    rule = _rule(job)
    draft = Draft(job.home / f"SegmentationClass-{rule}")
    labels: dict[str, set[int]] = {}
    for part in PARTS:
        images = read_annotations(job.home / "annotations" / f"instances_{part}2014.json")
        kept = _paint_all(job, images, draft.path, rule, part)
        labels |= {image.id: {a.class_id for a in image.annotations} for image in images}
        _write_list(job, part, [image.id for image in images])
        _write_list(job, f"{part}_vitpcm", kept)
    _write_labels(job.home / "image_labels.csv", labels)
    draft.publish()


def read_annotations(path: Path) -> list[Annotated]:
    """Return the images that have an annotation, by id.

    Raises
    ------
    UserError
        If the file is not of COCO's form, or has other categories.
    """
    try:
        data = json.loads(path.read_bytes())
        classes = {row["id"]: COCO_CLASSES.index(row["name"]) for row in data["categories"]}
        found: dict[int, list[Annotation]] = defaultdict(list)
        for row in data["annotations"]:
            annotation = Annotation(classes[row["category_id"]], bool(row["iscrowd"]), row["segmentation"])
            found[row["image_id"]].append(annotation)
        images = {row["id"]: row for row in data["images"]}
        described = [
            Annotated(Path(images[i]["file_name"]).stem, images[i]["height"], images[i]["width"], tuple(annotations))
            for i, annotations in found.items()
        ]
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path} is not COCO's instances: {type(error).__name__} {str(error)[:80]}") from error
    return sorted(described, key=lambda image: image.id)


def paint(height: int, width: int, annotations: tuple[Annotation, ...], rule: str) -> np.ndarray:
    """Return the mask of an image, (H, W) uint8: 0 where there is no annotation.

    Parameters
    ----------
    height, width : int
    annotations : tuple of Annotation
    rule : str
        A name in `RULES`.

    Raises
    ------
    ValueError
        If an annotation cannot be painted.
    """
    areas = [_area(annotation.segmentation, height, width) for annotation in annotations]
    order = list(range(len(annotations)))[::-1]  # painted first to last: the first annotation ends on top
    if rule == "smallest":
        order.sort(key=lambda i: -int(areas[i].sum()))
    if rule != "vitpcm":
        order.sort(key=lambda i: not annotations[i].crowd)
    mask = np.zeros((height, width), np.uint8)
    for i in order:
        crowd = annotations[i].crowd and rule != "vitpcm"
        mask[areas[i]] = IGNORE if crowd else annotations[i].class_id
    return mask


def paint_file(image: Annotated, path: Path, rule: str) -> tuple[str, bool]:
    """Write the mask of an image.

    Returns
    -------
    str
        What is wrong with it; empty if nothing is.
    bool
        Whether ViT-PCM's code keeps the image: large enough, and its mask by that code has more than one value.
    """
    size = image.height, image.width
    try:
        put_mask(path, paint(*size, image.annotations, rule))
        kept = min(size) >= MIN_SIDE and len(np.unique(paint(*size, image.annotations, "vitpcm"))) > 1
    except (ValueError, TypeError, KeyError, IndexError) as error:
        return f"{image.id}: {type(error).__name__} {str(error)[:80]}", False
    return "", kept


def _rule(job: Job) -> str:
    assert issubclass(job.dataset, COCO14)
    return job.dataset.rule


def _area(segmentation: Any, height: int, width: int) -> np.ndarray:
    """Return where an annotation is, (H, W) bool; several polygons are one object."""
    from pycocotools import mask

    if isinstance(segmentation, dict):
        if list(segmentation["size"]) != [height, width]:
            raise ValueError(f"an encoding of {segmentation['size']} in an image of {[height, width]}")
        packed = isinstance(segmentation["counts"], str | bytes)
        encoded = segmentation if packed else mask.frPyObjects(segmentation, height, width)
    elif segmentation:
        encoded = mask.merge(mask.frPyObjects(segmentation, height, width))
    else:
        return np.zeros((height, width), bool)
    return mask.decode(encoded).astype(bool)


def _paint_all(job: Job, images: list[Annotated], folder: Path, rule: str, part: str) -> list[str]:
    """Paint the masks of a part; return the ids of those that ViT-PCM's code keeps."""

    def tasks() -> Iterator[tuple[Annotated, Path, str]]:
        for image in images:
            yield image, folder / f"{image.id}.png", rule

    kept, problems = [], []
    for number, (image, (problem, keep)) in enumerate(zip(images, job.every(paint_file, tasks()), strict=True), 1):
        job.scan(f"masks of {part}2014", number, len(images))
        if problem:
            problems.append(problem)
        if keep:
            kept.append(image.id)
    if problems:
        named = "; ".join(problems[:20])
        raise UserError(f"instances_{part}2014.json: {len(problems)} images cannot be painted: {named}")
    return kept


def _write_list(job: Job, split: str, ids: list[str]) -> None:
    write_atomic(job.home / "ImageSets" / "Segmentation" / f"{split}.txt", "".join(f"{name}\n" for name in ids))


def _write_labels(path: Path, labels: dict[str, set[int]]) -> None:
    """Write the classes that are annotated in each image, crowds included."""
    text = StringIO()
    rows = csv.writer(text, lineterminator="\n")
    rows.writerow(["id", *COCO_CLASSES[1:]])
    for image_id, present in sorted(labels.items()):
        rows.writerow([image_id, *(int(class_id in present) for class_id in range(1, len(COCO_CLASSES)))])
    write_atomic(path, text.getvalue())
