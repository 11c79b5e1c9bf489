from __future__ import annotations

import numpy as np
import pytest

from harness.crf import CRFParams, dense_crf
from harness.registry import Registry
from harness.strict import parse

PARAMS = parse(CRFParams, Registry().load("crf", "vitpcm"))


def test_the_preset_is_the_official_one() -> None:
    values = PARAMS.model_dump(exclude={"summary", "source"})
    assert values == {
        "iterations": 10, "gaussian_xy": 1, "gaussian_weight": 3, "bilateral_xy": 67, "bilateral_rgb": 3,
        "bilateral_weight": 4, "clip": 1e-5, "channels": "open",
    }  # fmt: skip


def test_labels_move_to_the_edges_of_the_picture() -> None:
    picture = np.zeros((40, 40, 3), np.uint8)
    picture[:, 20:] = 255
    foreground = np.zeros((40, 40), np.float32)
    foreground[:, 17:] = 0.7
    foreground[:, :17] = 0.3
    refined = dense_crf(picture, np.stack([1 - foreground, foreground]), PARAMS)
    assert refined.sum(0) == pytest.approx(np.ones((40, 40)), abs=1e-4)
    assert (refined.argmax(0) == (picture[..., 0] > 0)).all()


def test_one_channel_is_returned_as_it_is() -> None:
    alone = np.ones((1, 4, 4), np.float32)
    assert dense_crf(np.zeros((4, 4, 3), np.uint8), alone, PARAMS) is alone


def test_a_read_only_picture_is_fine() -> None:
    picture = np.zeros((8, 8, 3), np.uint8)
    picture.flags.writeable = False
    assert dense_crf(picture, np.full((2, 8, 8), 0.5, np.float32), PARAMS).shape == (2, 8, 8)
