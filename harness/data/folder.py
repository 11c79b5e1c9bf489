"""A folder of one's own: images, image labels in a table, masks if there are any."""

from __future__ import annotations

from collections.abc import Collection
from functools import cached_property
from pathlib import Path
from typing import ClassVar

from harness.data.base import Dataset, ImageFolder
from harness.data.tables import LabelTable, read_labels
from harness.errors import UserError, closest

SAMPLE = "id,split,cat,dog\nholiday-01,train,1,0"
_IMAGES = (".jpg", ".jpeg", ".png", ".webp", ".bmp")


class Folder(Dataset):
    """A folder of yours: images/, labels.csv, and masks/ if there is ground truth to score against.

    labels.csv has a line per image: its `id` (the file name without suffix), optionally its `split` (`train` where
    there is none), and 1 or 0 for each class; the columns name the classes. Masks are indexed PNGs: 0 is the
    background, 1 the first class column, 255 is not labelled.
    """

    name = "folder"
    label_source = "file"
    eval_splits = ("train",)
    training_splits: ClassVar[tuple[str, ...]] = ("train",)

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self.has_masks = (root / "masks").is_dir()
        self.classes = ("background", *self._table.classes) if (root / "labels.csv").is_file() else ()

    def prepare(self) -> None:
        for part in ("images", "labels.csv"):
            if not (self.root / part).exists():
                raise UserError(
                    f"{self.root} has no {part}; expected images/, and labels.csv with lines like\n{SAMPLE}"
                )

    def _split(self, image_id: str) -> str:
        return self._table.splits.get(image_id) or "train"

    def splits(self) -> list[str]:
        return sorted({self._split(image_id) for image_id in self._table.labels})

    def ids(self, split: str) -> list[str]:
        found = [image_id for image_id in self._table.labels if self._split(image_id) == split]
        if not found:
            raise UserError(f"labels.csv has no image of split '{split}': {closest(split, self.splits())}")
        return found

    @cached_property
    def _images(self) -> ImageFolder:
        return ImageFolder(self.root / "images", _IMAGES)

    @cached_property
    def _masks(self) -> ImageFolder:
        return ImageFolder(self.root / "masks", (".png",))

    def image_path(self, image_id: str) -> Path:
        return self._images.path(image_id)

    def mask_path(self, image_id: str) -> Path:
        return self._masks.path(image_id)

    def remarks(self, splits: Collection[str]) -> list[str]:
        left = [split for split in self.splits() if split not in splits] if self.has_masks else []
        counts = ", ".join(f"{len(self.ids(split))} of {split}" for split in left)
        asked = ",".join([*self.eval_splits, *left])
        return (
            [f"labels.csv has images that are not scored: {counts}; --set protocol.eval_splits={asked} scores them"]
            if left
            else []
        )

    def label_file(self, image_id: str, source: str) -> Path:
        if source != "file":
            return super().label_file(image_id, source)
        return self.root / "labels.csv"

    def image_labels(self, image_id: str, source: str) -> list[int]:
        self.label_file(image_id, source)
        return [self.classes.index(name) for name in self._table.labels[image_id]]

    @cached_property
    def _table(self) -> LabelTable:
        table = read_labels(self.root / "labels.csv", SAMPLE)
        if "background" in table.classes:
            raise UserError(
                f"{self.root / 'labels.csv'}:1: the background has no column; expected lines like\n{SAMPLE}"
            )
        return table
