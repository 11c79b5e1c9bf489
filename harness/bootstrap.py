"""How far a score would move with other images: resampling images, without running anything again.

This is the error over images of one trained model. The spread over seeds is another; neither contains the other.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from harness.metrics import iou, mean_iou

RESAMPLES = 2000
_CHUNK = 200


def resample(
    counts: np.ndarray,
    statistic: Callable[[np.ndarray], np.ndarray] = mean_iou,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> np.ndarray:
    """Return a statistic of images drawn with replacement, many times.

    Parameters
    ----------
    counts : ndarray
        (N, K, 3) as `Confusions.counts` gives them, or (N, M, K, 3) for M models that are resampled together.
    statistic : callable
        Of summed counts, (..., K, 3): `mean_iou` or `iou`.
    resamples : int
    seed : int

    Returns
    -------
    ndarray
        (resamples, ...).
    """
    rng = np.random.default_rng(seed)
    images = len(counts)
    flat = counts.reshape(images, -1).astype(np.float64)
    values = []
    for start in range(0, resamples, _CHUNK):
        times = rng.multinomial(images, np.full(images, 1 / images), min(_CHUNK, resamples - start))
        values.append(statistic((times.astype(np.float64) @ flat).reshape(len(times), *counts.shape[1:])))
    return np.concatenate(values)


def interval(values: np.ndarray, level: float = 0.95) -> tuple[float, float]:
    """Return the central interval of some resampled values, (0, 0) around values that never occurred."""
    known = values[~np.isnan(values)]
    if not len(known):
        return 0.0, 0.0
    tail = (1 - level) / 2
    low, high = np.quantile(known, [tail, 1 - tail])
    return float(low), float(high)


def paired_difference(first: np.ndarray, second: np.ndarray) -> dict[str, Any]:
    """Return by how much scores differ, second minus first, with 95 % intervals over images drawn for both alike.

    Parameters
    ----------
    first, second : ndarray
        (N, K, 3) counts of the same images.

    Returns
    -------
    dict
        `miou`: difference, low, high; `iou`: a list of the same per class, None where a class occurs in only one.
    """
    both = np.stack([first, second], 1)
    found: dict[str, Any] = {}
    for name, statistic in (("miou", mean_iou), ("iou", iou)):
        whole = statistic(both.sum(0))
        drawn = resample(both, statistic)
        found[name] = whole[1] - whole[0], drawn[:, 1] - drawn[:, 0]
    difference, drawn = found["miou"]
    per_class = [
        None if np.isnan(value) else (float(value), *interval(found["iou"][1][:, number]))
        for number, value in enumerate(found["iou"][0])
    ]
    return {"miou": (float(difference), *interval(drawn)), "iou": per_class}
