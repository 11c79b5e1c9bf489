from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import average_precision_score

from harness.metrics import Confusions, confusion, finalise
from harness.stages.curve import BINS, STEPS, Curve, average_precision
from harness.stages.select import average_precision as ranking_precision
from harness.stages.select import mean_average_precision

CLASSES = 4


def _images() -> list[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Scores on the bins' own grid, open classes, and truth with pixels that do not count."""
    rng = np.random.default_rng(0)
    images = []
    for number, classes in enumerate(([1, 3], [2], [], [1, 2, 3])):
        truth = rng.integers(-1, CLASSES, (20, 17 + number))
        noise = rng.integers(0, STEPS + 1, (len(classes), *truth.shape))
        scored = np.where(truth == np.reshape(classes, (-1, 1, 1)), (noise + STEPS) // 2, noise) / STEPS
        images.append((scored.astype(np.float64), np.array(classes, int), truth))
    return images


def test_average_precision_equals_scikit_learns() -> None:
    curve = Curve(CLASSES)
    all_true, all_scores = [], []
    for scored, classes, truth in _images():
        curve.add(scored, classes, truth)
        full = np.zeros((CLASSES, *truth.shape))
        full[classes] = scored
        all_true.append(truth[truth >= 0])
        all_scores.append(full[:, truth >= 0])
    true, scores = np.concatenate(all_true), np.concatenate(all_scores, 1)
    for number in range(1, CLASSES):
        expected = average_precision_score(true == number, scores[number])
        assert curve.result()["ap"][number - 1] == pytest.approx(expected, abs=1e-12)


def test_the_sweep_equals_thresholding_again_and_again() -> None:
    curve = Curve(CLASSES)
    for image in _images():
        curve.add(*image)
    for step in (0, 25, 40, 99):
        matrices = []
        for scored, classes, truth in _images():
            channels = np.concatenate([np.full((1, *truth.shape), step / STEPS), scored])
            mask = np.array([0, *classes])[channels.argmax(0)]
            matrices.append(confusion(np.where(truth < 0, 255, truth), mask, range(CLASSES)))
        assert curve.result()["sweep"][step] == pytest.approx(
            finalise(Confusions.gather(matrices, CLASSES))["miou"], abs=1e-12
        )
    assert curve.result()["threshold"] == np.argmax(curve.result()["sweep"]) / STEPS


def test_a_class_that_never_occurs_has_no_precision() -> None:
    assert average_precision(np.array([[5, 0]] * (BINS + 1))) is None


def test_perfect_scores_are_worth_one() -> None:
    curve = Curve(2)
    truth = np.array([[0, 1], [1, -1]])
    curve.add((truth[None] == 1).astype(float), np.array([1]), truth)
    assert curve.result()["pxap"] == 1.0
    assert max(curve.result()["sweep"]) == 1.0


def test_the_ranking_of_image_labels_is_scikit_learns() -> None:
    rng = np.random.default_rng(1)
    truth, scores = rng.integers(0, 2, 50), rng.random(50)
    assert ranking_precision(truth, scores) == pytest.approx(average_precision_score(truth, scores))


def test_the_mean_average_precision_is_over_the_classes_that_occur_and_not_the_background() -> None:
    labels = np.array([[1, 1, 0, 0], [1, 0, 1, 0], [1, 1, 0, 0]])
    presence = np.array([[0.9, 0.1, 0.8], [0.8, 0.2, 0.1], [0.7, 0.3, 0.1]])
    # the first class: ranks 1 and 3 of 3 are right, 1 and 2/3; the second: rank 2 of 3, 1/2; the third does not occur
    assert mean_average_precision(labels, presence) == pytest.approx((5 / 6 + 1 / 2) / 2)
