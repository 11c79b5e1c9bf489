"""What a verifier is trained on, against images that say where each of their pixels is from."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from harness.data.base import save_mask
from harness.deeplab.data import Positions, PseudoMasks, augment, ignored_share
from harness.deeplab.recipe import Recipe, load_recipe
from harness.registry import Registry

TOY = load_recipe("toy", Registry())


def recipe(**changes: object) -> Recipe:
    return TOY.model_copy(update={"crop": 16, "train_scales": (1.0,), "flip": False} | changes)


def tell_tale(height: int, width: int) -> tuple[np.ndarray, np.ndarray]:
    """An image whose red is the row and whose green is the column, and labels of both."""
    rows, columns = np.mgrid[:height, :width].astype(np.uint8)
    return np.stack([rows, columns, rows], -1), (rows * 7 + columns).astype(np.uint8)


def test_every_pass_sees_every_image_once_in_an_order_of_its_own() -> None:
    places = list(Positions(5, 13, seed=1))
    assert [position for position, _ in places] == list(range(13))
    passes = [[number for _, number in places[start : start + 5]] for start in (0, 5)]
    assert all(sorted(one) == list(range(5)) for one in passes)
    assert passes[0] != passes[1]
    assert [number for _, number in Positions(5, 13, seed=2)] != [number for _, number in places]


def test_what_was_trained_is_skipped_and_the_rest_is_as_it_would_have_been() -> None:
    whole, rest = list(Positions(5, 13, seed=1)), Positions(5, 13, seed=1)
    rest.skip(7)
    assert (len(rest), list(rest)) == (6, whole[7:])


def test_a_crop_is_a_piece_of_the_image_with_the_labels_of_the_same_pixels() -> None:
    image, labels = tell_tale(30, 40)
    seen = set()
    for seed in range(20):
        piece, own = augment(image, labels, recipe(), np.random.default_rng(seed))
        assert piece.shape == (16, 16, 3)
        np.testing.assert_array_equal(own, piece[..., 0] * 7 + piece[..., 1])
        seen.add((int(piece[0, 0, 0]), int(piece[0, 0, 1])))
    assert len(seen) > 10
    assert max(top for top, _ in seen) <= 14
    assert max(left for _, left in seen) <= 24


def test_half_of_the_images_are_mirrored_labels_and_all() -> None:
    image, labels = tell_tale(16, 16)
    mirrored = 0
    for seed in range(40):
        piece, own = augment(image, labels, recipe(flip=True), np.random.default_rng(seed))
        np.testing.assert_array_equal(own, piece[..., 0] * 7 + piece[..., 1])
        mirrored += int(piece[0, 0, 1] == 15)
    assert 10 < mirrored < 30


def test_a_smaller_image_stays_small_and_scales_are_those_of_the_recipe() -> None:
    image, labels = tell_tale(20, 10)
    sides = {augment(image, labels, recipe(crop=64, train_scales=(0.5, 2.0)), np.random.default_rng(seed))[1].shape
             for seed in range(20)}  # fmt: skip
    assert sides == {(10, 5), (40, 20)}


def test_labels_are_never_blended() -> None:
    image, _ = tell_tale(20, 20)
    labels = np.where(np.arange(20) < 10, 0, 200).astype(np.uint8) * np.ones((20, 1), np.uint8)
    for seed in range(10):
        _, own = augment(image, labels, recipe(train_scales=(0.75, 1.3)), np.random.default_rng(seed))
        assert set(np.unique(own)) <= {0, 200}


@pytest.fixture
def masks(tmp_path: Path) -> list[Path]:
    mask = np.zeros((10, 10), np.uint8)
    mask[:2], mask[2:4], mask[4] = 15, 7, 255
    save_mask(tmp_path / "a.png", mask)
    Image.fromarray(tell_tale(10, 10)[0]).save(tmp_path / "a.bmp")
    return [tmp_path / "a.png"]


def test_classes_become_positions_and_what_does_not_count_is_ignored(masks: list[Path]) -> None:
    data = PseudoMasks([masks[0].with_suffix(".bmp")], masks, [0, 15], recipe(), seed=0)
    found = data[0, 0]
    labels = found["data_samples"].gt_sem_seg.data
    assert labels.shape == (1, 10, 10)
    assert [int(labels[0, row, 0]) for row in (0, 2, 4, 5)] == [1, 255, 255, 0]
    assert found["inputs"].shape == (3, 10, 10)
    assert ignored_share(masks, [0, 15]) == pytest.approx(0.3)
    assert ignored_share(masks, [0, 7, 15]) == pytest.approx(0.1)


def test_the_same_position_is_drawn_alike_and_another_is_not(masks: list[Path]) -> None:
    data = PseudoMasks([masks[0].with_suffix(".bmp")], masks, [0, 15], recipe(crop=4), seed=0)
    drawn = [data[position, 0]["inputs"].numpy().tobytes() for position in (3, 3, 4, 5, 6)]
    assert drawn[0] == drawn[1]
    assert len(set(drawn)) > 2
