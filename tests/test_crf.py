from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from harness.crf import CRFParams, _mean_subtracted, dense_crf
from harness.data.base import open_mask, open_rgb
from harness.registry import Registry
from harness.strict import parse

PARAMS = parse(CRFParams, Registry().load("crf", "vitpcm"))


def test_the_preset_is_the_official_one() -> None:
    values = PARAMS.model_dump(exclude={"summary", "source"})
    assert values == {
        "iterations": 10, "gaussian_xy": 1, "gaussian_weight": 3, "bilateral_xy": 67, "bilateral_rgb": 3,
        "bilateral_weight": 4, "clip": 1e-5, "unary": "probabilities", "label_confidence": 0.7, "picture": "rgb",
        "channels": "open", "align_corners": False,
    }  # fmt: skip


def test_labels_move_to_the_edges_of_the_image() -> None:
    image = np.zeros((40, 40, 3), np.uint8)
    image[:, 20:] = 255
    foreground = np.zeros((40, 40), np.float32)
    foreground[:, 17:] = 0.7
    foreground[:, :17] = 0.3
    refined = dense_crf(image, np.stack([1 - foreground, foreground]), PARAMS)
    assert refined.sum(0) == pytest.approx(np.ones((40, 40)), abs=1e-4)
    assert (refined.argmax(0) == (image[..., 0] > 0)).all()


def test_one_channel_is_returned_as_it_is() -> None:
    alone = np.ones((1, 4, 4), np.float32)
    assert dense_crf(np.zeros((4, 4, 3), np.uint8), alone, PARAMS) is alone


def test_a_read_only_image_is_fine() -> None:
    image = np.zeros((8, 8, 3), np.uint8)
    image.flags.writeable = False
    assert dense_crf(image, np.full((2, 8, 8), 0.5, np.float32), PARAMS).shape == (2, 8, 8)


@pytest.mark.parametrize("preset", Registry().names("crf"))
def test_every_preset_says_what_it_is_and_where_it_comes_from(preset: str) -> None:
    params = parse(CRFParams, Registry().load("crf", preset))
    assert params.summary
    assert params.source
    assert params.iterations == 10


@pytest.mark.parametrize("preset", ["vitpcm", "psa"])
def test_leaving_closed_classes_out_changes_less_than_one_label_in_ten_thousand(preset: str, toy: Path) -> None:
    params = parse(CRFParams, Registry().load("crf", preset))
    changed = pixels = 0
    for path in sorted((toy / "JPEGImages").glob("val_000*.jpg"))[:6]:
        truth = open_mask(toy / "SegmentationClass" / f"{path.stem}.png")
        classes = [0, *(int(n) for n in np.unique(truth) if 0 < n < 5)]
        rng = np.random.default_rng(len(classes))
        noisy = np.stack([(truth == n) * 0.5 + rng.random(truth.shape) for n in classes]).astype(np.float32)
        open_only = noisy / noisy.sum(0)
        everything = np.zeros((21, *truth.shape), np.float32)
        everything[classes] = open_only
        first = np.array(classes)[dense_crf(open_rgb(path), open_only, params).argmax(0)]
        second = dense_crf(open_rgb(path), everything, params).argmax(0)
        changed += (first != second).sum()
        pixels += truth.size
    assert changed / pixels < 1e-4


def test_labels_as_unary_forget_how_sure_the_scores_were() -> None:
    params = PARAMS.model_copy(update={"unary": "labels"})
    rng = np.random.default_rng(0)
    image = rng.integers(0, 255, (20, 20, 3), dtype=np.uint8)
    sure = np.zeros((2, 20, 20), np.float32)
    sure[0, :, :9], sure[1, :, 9:] = 1, 1
    unsure = sure * 0.02 + 0.49
    assert (dense_crf(image, sure, params) == dense_crf(image, unsure, params)).all()
    assert not (dense_crf(image, sure, PARAMS) == dense_crf(image, unsure, PARAMS)).all()


def test_the_mean_subtracted_image_wraps_around() -> None:
    pixel = np.array([[[130, 100, 104]]], np.uint8)  # R, G, B
    assert _mean_subtracted(pixel).tolist() == [[[0, 256 - 16, 7]]]


def test_each_setting_reaches_the_field_that_it_is_of() -> None:
    from pydensecrf import densecrf
    from pydensecrf.utils import unary_from_softmax

    rng = np.random.default_rng(0)
    image = rng.integers(0, 255, (24, 32, 3), np.uint8)
    given = rng.random((2, 24, 32), np.float32)
    given /= given.sum(0)
    field = densecrf.DenseCRF2D(32, 24, 2)
    field.setUnaryEnergy(np.ascontiguousarray(unary_from_softmax(given, clip=1e-5)))
    field.addPairwiseGaussian(sxy=1, compat=3)
    field.addPairwiseBilateral(sxy=67, srgb=3, rgbim=image, compat=4)
    expected = np.array(field.inference(10)).reshape(2, 24, 32)
    assert dense_crf(image, given, PARAMS) == pytest.approx(expected, abs=1e-6)
