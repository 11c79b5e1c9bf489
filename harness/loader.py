"""The images of a training: read, drawn as a phase says, in batches. It holds no path to ground truth."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from functools import cached_property, partial
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from harness.augment import draw
from harness.data.base import IGNORE, open_mask, open_rgb
from harness.images import ahead
from harness.phases import Augment, Batch
from harness.seeds import derive

_BATCHES_AHEAD = 2  # for each thread
Made = TypeVar("Made")


class Kept:
    """What would be made again in every epoch, in memory as far as there is room.

    Parameters
    ----------
    room : int
        Bytes.
    """

    def __init__(self, room: int) -> None:
        self.room = room
        self._things: dict[Any, Any] = {}
        self._lock = threading.Lock()

    def get(self, key: Any, make: Callable[[], Made], size_of: Callable[[Made], int]) -> Made:
        """Return what is kept under a key, or make it, and keep it if it fits."""
        if key not in self._things:
            made = make()
            with self._lock:
                if key not in self._things and (size := size_of(made)) <= self.room:
                    self.room -= size
                    self._things[key] = made
            return made
        found: Made = self._things[key]
        return found


class TrainingData:
    """The images and image labels of the fit split, and pseudo-masks of it where the plan made some.

    Parameters
    ----------
    ids, labels
        See below.
    paths : list of Path
        Image files.
    workers : int
        Threads that draw images while the model trains; 0 draws them in between.
    pseudo : sequence of list of Path
        Files of pseudo-masks, for each rule of `learns_from`.
    class_ids : sequence of int
        What stands in those, in the order of the classes.
    device : str
        Where batches are wanted.
    room : int
        Bytes of memory for images that are needed again: drawn where every draw is the same, else decoded.

    Attributes
    ----------
    ids : list of str
    labels : Tensor
        (N, num_classes) multi-hot float; column 0 is the background.
    """

    def __init__(
        self,
        ids: list[str],
        labels: Tensor,
        paths: list[Path],
        workers: int = 0,
        pseudo: Sequence[list[Path]] = (),
        class_ids: Sequence[int] = (),
        device: str = "cpu",
        room: int = 0,
    ) -> None:
        self.ids = ids
        self.labels = labels
        self._paths = paths
        self._workers = workers
        self._pseudo = pseudo
        self._position = np.full(256, IGNORE, np.uint8)  # of a class id among those that count
        self._position[list(class_ids)] = np.arange(len(class_ids))
        self._device = device
        self._kept = Kept(room)

    def __len__(self) -> int:
        return len(self.ids)

    def batches(
        self,
        augment: Augment | int,
        batch_size: int,
        seed: int,
        odds: Callable[[Tensor], Tensor] | None = None,
        pairs: int = 0,
    ) -> Iterator[Batch]:
        """Yield one epoch of shuffled batches on the training's device; a last, smaller batch is left out.

        Parameters
        ----------
        augment : Augment or int
            How an image is drawn; a number squashes it to that side.
        batch_size : int
        seed : int
            Of the order and of every draw: the same seed gives the same batches, whatever was drawn before.
        odds : callable, optional
            Turns (N, num_classes) labels into (N,) odds with which images are drawn, with repeats.
        pairs : int
            Where it is not 0: in each part of a batch of so many images, the second half shares classes with the first.
        """
        generator = torch.Generator().manual_seed(seed)
        order: dict[str, Any] = {"shuffle": True}
        if odds is not None:
            weights = odds(self.labels).tolist()
            order = {"sampler": torch.utils.data.WeightedRandomSampler(weights, len(self), True, generator)}
        size = min(batch_size, len(self))
        if pairs:
            size -= size % 2
            order = {"sampler": paired(self.labels, min(pairs, size), generator)}
        yield from self._load(augment, seed, size, drop_last=True, generator=generator, **order)

    def in_order(self, size: int, batch_size: int = 1) -> Iterator[Batch]:
        """Yield every image once, in the order of `ids`, squashed to a side of `size`."""
        yield from self._load(size, 0, batch_size)

    def _load(self, augment: Augment | int, seed: int, batch_size: int, **options: Any) -> Iterator[Batch]:
        how = Augment(augment) if isinstance(augment, int) else augment
        numbers = torch.utils.data.TensorDataset(torch.arange(len(self)))
        loader: torch.utils.data.DataLoader[Any] = torch.utils.data.DataLoader(numbers, batch_size, **options)
        order = (index for (index,) in loader)
        make = partial(self._stacked, how, seed)
        for index, *parts in ahead(self._pool, make, order, _BATCHES_AHEAD * self._workers):
            pixels, valid, pseudo = (part.to(self._device, non_blocking=True) for part in parts)
            labels = self.labels[index].to(self._device, non_blocking=True)
            ids = [self.ids[i] for i in index.tolist()]
            yield Batch(pixels.float().div_(255), labels, ids, valid, pseudo.long() if self._pseudo else None)

    @cached_property
    def _pool(self) -> Executor | None:
        return ThreadPoolExecutor(self._workers) if self._workers else None

    def _stacked(self, augment: Augment, seed: int, index: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Return the images of a batch, drawn; in memory that a GPU copies from by itself."""
        drawn = zip(*(self._drawn(augment, seed, i) for i in index.tolist()), strict=True)
        pixels, valid, pseudo = (
            torch.stack(
                layers, out=layers[0].new_empty(len(index), *layers[0].shape, pin_memory=self._device == "cuda")
            )
            for layers in drawn
        )
        return index, pixels, valid, pseudo

    def _drawn(self, augment: Augment, seed: int, i: int) -> tuple[Tensor, Tensor, Tensor]:
        def fresh() -> tuple[Tensor, Tensor, Tensor]:
            image = open_rgb(self._paths[i]) if augment.fixed else self._decoded(i)
            masks = [Image.fromarray(self._position[open_mask(paths[i])]) for paths in self._pseudo]
            return draw(Image.fromarray(image), masks, augment, derive(seed, "augment", i))

        if not augment.fixed:
            return fresh()
        return self._kept.get((augment.size, i), fresh, lambda layers: sum(layer.nbytes for layer in layers))

    def _decoded(self, i: int) -> np.ndarray:
        return self._kept.get(i, lambda: open_rgb(self._paths[i]), lambda image: image.nbytes)


def paired(labels: Tensor, batch_size: int, generator: torch.Generator) -> list[int]:
    """Return the images of one epoch in batches of pairs: first halves without repeats, then a partner for each.

    A partner is a random image of a random class of its image, which may be the image itself; that of an image without
    any class is the image.

    Parameters
    ----------
    labels : Tensor
        (N, num_classes); the background does not count.
    batch_size : int
        Images of a batch, at least 2; there are as many batches as without pairs.
    generator : Generator
    """
    present = labels[:, 1:] > 0
    half = max(1, batch_size // 2)
    order = torch.randperm(len(labels), generator=generator).split(half)

    def any_of(numbers: Tensor) -> int:
        return int(numbers[torch.randint(len(numbers), (), generator=generator)])

    chosen: list[int] = []
    for anchors in order[: len(labels) // (2 * half)]:
        chosen += anchors.tolist()
        for anchor in anchors.tolist():
            classes = present[anchor].nonzero()[:, 0]
            chosen.append(any_of(present[:, any_of(classes)].nonzero()[:, 0]) if len(classes) else anchor)
    return chosen
