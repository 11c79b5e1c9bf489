"""What score maps are worth over all thresholds: average precision per class, and mIoU against a swept background.

It sees ground truth. Its threshold is used only where a protocol says `background: swept_on:SPLIT`.
"""

from __future__ import annotations

import json
from typing import Any

import numpy as np

from harness.data.base import open_mask
from harness.metrics import iou
from harness.pseudomask import open_classes, probabilities
from harness.stages import SHARD, Task
from harness.stages.configs import CurveConfig
from harness.stages.score import read_scores

BINS = 1000  # of the average precision
STEPS = 100  # of the swept background: 0, 0.01, ... 0.99


def run(task: Task) -> None:
    """Write `curve.json`: `ap` per class, `pxap`, the `sweep` of mIoU over backgrounds, and the best `threshold`."""
    config: CurveConfig = task.config
    rules = config.rules
    scores = task.parent("score")
    output = scores.json("scores.json")["output"]
    split = task.parent("labels").json("labels.json")
    labels, ids = np.array(split["labels"]), split["ids"]
    dataset = task.dataset()
    curve = Curve(len(config.class_ids))
    lookup = np.full(256, -1)
    lookup[config.class_ids] = np.arange(curve.classes)
    done = 0
    for shard in range(-(-len(ids) // SHARD)):
        for image_id, maps, presence in read_scores(scores, shard):
            classes = open_classes(rules, labels[done], presence)
            size = tuple(split["sizes"][done])
            scored = probabilities(maps, classes, size, rules, output)[1:].numpy()
            curve.add(scored, classes, lookup[open_mask(dataset.mask_path(image_id))])
            done += 1
            task.progress(done, len(ids))
    (task.out / "curve.json").write_text(json.dumps(curve.result()))


class Curve:
    """Histograms of foreground scores, from which every threshold can be asked.

    Parameters
    ----------
    classes : int
        With the background.
    """

    def __init__(self, classes: int) -> None:
        self.classes = classes
        self.scored = np.zeros((classes, BINS + 1, 2), np.int64)  # class, score, negative or positive
        self.winners = np.zeros((classes, classes, STEPS + 1), np.int64)  # true class, best class, its score

    def add(self, scored: np.ndarray, classes: np.ndarray, truth: np.ndarray) -> None:
        """Count an image.

        Parameters
        ----------
        scored : ndarray
            (C, H, W) scores of some foreground classes; those of the others are 0.
        classes : ndarray
            (C,) which they are.
        truth : ndarray
            (H, W) class positions; negative where a pixel does not count.
        """
        counted = truth >= 0
        true, scored = truth[counted], np.clip(scored[:, counted].astype(np.float64), 0, 1)
        totals = np.bincount(true, minlength=self.classes)
        for number in range(1, self.classes):
            if number not in classes:
                self.scored[number, 0] += [totals.sum() - totals[number], totals[number]]
        for values, number in zip(scored, classes, strict=True):
            cells = 2 * _bin(values, BINS) + (true == number)
            self.scored[number] += np.bincount(cells, minlength=2 * (BINS + 1)).reshape(-1, 2)
        if len(classes):
            winner, best = classes[scored.argmax(0)], _bin(scored.max(0), STEPS)
        else:
            winner, best = np.zeros_like(true), np.zeros_like(true)
        cells = (true * self.classes + winner) * (STEPS + 1) + best
        self.winners += np.bincount(cells, minlength=self.winners.size).reshape(self.winners.shape)

    def result(self) -> dict[str, Any]:
        """Return what `run` writes."""
        ap = [average_precision(counts) for counts in self.scored[1:]]
        known = [value for value in ap if value is not None]
        sweep = self._sweep()
        return {
            "pxap": float(np.mean(known)) if known else None,
            "ap": ap,
            "sweep": sweep,
            "threshold": int(np.argmax(sweep)) / STEPS,
        }

    def _sweep(self) -> list[float]:
        """Return the mIoU of each background score: a pixel is foreground if its best score is above it."""
        true = self.winners.sum((1, 2))
        found = []
        for step in range(STEPS):
            table = self.winners[:, :, step + 1 :].sum(2)
            table[:, 0] = true - table[:, 1:].sum(1)
            counts = np.stack([np.diagonal(table), true, table.sum(0)], -1)
            found.append(float(np.nanmean(iou(counts))))
        return found


def average_precision(counts: np.ndarray) -> float | None:
    """Return the area under precision over recall, from (bins, 2) counts of negatives and positives by rising score.

    PxAP of Choe et al. (CVPR 2020), of one class over all pixels of a split; None without positives.
    """
    falling = counts[::-1].cumsum(0)
    predicted, right = falling.sum(1), falling[:, 1]
    if not right[-1]:
        return None
    precision = np.divide(right, predicted, out=np.zeros(len(right)), where=predicted > 0)
    return float((np.diff(right, prepend=0) / right[-1] * precision).sum())


def _bin(values: np.ndarray, bins: int) -> np.ndarray:
    """Return 0..bins such that a value is above i / bins exactly if its bin is above i."""
    return np.ceil(values * bins).astype(np.int64)
