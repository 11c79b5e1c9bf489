"""How far a score would move with other pictures: resampling pictures, without running anything again.

This is the error over pictures of one trained model. The spread over seeds is another; neither contains the other.
"""

from __future__ import annotations

import numpy as np

from harness.metrics import mean_iou

RESAMPLES = 2000
_CHUNK = 200


def resampled_miou(counts: np.ndarray, resamples: int = RESAMPLES, seed: int = 0) -> np.ndarray:
    """Return the mIoU of pictures drawn with replacement, many times.

    Parameters
    ----------
    counts : ndarray
        (N, K, 3) as `Confusions.counts` gives them, or (N, M, K, 3) for M models that are resampled together.
    resamples : int
    seed : int

    Returns
    -------
    ndarray
        (resamples,) or (resamples, M).
    """
    rng = np.random.default_rng(seed)
    pictures = len(counts)
    flat = counts.reshape(pictures, -1).astype(np.float64)
    values = []
    for start in range(0, resamples, _CHUNK):
        times = rng.multinomial(pictures, np.full(pictures, 1 / pictures), min(_CHUNK, resamples - start))
        values.append(mean_iou((times.astype(np.float64) @ flat).reshape(len(times), *counts.shape[1:])))
    return np.concatenate(values)


def interval(values: np.ndarray, level: float = 0.95) -> tuple[float, float]:
    """Return the central interval of some resampled values."""
    tail = (1 - level) / 2
    low, high = np.quantile(values, [tail, 1 - tail])
    return float(low), float(high)


def paired_difference(first: np.ndarray, second: np.ndarray) -> tuple[float, float, float]:
    """Return the mIoU difference, second minus first, and its 95 % interval over pictures drawn for both alike.

    Parameters
    ----------
    first, second : ndarray
        (N, K, 3) counts of the same pictures.
    """
    both = np.stack([first, second], 1)
    before, after = mean_iou(both.sum(0))
    resampled = resampled_miou(both)
    return float(after - before), *interval(resampled[:, 1] - resampled[:, 0])
