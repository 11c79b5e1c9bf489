"""The images of a training: read, drawn as a phase says, in batches. It holds no path to ground truth."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from harness.augment import draw
from harness.data.base import IGNORE, open_mask, open_rgb
from harness.phases import Augment, Batch
from harness.seeds import derive


class TrainingData:
    """The images and image labels of the fit split, and pseudo-masks of it where the plan made some.

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
    ) -> None:
        self.ids = ids
        self.labels = labels
        self._paths = paths
        self._workers = workers
        self._pseudo = pseudo
        self._position = np.full(256, IGNORE, np.uint8)  # of a class id among those that count
        self._position[list(class_ids)] = np.arange(len(class_ids))

    def __len__(self) -> int:
        return len(self.ids)

    def batches(
        self,
        augment: Augment | int,
        batch_size: int,
        seed: int,
        odds: Callable[[Tensor], Tensor] | None = None,
    ) -> Iterator[Batch]:
        """Yield one epoch of shuffled batches; a last, smaller batch is left out.

        Parameters
        ----------
        augment : Augment or int
            How an image is drawn; a number squashes it to that side.
        batch_size : int
        seed : int
            Of the order and of every draw: the same seed gives the same batches, whatever was drawn before.
        odds : callable, optional
            Turns (N, num_classes) labels into (N,) odds with which images are drawn, with repeats.
        """
        generator = torch.Generator().manual_seed(seed)
        chosen = _Drawn(self._paths, self._pseudo, self._position, _augment(augment), seed)
        order: dict[str, Any] = {"shuffle": True}
        if odds is not None:
            order = {
                "sampler": torch.utils.data.WeightedRandomSampler(
                    odds(self.labels).tolist(), len(self), True, generator
                )
            }
        yield from self._load(chosen, min(batch_size, len(self)), drop_last=True, generator=generator, **order)

    def in_order(self, size: int, batch_size: int = 1) -> Iterator[Batch]:
        """Yield every image once, in the order of `ids`, squashed to a side of `size`."""
        yield from self._load(_Drawn(self._paths, self._pseudo, self._position, Augment(size), 0), batch_size)

    def _load(self, images: _Drawn, batch_size: int, **options: Any) -> Iterator[Batch]:
        loader: torch.utils.data.DataLoader[Any] = torch.utils.data.DataLoader(
            images, batch_size=batch_size, num_workers=self._workers, **options
        )
        for image, valid, pseudo, index in loader:
            ids = [self.ids[i] for i in index.tolist()]
            yield Batch(image, self.labels[index], ids, valid, pseudo if self._pseudo else None)


def _augment(augment: Augment | int) -> Augment:
    return Augment(augment) if isinstance(augment, int) else augment


class _Drawn(torch.utils.data.Dataset[tuple[Tensor, Tensor, Tensor, int]]):
    def __init__(
        self,
        paths: list[Path],
        pseudo: Sequence[list[Path]],
        position: np.ndarray,
        augment: Augment,
        seed: int,
    ) -> None:
        self.paths, self.pseudo, self.position = paths, pseudo, position
        self.augment, self.seed = augment, seed

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor, Tensor, int]:
        image = Image.fromarray(open_rgb(self.paths[index]))
        masks = [Image.fromarray(self.position[open_mask(paths[index])]) for paths in self.pseudo]
        return *draw(image, masks, self.augment, derive(self.seed, "augment", index)), index


def squash(image: np.ndarray, sides: tuple[int, int]) -> Tensor:
    """Return (3, *sides) float in [0, 1] of an (H, W, 3) uint8 image; bilinear with antialiasing, aspect lost."""
    resized = Image.fromarray(image).resize(sides[::-1], Image.Resampling.BILINEAR)
    return torch.from_numpy(np.asarray(resized).copy()).permute(2, 0, 1).float().div_(255)
