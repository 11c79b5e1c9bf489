"""One integer confusion matrix per image, kept sparse, and one way to turn matrices into numbers."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from harness.data.base import IGNORE


def confusion(truth: np.ndarray, prediction: np.ndarray, class_ids: Sequence[int]) -> np.ndarray:
    """Count an image's pixels by true and predicted class.

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
    pairs = (truth.astype(np.uint16) << 8 | prediction).ravel()
    starts = np.concatenate([[0], np.flatnonzero(pairs[1:] != pairs[:-1]) + 1])  # of runs: far fewer than pixels
    heads = pairs[starts]
    cells = lookup[heads >> 8] * (count + 1) + lookup[heads & 255]
    pixels = np.bincount(cells, np.diff(starts, append=len(pairs)), (count + 1) ** 2)
    return pixels.astype(np.int64).reshape(count + 1, count + 1)[:count]


@dataclass(frozen=True)
class Confusions:
    """The confusion matrices of N images over K classes: an image fills few of its K (K + 1) entries.

    Attributes
    ----------
    entries : ndarray
        (E, 4) int32: image, true class, predicted class (K is "none of these"), pixels; sorted by image.
    images, classes : int
        N and K.
    """

    entries: np.ndarray
    images: int
    classes: int

    @classmethod
    def gather(cls, matrices: Iterable[np.ndarray], classes: int) -> Confusions:
        """Gather (K, K + 1) matrices, image by image."""
        rows, count = [np.empty((0, 4), np.int32)], 0
        for count, matrix in enumerate(matrices, 1):
            true, predicted = np.nonzero(matrix)
            rows.append(np.column_stack([np.full(len(true), count - 1), true, predicted, matrix[true, predicted]]))
        return cls(np.concatenate(rows).astype(np.int32), count, classes)

    @classmethod
    def join(cls, parts: Sequence[Confusions]) -> Confusions:
        """Put shards behind each other."""
        starts = np.cumsum([0, *(part.images for part in parts)])
        moved = [part.entries + np.array([start, 0, 0, 0]) for part, start in zip(parts, starts[:-1], strict=True)]
        return cls(np.concatenate(moved).astype(np.int32), int(starts[-1]), parts[0].classes)

    def save(self, path: Path) -> None:
        """Write them to a file; the first line holds N and K."""
        np.save(path, np.concatenate([[[self.images, self.classes, 0, 0]], self.entries]).astype(np.int32))

    @classmethod
    def load(cls, path: Path) -> Confusions:
        """Read what `save` wrote."""
        rows = np.load(path)
        return cls(rows[1:], int(rows[0, 0]), int(rows[0, 1]))

    def total(self) -> np.ndarray:
        """Return the (K, K + 1) int64 sum over the images."""
        total = np.zeros((self.classes, self.classes + 1), np.int64)
        _, true, predicted, pixels = self.entries.T
        np.add.at(total, (true, predicted), pixels)
        return total

    def counts(self) -> np.ndarray:
        """Return (N, K, 3) int64 pixels of each image and class: right, true, predicted."""
        counts = np.zeros((self.images, self.classes + 1, 3), np.int64)
        image, true, predicted, pixels = self.entries.T
        right = true == predicted
        np.add.at(counts, (image[right], true[right], 0), pixels[right])
        np.add.at(counts, (image, true, 1), pixels)
        np.add.at(counts, (image, predicted, 2), pixels)
        return counts[:, :-1]


def iou(counts: np.ndarray) -> np.ndarray:
    """Return (..., K) IoU of (..., K, 3) counts as `Confusions.counts` gives them; NaN in neither truth nor prediction.

    IoU = right / (true + predicted - right).
    """
    right, true, predicted = np.moveaxis(np.asarray(counts, np.float64), -1, 0)
    return _share(right, true + predicted - right)


def mean_iou(counts: np.ndarray) -> np.ndarray:
    """Return (...) mean IoU over the classes that occur in truth or prediction."""
    values = iou(counts)
    known = ~np.isnan(values)
    return _share(np.where(known, values, 0).sum(-1), known.sum(-1))


def _present(confusions: Confusions) -> float:
    counts = confusions.counts().sum(0)
    return float(mean_iou(counts[counts[:, 1] > 0]))


def _zero(confusions: Confusions) -> float:
    return float(np.nan_to_num(iou(confusions.counts().sum(0))).mean())


def _per_image(confusions: Confusions) -> float:
    return float(np.nanmean(mean_iou(confusions.counts())))


def _drop255(confusions: Confusions) -> float:
    known = confusions.entries[confusions.entries[:, 2] < confusions.classes]
    return float(mean_iou(Confusions(known, confusions.images, confusions.classes).counts().sum(0)))


