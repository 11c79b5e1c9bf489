"""Choose the epoch of a training on held-out images, where the protocol does not take the last.

It runs after the training, in a process of its own: a method that fits never sees what its epochs are judged by.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Sequence

import numpy as np
import torch
from safetensors.torch import load_file

from harness.data.base import open_mask
from harness.images import opened
from harness.metrics import Confusions, confusion, mean_iou
from harness.pseudomask import background_is_closed, open_classes
from harness.stages import Task
from harness.stages.configs import SelectConfig
from harness.stages.fit import EPOCH, load_model
from harness.stages.mask import best_class
from harness.stages.score import Scored, score_images


def run(task: Task) -> None:
    """Write what the stage `fit` writes, of the best epoch, and `choice.json`: the epochs' scores and the best.

    Where the rule has a patience, the epochs after which a training would have been stopped are not looked at.
    """
    fitted = task.parent("fit")
    method = task.method()
    model = load_model(task.registry, method, fitted).to(task.device)
    split = task.parent("labels").json("labels.json")
    ids, labels = split["ids"], torch.tensor(split["labels"], dtype=torch.float32)
    epochs = sorted(path.name for path in fitted.path.glob(EPOCH.format("*")))
    judge = _by_pixels if task.config.rule == "val_pixels" else _by_labels
    scores: list[float] = []
    for number, name in enumerate(epochs):
        model.load_state_dict(load_file(fitted.file(name)))
        task.progress(number, len(epochs))
        images = opened(task.image_paths, task.device, task.workers)
        scores.append(judge(task, score_images(task, method, model, ids, images, labels)))
        if exhausted(scores, task.config.patience):
            break
    best = int(np.argmax(scores)) if scores else 0
    shutil.copyfile(fitted.file(epochs[best] if epochs else "model.safetensors"), task.out / "model.safetensors")
    for name in ("curves.json", "parameters.json"):
        shutil.copyfile(fitted.file(name), task.out / name)
    choice = {"rule": task.config.rule, "split": task.config.split, "scores": scores, "epoch": best + 1}
    (task.out / "choice.json").write_text(json.dumps(choice))


def exhausted(scores: Sequence[float], patience: int | None) -> bool:
    """Return whether the last `patience` epochs brought nothing better; never, where that is None."""
    return patience is not None and len(scores) - 1 - int(np.argmax(scores)) >= patience


def _by_labels(task: Task, scored: Iterator[Scored]) -> float:
    """Return the mean average precision of the predicted image labels."""
    labels = np.array(task.parent("labels").json("labels.json")["labels"])
    found = np.stack([presence for _, _, presence in scored if presence is not None]).astype(np.float64)
    return mean_average_precision(labels, found)


def _by_pixels(task: Task, scored: Iterator[Scored]) -> float:
    """Return the mIoU of the pseudo-masks, without a refiner."""
    config: SelectConfig = task.config
    rules = config.rules
    dataset, method = task.dataset(), task.method()
    split = task.parent("labels").json("labels.json")
    class_ids = np.array(config.class_ids)

    def matrices() -> Iterator[np.ndarray]:
        for number, (image_id, maps, presence) in enumerate(scored):
            labels = np.array(split["labels"][number])
            classes = open_classes(rules, labels, presence)
            closed = background_is_closed(rules, labels) and len(classes) > 0
            best = best_class(maps, classes, split["sizes"][number], rules, method.output, closed=closed)
            mask = class_ids[np.array([0, *classes])[best]]
            yield confusion(open_mask(dataset.mask_path(image_id)), mask, config.class_ids)

    return float(mean_iou(Confusions.gather(matrices(), len(class_ids)).counts().sum(0)))


def mean_average_precision(labels: np.ndarray, presence: np.ndarray) -> float:
    """Return it over the classes that occur: (N, num_classes) image labels, (N, num_classes - 1) without background."""
    truth = labels[:, 1:]
    known = truth.any(0)
    return float(np.mean([average_precision(t, p) for t, p in zip(truth.T[known], presence.T[known], strict=True)]))


def average_precision(truth: np.ndarray, scores: np.ndarray) -> float:
    """Return the mean, over the positives, of the precision down to their score; (N,) each."""
    order = np.argsort(-scores, kind="stable")
    right = truth[order].cumsum()
    return float((right / np.arange(1, len(truth) + 1))[truth[order] == 1].mean())
