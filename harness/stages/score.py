"""Score maps of a split, kept as the model gave them: every channel, ungated, at its own grid, in half precision."""

from __future__ import annotations

import json
import warnings
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from functools import partial
from pathlib import Path

import numpy as np
import torch
from safetensors.numpy import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional

from harness.contract import exits_refused
from harness.data.base import IGNORE, open_mask, open_rgb
from harness.external import find, read_maps
from harness.loader import squash
from harness.method import Method
from harness.outputs import check_classes, check_range, checked_scores
from harness.results.store import Artefact
from harness.seeds import derive
from harness.stages import SHARD, Task
from harness.stages.configs import ExternalScoreConfig, ScoreConfig, SelectConfig
from harness.stages.fit import load_model, model_config

NATIVE = "native"  # the picture's own size
PATCH = 16  # a native size is rounded to whole ones
Scored = tuple[str, np.ndarray, np.ndarray | None]  # id, score map, presence
_PIXELS = 1 << 21  # in a batch
_AHEAD = 16  # pictures that are decoded before the model wants them


def shard_name(shard: int) -> str:
    """Return the file of a shard."""
    return f"scores-{shard:04d}.safetensors"


def read_scores(scores: Artefact, shard: int) -> Iterator[Scored]:
    """Yield id, (C, h, w) score map and (num_classes - 1,) presence of each picture of a shard, in order."""
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

    with ThreadPoolExecutor(max(1, task.workers)) as pool:

        def score(chunk: slice) -> Iterator[Scored]:
            torch.manual_seed(derive(model_config(fitted).seed, "score", chunk.start))
            images = opened(pool, task.pictures[chunk])
            return score_pictures(task, method, model, ids[chunk], images, labels[chunk])

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


