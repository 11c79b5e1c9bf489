"""Image files on their way to a network: decoded ahead of it, resized where it runs."""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional

from harness.data.base import open_rgb

AHEAD = 32  # images that are decoded before the model wants them
Item = TypeVar("Item")
Made = TypeVar("Made")


def ahead(pool: Executor | None, make: Callable[[Item], Made], items: Iterable[Item], count: int) -> Iterator[Made]:
    """Yield what is made of some items, in order, by threads and never more than `count` ahead; None makes it here.

    The threads should last for a stage: each new one leaves some memory that the allocator keeps.
    """
    if pool is None:
        yield from map(make, items)
        return
    waiting: deque[Future[Made]] = deque()
    try:
        for item in items:
            waiting.append(pool.submit(make, item))
            if len(waiting) > count:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        for future in waiting:
            future.cancel()


def opened(paths: Sequence[Path], device: str, workers: int = 0, count: int = AHEAD) -> Iterator[Tensor]:
    """Yield (H, W, 3) uint8 images in order, decoded by threads while the model runs, never more than some ahead."""

    def decode(path: Path) -> Tensor:
        image = open_rgb(path)
        kept = torch.empty(image.shape, dtype=torch.uint8, pin_memory=device == "cuda")  # a GPU copies it by itself
        kept.numpy()[:] = image
        return kept

    with ThreadPoolExecutor(max(1, workers)) as pool:
        yield from ahead(pool, decode, paths, count)


def squash(image: np.ndarray, sides: tuple[int, int]) -> Tensor:
    """Return (3, *sides) float in [0, 1] of an (H, W, 3) uint8 image; bilinear with antialiasing, aspect lost."""
    resized = Image.fromarray(image).resize(sides[::-1], Image.Resampling.BILINEAR)
    return torch.from_numpy(np.asarray(resized).copy()).permute(2, 0, 1).float().div_(255)


def squashed(images: Sequence[Tensor], sides: Sequence[tuple[int, int]], device: str) -> Tensor:
    """Return (B, 3, height, width) floats in [0, 1] on a device, of (H, W, 3) uint8 images and the sides of each.

    A GPU resizes by itself, see `resized`.
    """
    if device == "cpu":
        return torch.stack([squash(image.numpy(), to) for image, to in zip(images, sides, strict=True)])
    return resized_together(images, sides, device)


def resized_together(images: Sequence[Tensor], sides: Sequence[tuple[int, int]], device: str) -> Tensor:
    """Return what `squashed` does, computed on the device: images of one size in one go."""
    alike: dict[torch.Size, list[int]] = defaultdict(list)
    for number, image in enumerate(images):
        alike[image.shape].append(number)
    done: dict[int, Tensor] = {}
    for numbers in alike.values():
        there = torch.stack([images[number].to(device, non_blocking=True) for number in numbers])
        done |= zip(numbers, resized(there, sides[numbers[0]]), strict=True)
    return torch.stack([done[number] for number in range(len(images))])


def resized(images: Tensor, sides: tuple[int, int]) -> Tensor:
    """Return what `squash` does, to a level of 255, of (B, H, W, 3) uint8 images of one size, where they lie.

    It is the same filter, rounded once instead of after each of two passes.
    """
    pixels = images.permute(0, 3, 1, 2).float()
    pixels = functional.interpolate(pixels, sides, mode="bilinear", align_corners=False, antialias=True)
    return pixels.round_().clamp_(0, 255).div_(255)
