from __future__ import annotations

import numpy as np
import pytest

from harness.metrics import confusion, finalise

TRUTH = np.array([[0, 0, 1], [1, 2, 255]], np.uint8)
PREDICTION = np.array([[0, 1, 1], [1, 0, 2]], np.uint8)


def test_confusion_by_hand() -> None:
    assert confusion(TRUTH, PREDICTION, [0, 1, 2]).tolist() == [[1, 1, 0, 0], [0, 2, 0, 0], [1, 0, 0, 0]]


def test_scores_by_hand() -> None:
    scores = finalise(confusion(TRUTH, PREDICTION, [0, 1, 2]))
    assert scores["iou"] == [pytest.approx(1 / 3), pytest.approx(2 / 3), 0.0]
    assert scores["miou"] == pytest.approx(1 / 3)
    assert scores["pixacc"] == pytest.approx(3 / 5)
    assert scores["macc"] == pytest.approx((1 / 2 + 1 + 0) / 3)
    assert scores["coverage"] == 1.0
    assert scores["pixels"] == 5


def test_a_predicted_255_is_wrong_and_lowers_coverage() -> None:
    prediction = PREDICTION.copy()
    prediction[0, 0] = 255
    scores = finalise(confusion(TRUTH, prediction, [0, 1, 2]))
    assert scores["iou"][0] == 0.0
    assert scores["pixacc"] == pytest.approx(2 / 5)
    assert scores["coverage"] == pytest.approx(4 / 5)


def test_other_classes_are_left_out_where_true_and_wrong_where_predicted() -> None:
    matrix = confusion(TRUTH, PREDICTION, [0, 1])
    assert matrix.tolist() == [[1, 1, 0], [0, 2, 0]]
    assert confusion(TRUTH, np.full_like(TRUTH, 2), [0, 1]).tolist() == [[0, 0, 2], [0, 0, 2]]


def test_a_class_in_neither_truth_nor_prediction_does_not_count() -> None:
    scores = finalise(confusion(TRUTH, PREDICTION, [0, 1, 2, 3]))
    assert scores["iou"][3] is None
    assert scores["miou"] == pytest.approx(1 / 3)


def test_matrices_of_pictures_add_up_before_anything_is_divided() -> None:
    first, second = confusion(TRUTH, PREDICTION, [0, 1, 2]), confusion(PREDICTION, PREDICTION, [0, 1, 2])
    assert finalise(np.stack([first, second])) == finalise(first + second)


def test_counts_beyond_32_bits_stay_exact() -> None:
    big = np.array([[[2**31 - 1, 0, 0], [0, 5, 0]]] * 4, np.int32)
    assert finalise(big)["pixels"] == 4 * (2**31 + 4)


def test_against_a_slow_loop_on_random_masks() -> None:
    rng = np.random.default_rng(0)
    truth, prediction = (rng.choice([0, 1, 2, 3, 4, 255], (37, 41)).astype(np.uint8) for _ in range(2))
    slow = np.zeros((5, 6), int)
    for t, p in zip(truth.ravel(), prediction.ravel(), strict=True):
        if t != 255:
            slow[t, 5 if p == 255 else p] += 1
    assert (confusion(truth, prediction, range(5)) == slow).all()
