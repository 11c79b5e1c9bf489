from __future__ import annotations

import numpy as np
import pytest

from harness.bootstrap import interval, paired_difference, resample
from harness.metrics import mean_iou


def _counts(rng: np.random.Generator, skill: float, images: int = 200) -> np.ndarray:
    true = rng.integers(50, 100, (images, 3))
    right = (true * np.clip(rng.normal(skill, 0.1, true.shape), 0, 1)).astype(int)
    return np.stack([right, true, true], -1)


def test_resampling_is_repeatable_and_centred() -> None:
    counts = _counts(np.random.default_rng(0), 0.7)
    values = resample(counts, resamples=500)
    assert (values == resample(counts, resamples=500)).all()
    assert values.mean() == pytest.approx(float(mean_iou(counts.sum(0))), abs=0.002)


def test_one_resample_by_hand() -> None:
    counts = _counts(np.random.default_rng(1), 0.5, images=7)
    times = np.random.default_rng(3).multinomial(7, np.full(7, 1 / 7), 1)[0]
    drawn = np.repeat(counts, times, 0)
    assert resample(counts, resamples=1, seed=3)[0] == pytest.approx(float(mean_iou(drawn.sum(0))))


def test_the_interval_holds_the_truth_about_as_often_as_it_says() -> None:
    rng = np.random.default_rng(2)
    everyone = _counts(rng, 0.6, 20_000)
    truth = float(mean_iou(everyone.sum(0)))
    held = 0
    for _ in range(100):
        low, high = interval(resample(everyone[rng.integers(0, len(everyone), 150)], resamples=300))
        held += low <= truth <= high
    assert 85 <= held <= 100


def test_pairing_cancels_what_both_models_find_hard() -> None:
    rng = np.random.default_rng(3)
    first = _counts(rng, 0.6)
    second = first.copy()
    second[..., 0] = np.minimum(second[..., 0] + 2, second[..., 1])
    difference, low, high = paired_difference(first, second)["miou"]
    assert 0 < low <= difference <= high
    unpaired = interval(resample(second, seed=1) - resample(first, seed=2))
    assert high - low < (unpaired[1] - unpaired[0]) / 3


def test_a_model_does_not_differ_from_itself() -> None:
    counts = _counts(np.random.default_rng(4), 0.6)
    assert paired_difference(counts, counts) == {"miou": (0.0, 0.0, 0.0), "iou": [(0.0, 0.0, 0.0)] * 3}


def test_a_class_that_only_one_model_knows_has_no_difference() -> None:
    first = np.array([[[1, 2, 2], [0, 0, 0]]])
    second = np.array([[[1, 2, 2], [0, 0, 1]]])
    assert paired_difference(first, second)["iou"] == [(0.0, 0.0, 0.0), None]


def test_the_interval_leaves_as_much_out_below_as_above() -> None:
    assert interval(np.arange(1001.0)) == pytest.approx((25.0, 975.0))
    assert interval(np.arange(101.0), 0.8) == pytest.approx((10.0, 90.0))
    assert interval(np.array([np.nan, 1.0])) == (1.0, 1.0)
    assert interval(np.array([np.nan])) == (0.0, 0.0)
