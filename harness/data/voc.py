"""Pascal VOC 2012, in the layout of its VOCdevkit."""

from __future__ import annotations

import json
from functools import cached_property
from pathlib import Path
from typing import ClassVar
from xml.etree import ElementTree

from harness.data.base import Dataset, ImageFolder
from harness.data.tables import read_ids, read_labels
from harness.errors import UserError
from harness.registry import configs

VOC_CLASSES = (
    "background", "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow",
    "diningtable", "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor",
)  # fmt: skip


def prepared_file(folder: Path, name: str) -> Path:
    """Return the file in which `harness prepare NAME` writes down what it has made in a folder."""
    return folder / f"prepared-{name}.json"


def prepared_masks(folder: Path, name: str) -> str:
    """Return the name of the set of masks that `harness prepare NAME` has made in a folder; empty if it has not."""
    path = prepared_file(folder, name)
    return json.loads(path.read_text("utf-8"))["masks"]["name"] if path.exists() else ""


class VOCLayout(Dataset):
    """A dataset in VOC's folders: JPEGImages, SegmentationClass or SegmentationClassAug, ImageSets/Segmentation."""

    @cached_property
    def folder(self) -> Path:
        """The folder that holds JPEGImages: the root itself, or VOC2012 or VOCdevkit/VOC2012 in it."""
        candidates = [self.root, self.root / "VOC2012", self.root / "VOCdevkit" / "VOC2012"]
        for folder in candidates:
            if (folder / "JPEGImages").is_dir():
                return folder
        raise UserError(
            f"{self.root} holds no {self.name}: expected JPEGImages in it, or in VOCdevkit/VOC2012 in it"
            + self.remedy(self.root)
        )

    def prepare(self) -> None:
        if not self.splits():
            missing = f"{self.folder} has no split files: expected ImageSets/Segmentation/*.txt"
            raise UserError(missing + self.remedy(self.root))

    def splits(self) -> list[str]:
        return sorted(path.stem for path in (self.folder / "ImageSets" / "Segmentation").glob("*.txt"))

    def ids(self, split: str) -> list[str]:
        path = self.folder / "ImageSets" / "Segmentation" / f"{split}.txt"
        if not path.exists():
            missing = f"{self.name} has no split '{split}' in {path.parent}: found {', '.join(self.splits())}"
            raise UserError(missing + self.remedy(self.root))
        return read_ids(path)

    @cached_property
    def _images(self) -> ImageFolder:
        return ImageFolder(self.folder / "JPEGImages", (".jpg", ".jpeg"))

    @cached_property
    def _masks(self) -> ImageFolder:
        return ImageFolder(self._mask_folder, (".png",))

    def image_path(self, image_id: str) -> Path:
        return self._images.path(image_id)

    @cached_property
    def _mask_folder(self) -> Path:
        augmented = self.folder / "SegmentationClassAug"
        return augmented if augmented.is_dir() else self.folder / "SegmentationClass"

    def mask_path(self, image_id: str) -> Path:
        return self._masks.path(image_id)

    def mask_set(self) -> str:
        own = self._mask_folder.name
        return own if own == "SegmentationClass" else prepared_masks(self.folder, self.prepared_as) or own

    def label_file(self, image_id: str, source: str) -> Path:
        if source == "xml":
            return self.folder / "Annotations" / f"{image_id}.xml"
        return next((folder / "image_labels.csv" for folder in (self.folder, self.root)
                     if (folder / "image_labels.csv").exists()), self.root / "image_labels.csv")  # fmt: skip

    def has_labels(self, source: str) -> bool:
        path = self.label_file("", source)
        return path.parent.is_dir() if source == "xml" else path.exists()

    def image_labels(self, image_id: str, source: str) -> list[int]:
        path = self.label_file(image_id, source)
        if not path.exists():
            raise UserError(
                f"no image labels for {image_id}: {path} is missing "
                f"(--set protocol.label_source=masks derives them from the masks)"
            )
        if source == "xml":
            tree = ElementTree.parse(path)  # noqa: S314 (expat refuses external entities; entity bombs are capped)
            names = {item.findtext("name", "").strip() for item in tree.iterfind("object")}
            return self._indices(names, image_id, path)
        if image_id not in self._label_table:
            raise UserError(f"{path} has no line for {image_id}")
        return self._label_table[image_id]

    @cached_property
    def _label_table(self) -> dict[str, list[int]]:
        path = self.label_file("", "file")
        table = read_labels(path, f"id,{self.classes[1]},{self.classes[2]},…\n2007_000032,1,0,…")
        return {image_id: self._indices(set(names), image_id, path) for image_id, names in table.labels.items()}

    def _indices(self, names: set[str], image_id: str, path: Path) -> list[int]:
        unknown = names - set(self.classes)
        if unknown:
            raise UserError(f"{path}: unknown class '{min(unknown)}'{' of ' + image_id if image_id else ''}")
        return sorted(self.classes.index(name) for name in names)


class VOC12(VOCLayout):
    """Pascal VOC 2012 with whatever split files stand in its folder."""

    name = "voc12"
    classes = VOC_CLASSES
    label_source = "xml"  # as the field's lists: about one image in 20 differs from what its mask shows
    fit_split = "train_aug"
    eval_splits = ("train", "val")
    training_splits: ClassVar[tuple[str, ...]] = ("train", "train_aug", "trainaug")
    blind_splits = ("test",)
    prepared_as = "voc12"
    official = {"train": 1464, "train_aug": 10582, "trainaug": 10582, "val": 1449, "test": 1456}


class VOC12Animals(VOC12):
    """1,300 images of VOC 2012 that nearly all show one of six animals or persons: small enough for a laptop."""

    name = "voc12-animals"
    label_source = "file"
    official = {}
    subset = ("cat", "cow", "dog", "horse", "person", "sheep")
    note = "voc12-animals is a part of VOC 2012: its scores are not VOC 2012 scores"
    settings = {
        "*": {"image_size": 224, "inference_size": 448, "epochs": 4, "accumulate": 1},
        "vitpcm": {"backbone_dropout": 0.0, "flip_ud": 0.0, "transpose": 0.0},
    }

    def splits(self) -> list[str]:
        return sorted(path.stem for path in self._lists.glob("*.txt"))

    def ids(self, split: str) -> list[str]:
        path = self._lists / f"{split}.txt"
        if not path.exists():
            raise UserError(f"{self.name} has no split '{split}': it has {', '.join(self.splits())}")
        return read_ids(path)

    @property
    def _lists(self) -> Path:
        return configs() / "splits" / self.name