def write_scores(task: Task, count: int, score: Callable[[slice], Iterator[Scored]]) -> None:
    """Write one safetensors file per shard of `count` pictures, each as `score` gives it."""
    kept = task.work / "shards"
    kept.mkdir(exist_ok=True)
    for start in range(0, count, SHARD):
        place = kept / shard_name(start // SHARD)
        if not place.exists():
            tensors = {}
            for done, (image_id, maps, presence) in enumerate(score(slice(start, start + SHARD)), start + 1):
                tensors[f"map:{image_id}"] = maps
                if presence is not None:
                    tensors[f"presence:{image_id}"] = presence
                task.progress(done, count)
            draft = place.with_suffix(".draft")
            save_file(tensors, draft)
            draft.rename(place)
    for place in sorted(kept.glob("*.safetensors")):
        (task.out / place.name).hardlink_to(place)


def batch_size(size: int | str) -> int:
    """Return how many pictures go through a model at once."""
    return 1 if size == NATIVE else max(1, _PIXELS // int(size) ** 2)


def score_pictures(
    task: Task, method: Method, model: nn.Module, ids: list[str], pictures: Iterator[np.ndarray], labels: Tensor
) -> Iterator[Scored]:
    """Yield the score maps of some pictures, at the size, scales and mirroring of the stage's configuration."""
    config: ScoreConfig | SelectConfig = task.config
    size = config.size
    at_once = batch_size(size)
    dataset = task.dataset() if config.oracle else None
    for start in range(0, len(ids), at_once):
        batch_ids = ids[start : start + at_once]
        images = [next(pictures) for _ in batch_ids]
        given = labels[start : start + at_once].to(task.device) if config.labels_given else None
        if dataset is not None:
            truths = [open_mask(dataset.mask_path(i)) for i in batch_ids]
            given = _one_hot(truths, config.class_ids, _sides(images[0], size, 1.0))
        with exits_refused(method), torch.set_grad_enabled(method.needs_grad), task.autocast(config.precision):
            maps, presence = _by_parts(task, method, model, images, given)
        check_classes(method, maps, presence, labels.shape[1])
        for image_id, index in zip(batch_ids, range(len(batch_ids)), strict=True):
            yield image_id, *_halves(method, maps[index], None if presence is None else presence[index])


def opened(pool: Executor, paths: list[Path], ahead: int = _AHEAD) -> Iterator[np.ndarray]:
    """Yield pictures in order, decoded by threads while the model runs, never more than some ahead of it.

    The threads should last for a stage: each new one leaves some memory that the allocator keeps.
    """
    waiting = deque(pool.submit(open_rgb, path) for path in paths[:ahead])
    for path in paths[ahead:]:
        yield waiting.popleft().result()
        waiting.append(pool.submit(open_rgb, path))
    while waiting:
        yield waiting.popleft().result()


def _by_parts(
    task: Task, method: Method, model: nn.Module, images: list[np.ndarray], given: Tensor | None
) -> tuple[Tensor, Tensor | None]:
    """Return what `merged_scores` does, picture by picture where the device has no memory for all at once."""
    config: ScoreConfig | SelectConfig = task.config

    def score(part: slice) -> tuple[Tensor, Tensor | None]:
        labels = None if given is None else given[part]
        return merged_scores(method, model, images[part], labels, config.size, config.scales, config.flip, task.device)

    try:
        return score(slice(None))
    except torch.OutOfMemoryError:
        if len(images) == 1:
            raise
    warnings.warn(f"out of memory for {len(images)} pictures at once: one by one", stacklevel=2)
    if task.device == "cuda":
        torch.cuda.empty_cache()
    maps, presence = zip(*(score(slice(n, n + 1)) for n in range(len(images))), strict=True)
    return torch.cat(maps), None if presence[0] is None else torch.cat(presence)


def merged_scores(
    method: Method,
    model: nn.Module,
    images: Sequence[np.ndarray],
    labels: Tensor | None,
    size: int | str,
    scales: Sequence[float],
    flip: str,
    device: str,
) -> tuple[Tensor, Tensor | None]:
    """Score pictures at every scale and average raw scores at the grid of the first scale.

    With `flip` "mean" or "max" a scale's maps are merged so with those of the mirrored pictures.
    """
    total: Tensor | None = None
    presences = []

    def score(view: Tensor, labels: Tensor | None) -> Tensor:
        maps, presence = checked_scores(method, method.score(model, view, labels), len(view))
        if presence is not None:
            presences.append(presence.float())
        return maps.float()

    for scale in scales:
        view = torch.stack([squash(image, _sides(image, size, scale)) for image in images]).to(device)
        maps = score(view, labels)
        if flip != "none":
            truth = labels.flip(-1) if labels is not None and labels.ndim == 4 else labels
            mirrored = score(view.flip(-1), truth).flip(-1)
            maps = torch.maximum(maps, mirrored) if flip == "max" else (maps + mirrored) / 2
        if total is None:
            total = torch.zeros_like(maps)
        if maps.shape[-2:] != total.shape[-2:]:
            maps = functional.interpolate(maps, total.shape[-2:], mode="bilinear", align_corners=False)
        total += maps
    assert total is not None
    return total / len(scales), torch.stack(presences).mean(0) if presences else None


def _sides(image: np.ndarray, size: int | str, scale: float) -> tuple[int, int]:
    """Return height and width at which a picture is scored: its own in whole patches, or a square."""
    if size == NATIVE:
        height, width = (max(1, round(side * scale / PATCH)) * PATCH for side in image.shape[:2])
        return height, width
    return (round(int(size) * scale),) * 2


def _one_hot(masks: list[np.ndarray], class_ids: list[int], sides: tuple[int, int]) -> Tensor:
    """Return (B, K, height, width) ground truth, each picture squashed."""
    maps = [torch.from_numpy(np.stack([mask == class_id for class_id in class_ids])).float() for mask in masks]
    resized = [functional.interpolate(m[None], sides, mode="bilinear", align_corners=False) for m in maps]
    return torch.cat(resized)


def _halves(method: Method, maps: Tensor, presence: Tensor | None) -> tuple[np.ndarray, np.ndarray | None]:
    """Return an image's score maps and presence on the host, in half precision, after a look at their values."""
    scores = maps.detach().cpu().numpy()
    check_range(method, scores, "scores", 1.0 if method.output == "probability" else float("inf"))
    if presence is None:
        return _half(scores), None
    present = presence.detach().cpu().numpy()
    check_range(method, present, "presence", 1.0)
    return _half(scores), _half(present)


def _half(array: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(array.clip(0, np.finfo(np.float16).max), np.float16)  # safetensors ignores strides
