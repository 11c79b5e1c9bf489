"""Score maps of a split, kept as the model gave them: every channel, ungated, at its own grid, in half precision."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from safetensors.numpy import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional

from harness.contract import exits_refused
from harness.data.base import IGNORE, open_mask
from harness.external import find, read_maps
from harness.images import opened, squashed
from harness.method import Method
from harness.outputs import check_classes, check_range, checked_scores
from harness.results.store import Artefact
from harness.seeds import derive
from harness.stages import SHARD, Task
from harness.stages.configs import ExternalScoreConfig, ScoreConfig, SelectConfig
from harness.stages.fit import load_model, model_config

AT_ONCE = "images_at_once"  # the fact of a stage that says how many images went through the model together
NATIVE = "native"  # the image's own size
PATCH = 16  # a native size is rounded to whole ones
Scored = tuple[str, np.ndarray, np.ndarray | None]  # id, score map, presence
_PIXELS = {"cpu": 1 << 21, "cuda": 1 << 24}  # in a batch, where memory allows it
_EIGHTS = 8  # a GPU's matrix units take sequences so many at a time


def shard_name(shard: int) -> str:
    """Return the file of a shard."""
    return f"scores-{shard:04d}.safetensors"


def read_scores(scores: Artefact, shard: int) -> Iterator[Scored]:
    """Yield id, (C, h, w) score map and (num_classes - 1,) presence of each image of a shard, in order."""
    tensors = load_file(scores.file(shard_name(shard)))
    for name, value in tensors.items():
        kind, _, image_id = name.partition(":")
        if kind == "map":
            yield image_id, value, tensors.get(f"presence:{image_id}")


def run(task: Task) -> None:
    """Write one safetensors file per shard; finished shards survive a crash."""
    method = task.method()
    if isinstance(task.config, ExternalScoreConfig) or method.output == "labels":
        _copy(task, method)
        return
    split = task.parent("labels").json("labels.json")
    ids, labels = split["ids"], torch.tensor(split["labels"], dtype=torch.float32)
    fitted = task.parent("select" if "select" in task.node.parents else "fit")
    model = load_model(task.registry, method, fitted).to(task.device)
    paths = [path for chunk in unfinished(task, len(ids)) for path in task.image_paths[chunk]]
    images = opened(paths, task.device, task.workers)

    def score(chunk: slice) -> Iterator[Scored]:
        torch.manual_seed(derive(model_config(fitted).seed, "score", chunk.start))
        return score_images(task, method, model, ids[chunk], images, labels[chunk])

    write_scores(task, len(ids), score)
    (task.out / "scores.json").write_text(json.dumps({"output": method.output, "background": method.background}))


def _copy(task: Task, method: Method) -> None:
    """Write the score maps of a split from a folder; the finished masks of an oracle are the ground truth itself."""
    config: ScoreConfig | ExternalScoreConfig = task.config
    if isinstance(config, ScoreConfig):
        kind, path_of = "masks", task.dataset().mask_path
    else:
        kind, folder = method.params.kind, Path(task.locations.roots[config.external])
        path_of = partial(find, folder, kind)
    ids = task.parent("labels").json("labels.json")["ids"]
    position = np.full(256, IGNORE, np.uint8)  # of a class among those that count
    position[config.class_ids] = np.arange(len(config.class_ids))

    def read(chunk: slice) -> Iterator[Scored]:
        for image_id in ids[chunk]:
            path = path_of(image_id)
            if kind == "masks":
                yield image_id, position[open_mask(path)][None], None
            else:
                yield image_id, read_maps(path, len(config.class_ids), method.background, method.output), None

    write_scores(task, len(ids), read)
    (task.out / "scores.json").write_text(json.dumps({"output": method.output, "background": method.background}))


def unfinished(task: Task, count: int) -> list[slice]:
    """Return which of `count` images are in shards that are not written yet."""
    chunks = [slice(start, start + SHARD) for start in range(0, count, SHARD)]
    return [chunk for chunk in chunks if not _place(task, chunk).exists()]


def write_scores(task: Task, count: int, score: Callable[[slice], Iterator[Scored]]) -> None:
    """Write one safetensors file per shard of `count` images, each as `score` gives it."""
    for chunk in unfinished(task, count):
        tensors = {}
        for done, (image_id, maps, presence) in enumerate(score(chunk), chunk.start + 1):
            tensors[f"map:{image_id}"] = maps
            if presence is not None:
                tensors[f"presence:{image_id}"] = presence
            task.progress(done, count)
        place = _place(task, chunk)
        draft = place.with_suffix(".draft")
        save_file(tensors, draft)
        draft.rename(place)
    for place in sorted(_place(task, slice(0, 0)).parent.glob("*.safetensors")):
        (task.out / place.name).hardlink_to(place)


def _place(task: Task, chunk: slice) -> Path:
    """Return where the shard of a chunk is kept until all are written."""
    kept = task.work / "shards"
    kept.mkdir(exist_ok=True)
    return kept / shard_name(chunk.start // SHARD)


def batch_size(size: int | str, device: str) -> int:
    """Return how many images go through a model at once, where memory allows it."""
    if size == NATIVE:
        return 1
    fitting = max(1, _PIXELS[device] // int(size) ** 2)
    return fitting if fitting < _EIGHTS else fitting // _EIGHTS * _EIGHTS


def score_images(
    task: Task, method: Method, model: nn.Module, ids: list[str], images: Iterator[Tensor], labels: Tensor
) -> Iterator[Scored]:
    """Yield the score maps of some images, at the size, scales and mirroring of the stage's configuration.

    Those of a batch are read while the device is at the next.
    """
    config: ScoreConfig | SelectConfig = task.config
    size = config.size
    task.facts.setdefault(AT_ONCE, batch_size(size, task.device))
    dataset = task.dataset() if config.oracle else None
    before: _OnItsWay | None = None
    start = 0
    while start < len(ids):
        batch_ids = ids[start : start + task.facts[AT_ONCE]]
        batch = [next(images) for _ in batch_ids]
        given = labels[start : start + len(batch_ids)].to(task.device) if config.labels_given else None
        if dataset is not None:
            truths = [open_mask(dataset.mask_path(i)) for i in batch_ids]
            given = _one_hot(truths, config.class_ids, _sides(batch[0], size, 1.0))
        with exits_refused(method), torch.set_grad_enabled(method.needs_grad), task.autocast(config.precision):
            maps, presence = _by_parts(task, method, model, batch, given)
        check_classes(method, maps, presence, labels.shape[1])
        scored = _OnItsWay(batch_ids, maps, presence)
        if before:
            yield from before.arrived(method)
        before = scored
        start += len(batch_ids)
    if before:
        yield from before.arrived(method)


class _OnItsWay:
    """What is kept of the scores of a batch, copied to the host while the device goes on."""

    def __init__(self, ids: list[str], maps: Tensor, presence: Tensor | None) -> None:
        self.ids = ids
        self.maps = _halved(maps)
        self.presence = None if presence is None else _halved(presence)
        self.copied = torch.cuda.Event() if maps.is_cuda else None
        if self.copied:
            self.copied.record()

    def arrived(self, method: Method) -> Iterator[Scored]:
        """Yield what is kept of each image, once it is there, after a look at the range of the batch."""
        if self.copied:
            self.copied.synchronize()
        maps, presence = self.maps[0].numpy(), None
        check_range(method, self.maps[1], "scores", 1.0 if method.output == "probability" else float("inf"))
        if self.presence:
            check_range(method, self.presence[1], "presence", 1.0)
            presence = self.presence[0].numpy()
        for index, image_id in enumerate(self.ids):
            yield image_id, maps[index], None if presence is None else presence[index]


def _halved(values: Tensor) -> tuple[Tensor, Tensor]:
    """Return values in half precision, and the smallest and the largest of them, on their way to the host."""
    values = values.detach()
    half = values.clamp(0, torch.finfo(torch.float16).max).half().contiguous()  # safetensors ignores strides
    return half.to("cpu", non_blocking=True), torch.stack(values.aminmax()).to("cpu", non_blocking=True)


def _by_parts(
    task: Task, method: Method, model: nn.Module, images: list[Tensor], given: Tensor | None
) -> tuple[Tensor, Tensor | None]:
    """Return what `merged_scores` does, of so many images at once as the device has memory for.

    Where it has less than was thought, that is halved for the rest of the stage.
    """
    config: ScoreConfig | SelectConfig = task.config
    passes = Passes(config.size, config.scales, config.flip, config.merge)

    def score(start: int) -> tuple[Tensor, Tensor | None]:
        part = slice(start, start + task.facts[AT_ONCE])
        labels = None if given is None else given[part]
        return merged_scores(method, model, images[part], labels, passes, task.device)

    while True:
        at_once = task.facts[AT_ONCE]
        try:
            maps, presence = zip(*map(score, range(0, len(images), at_once)), strict=True)
            return torch.cat(maps), None if presence[0] is None else torch.cat(presence)
        except torch.OutOfMemoryError:
            if at_once == 1:
                raise
        task.facts[AT_ONCE] = at_once // 2
        warnings.warn(f"out of memory for {at_once} images at once: {at_once // 2} from now on", stacklevel=2)
        if task.device == "cuda":
            torch.cuda.empty_cache()


@dataclass(frozen=True)
class Passes:
    """How images go through a model for their score maps: fields of the protocol."""

    size: int | str
    scales: Sequence[float]
    flip: str
    merge: str


def merged_scores(
    method: Method, model: nn.Module, images: Sequence[Tensor], labels: Tensor | None, passes: Passes, device: str
) -> tuple[Tensor, Tensor | None]:
    """Score (H, W, 3) uint8 images at every scale and average raw scores, where `merge` says.

    With `flip` "mean" or "max" a scale's maps are merged so with those of the mirrored images.
    """
    size, flip = passes.size, passes.flip
    grid = _sides(images[0], size, 1.0) if passes.merge == "image" else None
    total: Tensor | None = None
    presences = []

    def score(view: Tensor, labels: Tensor | None) -> Tensor:
        maps, presence = checked_scores(method, method.score(model, view, labels), len(view))
        if presence is not None:
            presences.append(presence.float())
        return maps.float()

    for scale in passes.scales:
        view = squashed(images, [_sides(image, size, scale) for image in images], device)
        maps = score(view, labels)
        if flip != "none":
            truth = labels.flip(-1) if labels is not None and labels.ndim == 4 else labels
            mirrored = score(view.flip(-1), truth).flip(-1)
            maps = torch.maximum(maps, mirrored) if flip == "max" else (maps + mirrored) / 2
        grid = grid or (maps.shape[-2], maps.shape[-1])
        if maps.shape[-2:] != grid:
            maps = functional.interpolate(maps, grid, mode="bilinear", align_corners=False)
        if total is None:
            total = torch.zeros_like(maps)
        total += maps
    assert total is not None
    return total / len(passes.scales), torch.stack(presences).mean(0) if presences else None


def _sides(image: Tensor, size: int | str, scale: float) -> tuple[int, int]:
    """Return height and width at which an image is scored: its own in whole patches, or a square."""
    if size == NATIVE:
        height, width = (max(1, round(side * scale / PATCH)) * PATCH for side in image.shape[:2])
        return height, width
    return (round(int(size) * scale),) * 2


def _one_hot(masks: list[np.ndarray], class_ids: list[int], sides: tuple[int, int]) -> Tensor:
    """Return (B, K, height, width) ground truth, each image squashed."""
    maps = [torch.from_numpy(np.stack([mask == class_id for class_id in class_ids])).float() for mask in masks]
    resized = [functional.interpolate(m[None], sides, mode="bilinear", align_corners=False) for m in maps]
    return torch.cat(resized)
