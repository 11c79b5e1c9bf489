"""Confusion matrices of masks in memory, against those of three libraries' users."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import numpy as np
import torch

from benchmarks.cells import plan, run_stage, store_of, the_stage
from benchmarks.row import Aim, Row, Setting, best_of_others, rate, seconds
from harness.data.base import IGNORE, open_mask
from harness.data.voc import VOC_CLASSES
from harness.metrics import Confusions, confusion
from harness.registry import Registry
from harness.torchvision_ops import ensure_importable

CLASSES = len(VOC_CLASSES)


def rows(at: Setting) -> list[Row]:
    """Return the row: ground truth beside masks as a method on patches makes them."""
    images = at.pick(128, 4)
    planned = plan(at, "confusion", methods="sanity-oracle", limit=images, set={"sanity-oracle.stride": 16})
    masks = run_stage(planned, the_stage(planned, "mask", "val none"), at)
    labels = store_of(planned).need("labels", the_stage(planned, "labels", "val").key)
    dataset = Registry().load("dataset", at.dataset)(at.root)
    ids = labels.json("labels.json")["ids"]
    pairs = [(open_mask(dataset.mask_path(i)), open_mask(masks.path / f"{i}.png")) for i in ids]
    tensors = [tuple(torch.from_numpy(mask.astype(np.int64)) for mask in pair) for pair in pairs]
    arrays = [tuple(mask.astype(np.int32) for mask in pair) for pair in pairs]
    sides: dict[str, Callable[[], np.ndarray]] = {
        "harness": partial(ours, pairs),
        "mmsegmentation IoUMetric": partial(mmsegmentation, tensors),
        "torchmetrics MulticlassConfusionMatrix": partial(torchmetrics, tensors),
        "loop as chainercv's": partial(chainercv, arrays),
    }

    def facts() -> dict[str, str]:
        pixels = sum(truth.size for truth, _ in pairs) / len(pairs)
        runs = sum(np.count_nonzero(np.diff(256 * t.astype(int).ravel() + p.ravel())) + 1 for t, p in pairs)
        rng = np.random.default_rng(0)
        noise = [(rng.integers(0, CLASSES, truth.shape, np.uint8), mask) for truth, mask in pairs]
        wide = [tuple(mask.astype(np.int32) for mask in pair) for pair in noise]
        bare, files = rate(len(pairs), partial(ours, pairs))[0], seconds(lambda: _read(dataset, masks, ids))[0]
        return {
            "floor: bytes read of an image and its mask": f"{2 * pixels / 1e3:.0f} kB",
            "pixels of an image": f"{pixels / 1e3:.0f} thousand",
            "runs of equal pairs of classes in it": f"{runs / len(pairs):.0f}",
            "the harness on truth that is pure noise, its worst case, against chainercv's loop":
                f"{seconds(partial(chainercv, wide))[0] / seconds(partial(ours, noise))[0]:.2f}x",
            "images/s of reading the two files": f"{len(pairs) / files:.0f}",
            "share of counting in reading and counting": f"{len(pairs) / bare / (files + len(pairs) / bare):.0%}",
        }  # fmt: skip

    return [
        Row(
            name="confusion",
            what="confusion matrices, masks in memory",
            against="IoUMetric, torchmetrics, the chainercv-style loop",
            unit="images/s",
            sides={name: partial(rate, len(pairs), work) for name, work in sides.items()},
            ratio=best_of_others,
            aim=Aim(">=", 2),
            agree=agree,
            facts=facts,
            repeats=11,
            opponents=("onedl-mmsegmentation", "torchmetrics", "numpy"),
        )
    ]


def ours(pairs: list[Any]) -> np.ndarray:
    """Return (K, 3) right, true and predicted pixels, as the stage `evaluate` and a record count them."""
    matrices = (confusion(truth, mask, range(CLASSES)) for truth, mask in pairs)
    return Confusions.gather(matrices, CLASSES).counts().sum(0)


def mmsegmentation(pairs: list[Any]) -> np.ndarray:
    """Return the same by mmsegmentation's metric, without its table; tensors as its pipelines make them."""
    ensure_importable()
    with contextlib.redirect_stdout(io.StringIO()):
        from mmseg.evaluation import IoUMetric
    metric = IoUMetric(ignore_index=IGNORE, prefix="masks")
    metric.dataset_meta = {"classes": VOC_CLASSES}
    for truth, mask in pairs:
        metric.process({}, [{"pred_sem_seg": {"data": mask[None]}, "gt_sem_seg": {"data": truth[None]}}])
    right, _, predicted, true = (torch.stack(areas).double().sum(0) for areas in zip(*metric.results, strict=True))
    return torch.stack([right, true, predicted], 1).long().numpy()


def torchmetrics(pairs: list[Any]) -> np.ndarray:
    """Return the same by torchmetrics, without the checks that it can leave out."""
    ensure_importable()
    from torchmetrics.classification import MulticlassConfusionMatrix

    metric = MulticlassConfusionMatrix(CLASSES, ignore_index=IGNORE, validate_args=False)
    for truth, mask in pairs:
        metric.update(mask, truth)
    return _counts(metric.compute().numpy())


def chainercv(pairs: list[Any]) -> np.ndarray:
    """Return the same by the loop that most repositories copy: `np.bincount` of each image's labelled pixels."""
    total = np.zeros((CLASSES, CLASSES), np.int64)
    for truth, mask in pairs:
        known = truth.ravel() != IGNORE
        cells = CLASSES * truth.ravel()[known] + mask.ravel()[known]
        total += np.bincount(cells, minlength=CLASSES**2).reshape(CLASSES, CLASSES)
    return _counts(total)


def agree(made: Mapping[str, Any]) -> str:
    """Return what is equal: every count of every class."""
    first, *others = made.values()
    assert all(np.array_equal(first, other) for other in others), made
    return f"{first.size} counts of {int(first[:, 1].sum())} pixels"


def _counts(matrix: np.ndarray) -> np.ndarray:
    return np.stack([np.diagonal(matrix), matrix.sum(1), matrix.sum(0)], 1)


def _read(dataset: Any, masks: Any, ids: list[str]) -> None:
    for image_id in ids:
        open_mask(dataset.mask_path(image_id))
        open_mask(masks.path / f"{image_id}.png")
