"""Score maps of a split, kept as the model gave them: every channel, ungated, at its own grid, in half precision."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch
from safetensors.numpy import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional

from harness.data.base import Dataset, open_mask, open_rgb
from harness.method import Method
from harness.stages import SHARD, Task
from harness.stages.fit import load_model
from harness.store import Artefact
from harness.training import derive, squash

_PIXELS = 1 << 21  # in a batch


def shard_name(shard: int) -> str:
    """Return the file of a shard."""
    return f"scores-{shard:04d}.safetensors"


def read_scores(scores: Artefact, shard: int) -> Iterator[tuple[str, np.ndarray, np.ndarray | None]]:
    """Yield id, (C, h, w) score map and (num_classes - 1,) presence of each picture of a shard, in order."""
    tensors = load_file(scores.file(shard_name(shard)))
    for name, value in tensors.items():
        kind, _, image_id = name.partition(":")
        if kind == "map":
            yield image_id, value, tensors.get(f"presence:{image_id}")


def run(task: Task) -> None:
    """Write one safetensors file per shard; finished shards survive a crash."""
    method = task.method()
    split = task.parent("labels").json("labels.json")
    ids, labels = split["ids"], torch.tensor(split["labels"], dtype=torch.float32)
    dataset = task.dataset()
    fitted = task.parent("fit")
    model = load_model(method, fitted).to(task.device)
    kept = task.work / "shards"
    kept.mkdir(exist_ok=True)
    for start in range(0, len(ids), SHARD):
        place = kept / shard_name(start // SHARD)
        if not place.exists():
            torch.manual_seed(derive(fitted.manifest["config"]["seed"], "score", start))
            tensors = {}
            chunk = slice(start, start + SHARD)
            for image_id, maps, presence in _score(task, method, model, dataset, ids[chunk], labels[chunk]):
                tensors[f"map:{image_id}"] = maps
                if presence is not None:
                    tensors[f"presence:{image_id}"] = presence
                task.progress(start + sum(name.startswith("map:") for name in tensors), len(ids))
            draft = place.with_suffix(".draft")
            save_file(tensors, draft)
            draft.rename(place)
    for place in sorted(kept.glob("*.safetensors")):
        (task.out / place.name).hardlink_to(place)
    (task.out / "scores.json").write_text(json.dumps({"output": method.output, "background": method.background}))


def _score(
    task: Task, method: Method, model: nn.Module, dataset: Dataset, ids: list[str], labels: Tensor
) -> Iterator[tuple[str, np.ndarray, np.ndarray | None]]:
    config = task.config
    batch_size = max(1, _PIXELS // config["size"] ** 2)
    oracle = "masks" in method.supervision
    with ThreadPoolExecutor(max(1, task.workers)) as pool:
        pictures = pool.map(lambda image_id: open_rgb(dataset.image_path(image_id)), ids)
        for start in range(0, len(ids), batch_size):
            batch_ids = ids[start : start + batch_size]
            images = [next(pictures) for _ in batch_ids]
            given = labels[start : start + batch_size].to(task.device) if config["labels_given"] else None
            if oracle:
                given = _one_hot(
                    [open_mask(dataset.mask_path(i)) for i in batch_ids], config["class_ids"], config["size"]
                )
            with torch.set_grad_enabled(method.needs_grad), task.autocast(config["precision"]):
                maps, presence = merged_scores(
                    method, model, images, given, config["size"], config["scales"], config["flip"], task.device
                )
            for image_id, index in zip(batch_ids, range(len(batch_ids)), strict=True):
                yield image_id, _half(maps[index]), None if presence is None else _half(presence[index])


def merged_scores(
    method: Method,
    model: nn.Module,
    images: Sequence[np.ndarray],
    labels: Tensor | None,
    size: int,
    scales: Sequence[float],
    flip: bool,
    device: str,
) -> tuple[Tensor, Tensor | None]:
    """Score pictures at every scale, mirrored or not, and average on raw scores at the grid of the first scale."""
    total: Tensor | None = None
    presences = []
    views = [(scale, mirror) for scale in scales for mirror in ([False, True] if flip else [False])]
    for scale, mirror in views:
        view = torch.stack([squash(image, round(size * scale)) for image in images]).to(device)
        view = view.flip(-1) if mirror else view
        scored = method.score(model, view, labels)
        maps, presence = scored if isinstance(scored, tuple) else (scored, None)
        maps = maps.float().flip(-1) if mirror else maps.float()
        if total is None:
            total = torch.zeros_like(maps)
        if maps.shape[-2:] != total.shape[-2:]:
            maps = functional.interpolate(maps, total.shape[-2:], mode="bilinear", align_corners=False)
        total += maps
        if presence is not None:
            presences.append(presence.float())
    assert total is not None
    return total / len(views), torch.stack(presences).mean(0) if presences else None


def _one_hot(masks: list[np.ndarray], class_ids: list[int], size: int) -> Tensor:
    """Return (B, K, size, size) ground truth, each picture squashed."""
    maps = [torch.from_numpy(np.stack([mask == class_id for class_id in class_ids])).float() for mask in masks]
    resized = [functional.interpolate(m[None], (size, size), mode="bilinear", align_corners=False) for m in maps]
    return torch.cat(resized)


def _half(value: Tensor) -> np.ndarray:
    array = value.detach().cpu().numpy()
    if not np.isfinite(array).all() or array.min(initial=0) < 0:
        raise ValueError("score maps must be finite and non-negative")
    return np.ascontiguousarray(array.clip(0, np.finfo(np.float16).max), np.float16)  # safetensors ignores strides
