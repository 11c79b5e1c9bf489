"""What a verifier is trained on: images and pseudo-masks, drawn and augmented by seed and position alone."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch.nn import functional

from harness.data.base import IGNORE, open_mask, open_rgb
from harness.deeplab.mm import DATASETS, PixelData, SegDataSample
from harness.deeplab.recipe import Recipe
from harness.seeds import derive


class Positions(torch.utils.data.Sampler[tuple[int, int]]):
    """The images of a whole training, one after the other: (position in the training, image).

    Every image comes once in each pass, passes are shuffled anew. It is no stream: mmengine's loop may `skip` what
    was trained before an interruption, and what follows is what would have followed.

    Parameters
    ----------
    images : int
        How many there are.
    length : int
        How many the training looks at.
    seed : int
    """

    def __init__(self, images: int, length: int, seed: int) -> None:
        self.images, self.length, self.seed = images, length, seed
        self.start = 0

    def __len__(self) -> int:
        return self.length - self.start

    def __iter__(self) -> Iterator[tuple[int, int]]:
        order, current = np.zeros(0, int), -1
        for position in range(self.start, self.length):
            turn, place = divmod(position, self.images)
            if turn != current:
                order = np.random.default_rng(derive(self.seed, "order", turn)).permutation(self.images)
                current = turn
            yield position, int(order[place])

    def skip(self, count: int) -> None:
        """Leave out the first images; mmengine calls it where a training goes on."""
        self.start += count


@DATASETS.register_module()
class PseudoMasks(torch.utils.data.Dataset[dict[str, Any]]):
    """Pieces of images with those of their pseudo-masks, as mmsegmentation's models take them.

    Parameters
    ----------
    images, masks : sequence of Path
        Side by side. Masks hold class indices; 255, and classes that do not count, are ignored.
    class_ids : sequence of int
        The classes that count, background first: what an index of the network stands for.
    recipe : Recipe
    seed : int

    Attributes
    ----------
    metainfo : dict
        What mmengine asks of a dataset; there is nothing to say.
    """

    metainfo: dict[str, Any] = {}

    def __init__(
        self, images: Sequence[Path], masks: Sequence[Path], class_ids: Sequence[int], recipe: Recipe, seed: int
    ) -> None:
        self.images, self.masks = images, masks
        self.recipe, self.seed = recipe, seed
        self.index_of = np.full(256, IGNORE, np.uint8)
        self.index_of[list(class_ids)] = np.arange(len(class_ids))

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, place: tuple[int, int]) -> dict[str, Any]:
        """Return `inputs`, (3, h, w) uint8 RGB, and `data_samples` with (1, h, w) labels; no side exceeds the crop."""
        position, number = place
        rng = np.random.default_rng(derive(self.seed, "augment", position))
        labels = self.index_of[open_mask(self.masks[number])]
        image, labels = augment(open_rgb(self.images[number]), labels, self.recipe, rng)
        sample = SegDataSample()
        sample.gt_sem_seg = PixelData(data=torch.from_numpy(labels.astype(np.int64))[None])
        return {"inputs": torch.from_numpy(image).permute(2, 0, 1).contiguous(), "data_samples": sample}


def augment(
    image: np.ndarray, labels: np.ndarray, recipe: Recipe, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Resize by one of the recipe's scales, mirror every second image, and cut out at most a crop.

    Parameters
    ----------
    image : ndarray
        (H, W, 3) uint8 RGB; resized bilinearly, without antialiasing as the recipes' sources do.
    labels : ndarray
        (H, W) uint8; resized to the nearest.
    recipe : Recipe
    rng : Generator

    Returns
    -------
    tuple of ndarray
        (h, w, 3) and (h, w); what is smaller than the crop is padded by the model.
    """
    scale = float(rng.choice(recipe.train_scales))
    height, width = (max(1, int(side * scale)) for side in labels.shape)
    pixels = torch.from_numpy(image.copy()).permute(2, 0, 1)[None].float()
    pixels = functional.interpolate(pixels, (height, width), mode="bilinear", align_corners=False)
    image = pixels[0].permute(1, 2, 0).round().to(torch.uint8).numpy()
    labels = np.asarray(Image.fromarray(labels).resize((width, height), Image.Resampling.NEAREST))
    if recipe.flip and rng.random() < 0.5:
        image, labels = image[:, ::-1], labels[:, ::-1]
    top, left = (int(rng.integers(0, max(0, side - recipe.crop) + 1)) for side in (height, width))
    window = slice(top, top + recipe.crop), slice(left, left + recipe.crop)
    return image[window].copy(), labels[window].copy()


def ignored_share(masks: Sequence[Path], class_ids: Sequence[int]) -> float:
    """Return the share of pixels of some masks that no loss looks at."""
    counts = np.zeros(256, np.int64)
    for path in masks:
        counts += np.bincount(open_mask(path).ravel(), minlength=256)
    return 1 - float(counts[list(class_ids)].sum() / counts.sum())
