"""MS COCO 2014 for semantic segmentation: 80 classes and the background, in the layout that `harness prepare` makes."""

from __future__ import annotations

from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

from harness.data.voc import VOCLayout
from harness.errors import UserError

COCO_CLASSES = (
    "background", "person", "bicycle", "car", "motorcycle", "airplane", "bus", "train", "truck", "boat",
    "traffic light", "fire hydrant", "stop sign", "parking meter", "bench", "bird", "cat", "dog", "horse", "sheep",
    "cow", "elephant", "bear", "zebra", "giraffe", "backpack", "umbrella", "handbag", "tie", "suitcase", "frisbee",
    "skis", "snowboard", "sports ball", "kite", "baseball bat", "baseball glove", "skateboard", "surfboard",
    "tennis racket", "bottle", "wine glass", "cup", "fork", "knife", "spoon", "bowl", "banana", "apple", "sandwich",
    "orange", "broccoli", "carrot", "hot dog", "pizza", "donut", "cake", "chair", "couch", "potted plant", "bed",
    "dining table", "toilet", "tv", "laptop", "mouse", "remote", "keyboard", "cell phone", "microwave", "oven",
    "toaster", "sink", "refrigerator", "book", "clock", "vase", "scissors", "teddy bear", "hair drier", "toothbrush",
)  # fmt: skip


class COCO14(VOCLayout):
    """COCO 2014, where the first annotation of a pixel wins and crowds are not labelled.

    `train` and `val` are the images that have an annotation, `train_vitpcm` and `val_vitpcm` those that the code of
    ViT-PCM keeps. Image labels come from the masks, or with `file` from the annotations, crowds included.
    """

    name = "coco14"
    classes = COCO_CLASSES
    label_source = "file"
    rule: ClassVar[str] = "first"
    training_splits: ClassVar[tuple[str, ...]] = ("train", "train_vitpcm")
    official = {"train": 82_081, "val": 40_137, "train_vitpcm": 81_477, "val_vitpcm": 39_884}
    prepared_as = "coco14"

    @cached_property
    def folder(self) -> Path:
        if (self.root / "train2014").is_dir():
            return self.root
        missing = f"{self.root} holds no {self.name}: expected train2014 and val2014 in it"
        raise UserError(missing + self.remedy(self.root))

    def image_path(self, image_id: str) -> Path:
        return self.folder / image_id.split("_")[1] / f"{image_id}.jpg"

    @cached_property
    def _mask_folder(self) -> Path:
        return self.folder / f"SegmentationClass-{self.rule}"

    def label_file(self, image_id: str, source: str) -> Path:
        if source != "file":
            raise UserError(f"{self.name} has no image labels from '{source}': label_source is masks or file")
        return self.folder / "image_labels.csv"


class COCO14Smallest(COCO14):
    """COCO 2014, where the smallest object of a pixel is on top and crowds are not labelled."""

    name = "coco14-smallest"
    rule = "smallest"
    prepared_as = "coco14-smallest"


class COCO14VitPCM(COCO14):
    """COCO 2014 as the code of ViT-PCM paints it: the first annotation of a pixel wins, and a crowd is its class."""

    name = "coco14-vitpcm"
    rule = "vitpcm"
    fit_split = "train_vitpcm"
    eval_splits = ("train_vitpcm", "val_vitpcm")
    prepared_as = "coco14-vitpcm"
    settings: ClassVar[dict[str, dict[str, Any]]] = {"vitpcm": {"crop_probability": 0.0}}  # as the official run has it