# What other codebases call mIoU; all but the first are for asking how much the definition matters.
DEFINITIONS: dict[str, Callable[[Confusions], float]] = {
    "pooled": lambda confusions: float(mean_iou(confusions.counts().sum(0))),
    "present": _present,  # classes of the truth only
    "zero": _zero,  # a class in neither truth nor prediction counts as 0
    "per_image": _per_image,  # mean over images of the image's own mIoU
    "drop255": _drop255,  # pixels without a predicted class are left out
}


def finalise(confusions: Confusions, definition: str = "pooled") -> dict[str, Any]:
    """Turn confusion matrices into scores.

    Parameters
    ----------
    confusions : Confusions
    definition : str
        Of `miou`: a name in `DEFINITIONS`. `pooled`: over the pixels of all images, the mean over the classes that
        occur in truth or prediction.

    Returns
    -------
    dict
        `miou`. Per class, None where undefined: `iou`; `precision` = right / predicted; `recall` = right / true; `fp` =
        (predicted - right) / union and `fn` = (true - right) / union, so that iou + fp + fn = 1. `pixacc`: share of
        pixels right; `macc`: mean recall; `foreground`: IoU of all classes but the background, as if they were one;
        `objects`: `mean_over_objects` of `object_jaccard`; `coverage`: share of pixels predicted as any of the classes;
        `pixels`: how many counted. All shares in [0, 1].
    """
    total = confusions.total()
    right = np.diagonal(total).astype(np.float64)
    true, predicted = total.sum(1), total[:, :-1].sum(0)
    union = true + predicted - right
    recall = _share(right, true)
    pixels = int(total.sum())
    inside = total[1:, 1:-1].sum()
    around = total[1:].sum() + total[0, 1:-1].sum()
    return {
        "miou": _known(DEFINITIONS[definition](confusions)),
        "iou": _listed(_share(right, union)),
        "precision": _listed(_share(right, predicted)),
        "recall": _listed(recall),
        "fp": _listed(_share(predicted - right, union)),
        "fn": _listed(_share(true - right, union)),
        "pixacc": right.sum() / pixels if pixels else None,
        "foreground": inside / around if around else None,
        "objects": _known(mean_over_objects(object_jaccard(confusions))),
        "macc": float(np.nanmean(recall)) if pixels else None,
        "coverage": predicted.sum() / pixels if pixels else None,
        "pixels": pixels,
    }


def object_jaccard(confusions: Confusions) -> np.ndarray:
    """Return how well each image's whole foreground covers each of its classes.

    A class of an image is an object, as in DINO's protocol (Caron et al., 2021): the Jaccard index of its pixels with
    all pixels predicted as foreground, whatever their class. Undefined truth is left out.

    Returns
    -------
    ndarray
        (N, K - 1) in [0, 1]; NaN for a class that the image does not show.
    """
    found = np.zeros((confusions.images, confusions.classes, 2), np.int64)  # pixels: all, those predicted foreground
    image, true, predicted, pixels = confusions.entries.T
    inside = (predicted > 0) & (predicted < confusions.classes)
    np.add.at(found, (image, true, 0), pixels)
    np.add.at(found, (image[inside], true[inside], 1), pixels[inside])
    size, hit = found[:, 1:, 0], found[:, 1:, 1]
    return np.where(size > 0, _share(hit, size + found[:, :, 1].sum(1, keepdims=True) - hit), np.nan)


def size_iou(confusions: Confusions) -> list[tuple[float, int]]:
    """Return how well regions of each size are found: mean IoU and number of small, medium and large ones.

    A region is all of a foreground class in one image. It is small below 5 % of the image's labelled pixels, large from
    20 % on. Its IoU is that of its class in its image, so that what is predicted in images without the class does not
    count here.
    """
    counts = confusions.counts()
    share = counts[:, :, 1] / np.maximum(counts[:, :, 1].sum(1, keepdims=True), 1)
    regions, shares = iou(counts)[:, 1:], share[:, 1:]
    found = []
    for low, high in ((0.0, 0.05), (0.05, 0.2), (0.2, np.inf)):
        own = regions[(shares > 0) & (shares >= low) & (shares < high)]
        found.append((float(own.mean()) if len(own) else float("nan"), len(own)))
    return found


def mean_over_objects(jaccard: np.ndarray) -> float:
    """Return the mean of (N, K - 1) `object_jaccard` over an image's objects, then over the images that show any."""
    shown = jaccard[~np.isnan(jaccard).all(1)]
    return float(np.nanmean(shown, axis=1).mean()) if len(shown) else float("nan")


def _share(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    return np.divide(part, whole, out=np.full(np.shape(whole), np.nan), where=whole > 0)


def _known(value: float) -> float | None:
    return None if np.isnan(value) else float(value)


def _listed(values: np.ndarray) -> list[float | None]:
    return [_known(value) for value in values]
