from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from harness.data.base import save_mask
from harness.data.folder import Folder
from harness.errors import UserError
from tests.conftest import TINY, Run


@pytest.fixture
def mine(tmp_path: Path) -> Path:
    """Eight photos of red or green things, without masks."""
    root = tmp_path / "mine"
    (root / "images").mkdir(parents=True)
    lines = ["id,split,red,green"]
    for number in range(8):
        image = np.full((40, 48, 3), 128, np.uint8)
        image[10:30, 10:30] = (255, 0, 0) if number % 2 else (0, 255, 0)
        Image.fromarray(image).save(root / "images" / f"photo {number}.{'png' if number % 3 else 'jpg'}")
        lines.append(f"photo {number},{'val' if number > 5 else 'train'},{number % 2},{1 - number % 2}")
    (root / "labels.csv").write_text("\n".join(lines) + "\n")
    return root


def test_classes_splits_and_labels_come_from_the_table(mine: Path) -> None:
    folder = Folder(mine)
    folder.prepare()
    assert folder.classes == ("background", "red", "green")
    assert folder.splits() == ["train", "val"]
    assert folder.ids("val") == ["photo 6", "photo 7"]
    assert folder.image_labels("photo 7", "file") == [1]
    assert not folder.has_masks
    assert folder.image_path("photo 0").exists()
    assert folder.image_path("photo 1").exists()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("red,green\n1,0\n", "does not begin with a line of columns"),
        ("id,red\na,yes\n", r"labels\.csv:2: each class needs 0 or 1"),
        ("id,red\na,1\na,0\n", r"labels\.csv:3: this id stands here twice"),
        (None, "has no labels.csv"),
    ],
)
def test_a_bad_table_shows_two_lines_of_a_good_one(mine: Path, text: str | None, message: str) -> None:
    (mine / "labels.csv").unlink() if text is None else (mine / "labels.csv").write_text(text)
    with pytest.raises(UserError, match=message) as error:
        Folder(mine).prepare()
    assert str(error.value).splitlines()[1:] == ["id,split,cat,dog", "holiday-01,train,1,0"]


def test_photos_without_masks_are_segmented_and_those_with_are_scored(here: Run, mine: Path) -> None:
    command = ["run", "--methods", "cam", "--dataset", "folder", "--root", str(mine), "--weights", "random", *TINY]
    splits = ["--set", "protocol.eval_splits=train,val", "--json"]
    found = here(*command, *splits)
    assert found.returncode == 0, found.stderr
    (record,) = json.loads(found.stdout)
    assert record["metrics"] == {}
    assert record["pictures"] == {"train": 6, "val": 2}
    assert "no ground truth" in here("report", "--no-figures").stdout
    refused = here(*command, "--set", "protocol.background=swept_on:train")
    assert (refused.returncode, "needs them" in refused.stderr) == (2, True)

    (mine / "masks").mkdir()
    for path in (mine / "images").iterdir():
        mask = np.zeros((40, 48), np.uint8)
        mask[10:30, 10:30] = 2 - int(path.stem[-1]) % 2
        save_mask(mine / "masks" / f"{path.stem}.png", mask)
    (record,) = json.loads(here(*command, *splits).stdout)
    assert record["metrics"].keys() == {"train", "val"}

    photos = ["--images", str(mine / "images"), "--out", "out", "--json"]
    (mine / "images" / "broken.png").write_bytes(b"not an image")
    predicted = here("predict", record["key"][:8], *photos, "--classes", "red")
    assert predicted.returncode == 1
    assert "skipped broken.png" in predicted.stderr
    said = json.loads(predicted.stdout)
    assert said["gating"] == "given: red"
    assert set().union(*map(set, said["found"].values())) <= {"red"}
    out = mine.parent / "out"
    assert len(list((out / "masks").iterdir())) == len(list((out / "overlays").iterdir())) == 8
    with Image.open(out / "contact-sheet.png") as sheet:
        assert sheet.size[0] > 500
    unknown = here("predict", record["key"][:8], *photos, "--classes", "rad")
    assert (unknown.returncode, "did you mean 'red'" in unknown.stderr) == (2, True)
