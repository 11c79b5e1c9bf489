"""Image labels of a split, as an artefact: all that a method sees of the annotation."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from harness.data.base import Dataset
from harness.data.index import ImageFile, index_split
from harness.stages import Task
from harness.stages.configs import LabelsConfig


def label_matrix(images: tuple[ImageFile, ...], class_ids: list[int], background: str) -> np.ndarray:
    """Return (N, K) uint8 multi-hot labels over `class_ids`; column 0 is the background.

    With `background` "masks" an image counts as showing background if its mask does; with "always", always.
    """
    matrix = np.zeros((len(images), len(class_ids)), np.uint8)
    for row, image in zip(matrix, images, strict=True):
        row[1:] = [class_id in image.labels for class_id in class_ids[1:]]
        row[0] = background == "always" or 0 in image.mask_values
    return matrix


def run(task: Task) -> None:
    """Write `labels.json`: ids, image sizes and the label matrix, after checking that the images are the same."""
    config: LabelsConfig = task.config
    dataset: Dataset = task.dataset()
    index = index_split(
        dataset,
        config.split,
        label_source=config.label_source,
        masks=config.masks,
        limit=config.limit,
        cache=Path(task.locations.store) / "cache",
        progress=task.progress,
    )
    if index.digest != config.content:
        raise RuntimeError(f"the images of {dataset.name}/{config.split} changed since this run began")
    matrix = label_matrix(index.images, config.class_ids, config.background_label)
    rows = {
        "ids": index.ids,
        "sizes": [[image.height, image.width] for image in index.images],
        "labels": matrix.tolist(),
    }
    (task.out / "labels.json").write_text(json.dumps(rows))
