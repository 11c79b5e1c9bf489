"""`harness evaluate`: strict about what it is given, and right about what it scores."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from sklearn.metrics import jaccard_score

from harness.data.base import open_mask, save_mask
from tests.conftest import Run

CLASSES = 5


@pytest.fixture
def truths(toy: Path) -> dict[str, np.ndarray]:
    ids = (toy / "ImageSets" / "Segmentation" / "val.txt").read_text().split()
    return {image_id: open_mask(toy / "SegmentationClass" / f"{image_id}.png") for image_id in ids}


@pytest.fixture
def masks(tmp_path: Path, truths: dict[str, np.ndarray]) -> Path:
    """Masks with some right and some wrong pixels, and some left open."""
    folder = tmp_path / "masks"
    folder.mkdir()
    rng = np.random.default_rng(0)
    for image_id, truth in truths.items():
        guess = np.where(rng.random(truth.shape) < 0.7, truth, rng.integers(0, CLASSES, truth.shape))
        save_mask(folder / f"{image_id}.png", guess.astype(np.uint8))
    return folder


def _evaluate(here: Run, *arguments: str) -> tuple[int, str, str]:
    found = here("evaluate", "--dataset", "toy", "--split", "val", *arguments)
    return found.returncode, found.stdout, found.stderr


def test_good_masks_equal_scikit_learn_to_the_last_digit(
    here: Run, masks: Path, truths: dict[str, np.ndarray], tmp_path: Path
) -> None:
    status, printed, _ = _evaluate(here, "--masks", str(masks), "--json")
    assert status == 0
    (record,) = json.loads(printed)
    true = np.concatenate([truth.ravel() for truth in truths.values()])
    said = np.concatenate([open_mask(masks / f"{image_id}.png").ravel() for image_id in truths])
    # 255 in a guess is wrong whatever the truth: a class that is never true
    expected = jaccard_score(true[true != 255], said[true != 255], labels=range(CLASSES), average=None)
    assert record["metrics"]["val"]["iou"] == expected.tolist()
    assert str(tmp_path) not in json.dumps(record["spec"])
    assert record["parameters"] is None

    status, _, said_again = _evaluate(here, "--masks", str(masks))
    assert status == 0
    assert "every stage reused" in said_again


def _rgb(path: Path) -> None:
    Image.open(path).convert("RGB").save(path)


def _resize(path: Path) -> None:
    Image.open(path).resize((9, 7)).save(path)


def _undefined(path: Path) -> None:
    mask = open_mask(path).copy()
    mask[0, 0] = 77
    save_mask(path, mask)


def _truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:60])


DEFECTS: dict[str, tuple[Callable[[Path], object], str]] = {
    "val_0001": (Path.unlink, "is missing"),
    "val_0002": (_rgb, "holds RGB colours, not class indices"),
    "val_0003": (_resize, "mask is 7x9, image"),
    "val_0004": (_undefined, "holds undefined index 77"),
    "val_0005": (_truncate, "truncated"),
    "extra": (lambda path: save_mask(path, np.zeros((4, 4), np.uint8)), "is no image of this split"),
}


def test_one_defect_of_each_kind_is_named_by_id_and_nothing_is_recorded(here: Run, masks: Path, tmp_path: Path) -> None:
    for image_id, (spoil, _) in DEFECTS.items():
        spoil(masks / f"{image_id}.png")
    status, printed, said = _evaluate(here, "--masks", str(masks))
    assert status == 2
    assert printed == ""
    assert len(said.strip().splitlines()) == 1
    for image_id, (_, complaint) in DEFECTS.items():
        assert complaint.lower() in said.partition(f"{image_id}: ")[2].partition(";")[0].lower(), image_id
    assert not list((tmp_path / "results" / "records").glob("*.json"))


SCORES = {
    "val_0001": (np.full((4, 3, 3), np.nan, np.float32), "NaN"),
    "val_0002": (np.full((4, 3, 3), -1, np.float32), "ranges from -1 to -1"),
    "val_0003": (np.zeros((5, 3, 3), np.float32), "has 5 channels, expected 4"),
    "val_0004": (np.zeros((3, 3), np.float32), "shape (3, 3)"),
    "val_0005": (np.array([{"cam": 1}]), "Python objects in dtype"),
}


def test_bad_scores_are_named_by_id(here: Run, tmp_path: Path, truths: dict[str, np.ndarray]) -> None:
    folder = tmp_path / "scores"
    folder.mkdir()
    for image_id in truths:
        np.save(folder / f"{image_id}.npy", SCORES.get(image_id, (np.zeros((4, 3, 3), np.float16), ""))[0])
    status, _, said = _evaluate(here, "--scores", str(folder))
    assert status == 2
    for image_id, (_, complaint) in SCORES.items():
        assert complaint in said.partition(f"{image_id}: ")[2].partition(";")[0], image_id
    assert said.count("val_") == len(SCORES)


def test_scores_become_masks_by_the_protocol_and_the_crf(
    here: Run, tmp_path: Path, truths: dict[str, np.ndarray]
) -> None:
    folder = tmp_path / "scores"
    folder.mkdir()
    for image_id, truth in truths.items():
        classes = np.unique(truth[(truth > 0) & (truth < 255)])
        scores = (classes[:, None, None] == truth).astype(np.float16)
        np.savez(folder / f"{image_id}.npz", scores=scores, classes=classes - 1)
    status, printed, _ = _evaluate(here, "--scores", str(folder), "--refine", "none,crf:vitpcm", "--json")
    assert status == 0
    plain, refined = json.loads(printed)
    assert plain["metrics"]["val"]["miou"] == 1.0
    assert plain["metrics"]["val"]["pxap"] == 1.0
    assert 0.5 < refined["metrics"]["val"]["miou"] < 1.0


def test_what_to_evaluate_must_be_said_once(here: Run, tmp_path: Path) -> None:
    assert _evaluate(here)[0] == 2
    status, _, said = _evaluate(here, "--masks", str(tmp_path / "nowhere"))
    assert (status, said.count("\n")) == (2, 1)
    assert "no folder" in said
