from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from mmseg.evaluation import IoUMetric
from sklearn.metrics import confusion_matrix, jaccard_score, precision_score, recall_score

from harness.data.base import open_mask
from harness.metrics import (
    DEFINITIONS,
    Confusions,
    confusion,
    finalise,
    iou,
    mean_iou,
    mean_over_objects,
    object_jaccard,
)

REAL = next(Path(os.environ.get("WSSS_HARNESS_ROOT", "/nowhere")).glob("VOCdevkit/VOC2012"), None)  # if there is one


def scores_of(*matrices: np.ndarray, definition: str = "pooled") -> dict[str, Any]:
    return finalise(Confusions.gather(matrices, len(matrices[0])), definition)


TRUTH = np.array([[0, 0, 1], [1, 2, 255]], np.uint8)
PREDICTION = np.array([[0, 1, 1], [1, 0, 2]], np.uint8)


def test_confusion_by_hand() -> None:
    assert confusion(TRUTH, PREDICTION, [0, 1, 2]).tolist() == [[1, 1, 0, 0], [0, 2, 0, 0], [1, 0, 0, 0]]


def test_scores_by_hand() -> None:
    scores = scores_of(confusion(TRUTH, PREDICTION, [0, 1, 2]))
    assert scores["iou"] == [pytest.approx(1 / 3), pytest.approx(2 / 3), 0.0]
    assert scores["miou"] == pytest.approx(1 / 3)
    assert scores["pixacc"] == pytest.approx(3 / 5)
    assert scores["macc"] == pytest.approx((1 / 2 + 1 + 0) / 3)
    assert scores["coverage"] == 1.0
    assert scores["pixels"] == 5


def test_foreground_is_every_class_as_one() -> None:
    scores = scores_of(confusion(TRUTH, PREDICTION, [0, 1, 2]))
    assert scores["foreground"] == pytest.approx(2 / 4)  # two right; one background pixel and one missed besides
    assert scores_of(confusion(TRUTH, np.full_like(TRUTH, 255), [0, 1, 2]))["foreground"] == 0.0


def test_objects_by_hand() -> None:
    found = object_jaccard(Confusions.gather([confusion(TRUTH, PREDICTION, [0, 1, 2])], 3))
    assert found.tolist() == [[pytest.approx(2 / 3), 0.0]]  # of three pixels two are of class 1, none of class 2
    empty = confusion(np.zeros_like(TRUTH), PREDICTION, [0, 1, 2])
    one = confusion(np.where(TRUTH == 2, 0, TRUTH), PREDICTION, [0, 1, 2])
    three = object_jaccard(Confusions.gather([confusion(TRUTH, PREDICTION, [0, 1, 2]), empty, one], 3))
    assert np.isnan(three[1]).all()
    assert np.isnan(three[2, 1])
    assert mean_over_objects(three) == pytest.approx((1 / 3 + 2 / 3) / 2)  # an image without objects does not count


def test_any_class_is_foreground_to_an_object() -> None:
    swapped = np.where(TRUTH == 1, 2, np.where(TRUTH == 2, 1, TRUTH)).astype(np.uint8)
    assert scores_of(confusion(TRUTH, swapped, [0, 1, 2]))["objects"] == pytest.approx((2 / 3 + 1 / 3) / 2)


def test_a_predicted_255_is_wrong_and_lowers_coverage() -> None:
    prediction = PREDICTION.copy()
    prediction[0, 0] = 255
    scores = scores_of(confusion(TRUTH, prediction, [0, 1, 2]))
    assert scores["iou"][0] == 0.0
    assert scores["pixacc"] == pytest.approx(2 / 5)
    assert scores["coverage"] == pytest.approx(4 / 5)


def test_other_classes_are_left_out_where_true_and_wrong_where_predicted() -> None:
    matrix = confusion(TRUTH, PREDICTION, [0, 1])
    assert matrix.tolist() == [[1, 1, 0], [0, 2, 0]]
    assert confusion(TRUTH, np.full_like(TRUTH, 2), [0, 1]).tolist() == [[0, 0, 2], [0, 0, 2]]


