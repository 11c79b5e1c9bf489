"""A folder of one's own: pictures, image labels in a table, masks if there are any."""

from __future__ import annotations

import csv
from functools import cached_property
from pathlib import Path
from typing import ClassVar

from harness.data.base import Dataset
from harness.errors import UserError, closest

SAMPLE = "id,split,cat,dog\nholiday-01,train,1,0"
_IMAGES = (".jpg", ".jpeg", ".png", ".webp", ".bmp")


class Folder(Dataset):
    """A folder of yours: images/, labels.csv, and masks/ if there is ground truth to score against.

    labels.csv has a line per picture: its `id` (the file name without suffix), optionally its `split` (`train` where
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
        self.classes = ("background", *self._table[0]) if (root / "labels.csv").is_file() else ()

    def prepare(self) -> None:
        for part in ("images", "labels.csv"):
            if not (self.root / part).exists():
                raise UserError(
                    f"{self.root} has no {part}; expected images/, and labels.csv with lines like\n{SAMPLE}"
                )

    def splits(self) -> list[str]:
        return sorted({split for split, _ in self._table[1].values()})

    def ids(self, split: str) -> list[str]:
        found = [image_id for image_id, (own, _) in self._table[1].items() if own == split]
        if not found:
            raise UserError(f"labels.csv has no picture of split '{split}': {closest(split, self.splits())}")
        return found

    def image_path(self, image_id: str) -> Path:
        paths = [self.root / "images" / f"{image_id}{suffix}" for suffix in _IMAGES]
        return next((path for path in paths if path.exists()), paths[0])

    def mask_path(self, image_id: str) -> Path:
        return self.root / "masks" / f"{image_id}.png"

    def label_file(self, image_id: str, source: str) -> Path:
        if source != "file":
            return super().label_file(image_id, source)
        return self.root / "labels.csv"

    def image_labels(self, image_id: str, source: str) -> list[int]:
        self.label_file(image_id, source)
        return self._table[1][image_id][1]

    @cached_property
    def _table(self) -> tuple[list[str], dict[str, tuple[str, list[int]]]]:
        """The class names, and split and class indices of each picture."""
        path = self.root / "labels.csv"
        with open(path, newline="", encoding="utf-8-sig") as file:
            rows = csv.DictReader(file)
            names = [name for name in rows.fieldnames or () if name not in ("id", "split")]
            if "id" not in (rows.fieldnames or ()) or not names:
                raise UserError(f"{path} does not begin with a line of columns; expected lines like\n{SAMPLE}")
            table: dict[str, tuple[str, list[int]]] = {}
            for row in rows:
                flags = [(row[name] or "").strip() for name in names]
                if not set(flags) <= {"0", "1"} or row["id"] in table:
                    why = "this id stands here twice" if row["id"] in table else "each class needs 0 or 1"
                    raise UserError(f"{path}:{rows.line_num}: {why}; expected lines like\n{SAMPLE}")
                labels = [number for number, flag in enumerate(flags, 1) if flag == "1"]
                table[row["id"]] = (row.get("split") or "train").strip(), labels
        return names, table
