"""One integer confusion matrix per picture, and one way to turn matrices into numbers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from harness.data.base import IGNORE


def confusion(truth: np.ndarray, prediction: np.ndarray, class_ids: Sequence[int]) -> np.ndarray:
    """Count a picture's pixels by true and predicted class.

    Pixels whose truth is 255 or a class outside `class_ids` are left out. A prediction of 255, or of a class outside
    `class_ids`, is wrong, whatever the truth; it is counted in a column of its own.

    Parameters
    ----------
    truth, prediction : ndarray
        (H, W) uint8 class indices.
    class_ids : sequence of int
        The K classes that count, background first.

    Returns
    -------
    ndarray
        (K, K + 1) int64: row true, column predicted; the last column is "none of these".
    """
    count = len(class_ids)
    lookup = np.full(256, count, np.int64)
    lookup[list(class_ids)] = np.arange(count)
    lookup[IGNORE] = count
    cells = lookup[truth] * (count + 1) + lookup[prediction]
    return np.bincount(cells.ravel(), minlength=(count + 1) ** 2).reshape(count + 1, count + 1)[:count]


def finalise(matrices: np.ndarray) -> dict[str, Any]:
    """Turn confusion matrices into scores.

    Parameters
    ----------
    matrices : ndarray
        (N, K, K + 1) or (K, K + 1) integer counts, as `confusion` gives them.

    Returns
    -------
    dict
        `miou`: mean IoU over the classes that occur in truth or prediction; `iou`: per class, None where it occurs in
        neither; `pixacc`: share of pixels right; `macc`: mean over the true classes of the share right; `coverage`:
        share of pixels predicted as any of the classes; `pixels`: how many counted. All shares in [0, 1].
    """
    total = np.asarray(matrices, np.int64)
    if total.ndim == 3:
        total = total.sum(0)
    right = np.diagonal(total).astype(np.float64)
    true = total.sum(1)
    union = true + total[:, :-1].sum(0) - right
    iou = np.divide(right, union, out=np.full(len(right), np.nan), where=union > 0)
    recall = np.divide(right, true, out=np.full(len(right), np.nan), where=true > 0)
    pixels = int(total.sum())
    return {
        "miou": _mean(iou),
        "iou": [None if np.isnan(value) else float(value) for value in iou],
        "pixacc": float(right.sum() / pixels) if pixels else None,
        "macc": _mean(recall),
        "coverage": float(total[:, :-1].sum() / pixels) if pixels else None,
        "pixels": pixels,
    }


def _mean(values: np.ndarray) -> float | None:
    known = values[~np.isnan(values)]
    return float(known.mean()) if len(known) else None