def test_a_class_in_neither_truth_nor_prediction_does_not_count() -> None:
    scores = scores_of(confusion(TRUTH, PREDICTION, [0, 1, 2, 3]))
    assert scores["iou"][3] is None
    assert scores["miou"] == pytest.approx(1 / 3)


def test_matrices_of_images_add_up_before_anything_is_divided() -> None:
    first, second = confusion(TRUTH, PREDICTION, [0, 1, 2]), confusion(PREDICTION, PREDICTION, [0, 1, 2])
    apart, together = scores_of(first, second), scores_of(first + second)
    del apart["objects"], together["objects"]  # a mean over images
    assert apart == together


def test_counts_beyond_32_bits_stay_exact() -> None:
    assert scores_of(*[np.array([[2**31 - 1, 0, 0], [0, 5, 0]])] * 4)["pixels"] == 4 * (2**31 + 4)


def test_against_a_slow_loop_on_random_masks() -> None:
    rng = np.random.default_rng(0)
    truth, prediction = (rng.choice([0, 1, 2, 3, 4, 255], (37, 41)).astype(np.uint8) for _ in range(2))
    slow = np.zeros((5, 6), int)
    for t, p in zip(truth.ravel(), prediction.ravel(), strict=True):
        if t != 255:
            slow[t, 5 if p == 255 else p] += 1
    assert (confusion(truth, prediction, range(5)) == slow).all()


def test_precision_recall_and_the_two_errors_by_hand() -> None:
    scores = scores_of(confusion(TRUTH, PREDICTION, [0, 1, 2]))
    assert scores["precision"] == [pytest.approx(1 / 2), pytest.approx(2 / 3), None]
    assert scores["recall"] == [pytest.approx(1 / 2), 1.0, 0.0]
    assert scores["fp"] == [pytest.approx(1 / 3), pytest.approx(1 / 3), 0.0]
    assert scores["fn"] == [pytest.approx(1 / 3), 0.0, 1.0]
    for parts in zip(scores["iou"], scores["fp"], scores["fn"], strict=True):
        assert sum(parts) == pytest.approx(1)


@pytest.mark.parametrize(
    ("definition", "expected"),
    [
        ("pooled", (2 / 5 + 2 / 4 + 0 + 0 / 1) / 4),  # class 3 is predicted once and never true
        ("present", (2 / 5 + 2 / 4 + 0) / 3),
        ("zero", (2 / 5 + 2 / 4 + 0 + 0 + 0) / 5),  # class 4 is nowhere
        ("per_image", ((1 / 3 + 2 / 3 + 0) / 3 + (1 / 2 + 0 + 0) / 3) / 2),
        ("drop255", (2 / 5 + 2 / 3 + 0 + 0) / 4),
    ],
)
def test_every_definition_of_miou_by_hand(definition: str, expected: float) -> None:
    second_truth, second = np.array([[0, 0, 1]], np.uint8), np.array([[0, 3, 255]], np.uint8)
    matrices = [confusion(TRUTH, PREDICTION, range(5)), confusion(second_truth, second, range(5))]
    assert scores_of(*matrices, definition=definition)["miou"] == pytest.approx(expected)
    assert definition in DEFINITIONS


def _shifted_pairs(folder: Path) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """True masks, and as predictions those of the next image, moved and cut to size."""
    truths = [open_mask(path) for path in sorted((folder).glob("SegmentationClass*/*.png"))[:20]]
    following = zip(truths, [*truths[1:], truths[0]], strict=True)
    return truths, [np.resize(np.roll(next_, 7), truth.shape) for truth, next_ in following]


def _random_pairs() -> tuple[list[np.ndarray], list[np.ndarray]]:
    rng = np.random.default_rng(1)
    truths = [rng.choice([0, 1, 2, 3, 4, 255], (40, 30 + n)).astype(np.uint8) for n in range(5)]
    return truths, [rng.integers(0, 5, truth.shape).astype(np.uint8) for truth in truths]


