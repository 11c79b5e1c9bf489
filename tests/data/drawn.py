"""Small datasets, drawn."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from harness.data.voc import VOC_CLASSES

HEADER = "id," + ",".join(VOC_CLASSES[1:])
FLAGS = ",0" * 7 + ",1" + ",0" * 12  # a cat


def draw(path: Path, value: int = 90) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (12, 10), (value, 40, 40)).save(path)


def draw_mask(path: Path, inside: int = 8, outside: int = 0) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    mask = np.full((10, 12), outside, np.uint8)
    mask[2:7, 2:7] = inside
    Image.fromarray(mask).save(path)


def draw_voc(root: Path) -> Path:
    """Draw three images in the layout of VOC, each with a mask and image labels; return the root."""
    lists = root / "ImageSets" / "Segmentation"
    lists.mkdir(parents=True)
    for split, ids in {"train": ["t0"], "train_aug": ["t0", "t1"], "val": ["v0"]}.items():
        (lists / f"{split}.txt").write_text("\n".join(ids) + "\n")
    for number, image_id in enumerate(("t0", "t1", "v0")):
        draw(root / "JPEGImages" / f"{image_id}.jpg", 40 * number)
        draw_mask(root / "SegmentationClassAug" / f"{image_id}.png")
    (root / "image_labels.csv").write_text("\n".join([HEADER, *(f"{i}{FLAGS}" for i in ("t0", "t1", "v0"))]) + "\n")
    return root