@pytest.mark.parametrize("masks", ["random", "drawn", *(["real"] if REAL else [])])
def test_equal_to_mmsegmentation_and_scikit_learn_to_the_last_digit(masks: str, toy: Path) -> None:
    folder = REAL if REAL and masks == "real" else toy
    truths, predictions = _random_pairs() if masks == "random" else _shifted_pairs(folder)
    classes = 21 if masks == "real" else 5
    predictions = [np.where(prediction == 255, 0, prediction) for prediction in predictions]
    pairs = list(zip(truths, predictions, strict=True))
    ours = finalise(Confusions.gather([confusion(t, p, range(classes)) for t, p in pairs], classes))
    true = np.concatenate([truth.ravel() for truth in truths])
    said = np.concatenate([p.ravel() for p in predictions])[true != 255]
    true = true[true != 255]
    occurs = [number for number in range(classes) if (true == number).any() or (said == number).any()]
    assert [ours["iou"][n] for n in occurs] == jaccard_score(true, said, labels=occurs, average=None).tolist()
    true_ones = [number for number in occurs if (true == number).any()]
    assert [ours["recall"][n] for n in true_ones] == recall_score(true, said, labels=true_ones, average=None).tolist()
    said_ones = [number for number in occurs if (said == number).any()]
    expected = precision_score(true, said, labels=said_ones, average=None).tolist()
    assert [ours["precision"][n] for n in said_ones] == expected
    table = confusion_matrix(true, said, labels=occurs)
    assert ours["pixacc"] == np.trace(table) / table.sum()
    areas = [
        IoUMetric.intersect_and_union(torch.from_numpy(p), torch.from_numpy(t.copy()), classes, 255) for t, p in pairs
    ]
    intersect, union = (sum(area[n].double() for area in areas) for n in (0, 1))
    assert [ours["iou"][n] for n in occurs] == (intersect / union)[occurs].tolist()


def test_sparse_matrices_keep_everything(tmp_path: Path) -> None:
    truths, predictions = _random_pairs()
    dense = [confusion(t, p, range(5)) for t, p in zip(truths, predictions, strict=True)]
    first, second = Confusions.gather(dense[:3], 5), Confusions.gather(dense[3:], 5)
    joined = Confusions.join([first, second])
    joined.save(tmp_path / "all.npy")
    loaded = Confusions.load(tmp_path / "all.npy")
    assert loaded.images == 5
    assert (loaded.total() == sum(dense)).all()
    counts = loaded.counts()
    for number, matrix in enumerate(dense):
        assert (counts[number, :, 0] == np.diagonal(matrix)).all()
        assert (counts[number, :, 1] == matrix.sum(1)).all()
        assert (counts[number, :, 2] == matrix[:, :5].sum(0)).all()


def test_images_without_a_counted_pixel_keep_their_place() -> None:
    nothing = confusion(np.full((2, 2), 255, np.uint8), np.zeros((2, 2), np.uint8), [0, 1])
    confusions = Confusions.gather([nothing, confusion(TRUTH, PREDICTION, [0, 1]), nothing], 2)
    assert confusions.images == 3
    assert np.isnan(mean_iou(confusions.counts())).tolist() == [True, False, True]


def test_all_of_train_aug_is_small_and_quick(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    images, per_image = 10_582, 12
    entries = np.column_stack([
        np.repeat(np.arange(images), per_image), rng.integers(0, 21, (images * per_image, 2)),
        rng.integers(1, 50_000, images * per_image),
    ]).astype(np.int32)  # fmt: skip
    Confusions(entries, images, 21).save(tmp_path / "confusion.npy")
    assert (tmp_path / "confusion.npy").stat().st_size < 100e6
    started = time.process_time()
    loaded = Confusions.load(tmp_path / "confusion.npy")
    between = time.process_time()
    finalise(loaded)
    assert between - started < 1
    assert time.process_time() - between < 1


def test_iou_takes_any_leading_shape() -> None:
    counts = np.array([[[1, 2, 2], [0, 0, 0]], [[4, 4, 4], [0, 1, 0]]])
    np.testing.assert_array_equal(iou(counts), [[1 / 3, np.nan], [1, 0]])
    np.testing.assert_array_equal(mean_iou(counts), [1 / 3, 0.5])
