"""What AFA and its followers share: labels from maps, and the loss of a segmentation head that learns them."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.nn import functional
from wsss_methods.par import PAR, PARParams

from harness import Batch


def stretched(maps: Tensor) -> Tensor:
    """Return (B, K, h, w) maps stretched to [0, 1], each from its minimum to its maximum."""
    low = maps.amin((2, 3), keepdim=True)
    return (maps - low) / (maps.amax((2, 3), keepdim=True) - low + 1e-5)


def multi_scale(
    maps: Callable[[Tensor], tuple[Tensor, ...]], images: Tensor, scales: Sequence[float] = (1.0, 0.5, 1.5)
) -> list[Tensor]:
    """Return sums over scales of several maps at image size, without what is negative, the larger of view and mirror.

    Parameters
    ----------
    maps : callable
        Turns (B, 3, H, W) images into tuples of (B, K, h, w) maps.
    images : Tensor
    scales : sequence of float
    """
    sides = images.shape[-2:]
    total: list[Tensor] = []
    for scale in scales:
        size = [max(32, round(side * scale)) for side in sides]
        view = functional.interpolate(images, size, mode="bilinear", align_corners=False)
        both = zip(maps(view), maps(view.flip(3)), strict=True)
        found = [torch.maximum(own, mirrored.flip(3)).float().relu() for own, mirrored in both]
        enlarged = [functional.interpolate(one, sides, mode="bilinear", align_corners=False) for one in found]
        total = [a + b for a, b in zip(total, enlarged, strict=True)] if total else enlarged
    return total


def confident(maps: Tensor, high: float, low: float) -> Tensor:
    """Return (B, h, w) labels of maps in [0, 1]: a class above the first, background below the second, 255 between."""
    strongest, which = maps.max(1)
    unknown = torch.full_like(which, 255)
    return torch.where(strongest >= high, which + 1, torch.where(strongest <= low, torch.zeros_like(which), unknown))


def without_padding(labels: Tensor, valid: Tensor) -> Tensor:
    """Return (B, h, w) labels with 255 where (B, 1, H, W) says that there is padding."""
    return labels.masked_fill(functional.interpolate(valid.float(), labels.shape[-2:])[:, 0] == 0, 255)


class HalfSize:
    """PAR of the maps of a batch, at half the size of its images: what pixels listen to is worked out once.

    Parameters
    ----------
    batch : Batch
    """

    def __init__(self, batch: Batch) -> None:
        self._batch = batch
        self._sides = [side // 2 for side in batch.images.shape[-2:]]
        self._par = PAR(PARParams())
        self._weights = self._par.weights(self._shrunk(batch.images))
        present = batch.labels[:, 1:] > 0
        most = int(present.sum(1).max())
        self._classes = present.int().argsort(dim=1, descending=True, stable=True)[:, :most]  # an image's own first
        self._others = ~present.gather(1, self._classes)[:, :, None, None]

    def _shrunk(self, images: Tensor) -> Tensor:
        return functional.interpolate(images, self._sides, mode="bilinear", align_corners=False)

    @torch.no_grad()
    def labels(self, maps: Tensor, high: float, low: float, spread: Callable[[Tensor], Tensor] | None = None) -> Tensor:
        """Return (B, H / 2, W / 2) labels of refined maps against a high and a low background, where both agree.

        A class is one against the high background, background is what is that against both; all else, and padding, is
        255.

        Parameters
        ----------
        maps : Tensor
            (B, K, H, W) in [0, 1], 0 for absent classes.
        high, low : float
        spread : callable, optional
            What is done to the (B, C, H / 2, W / 2) scores of images before PAR.
        """
        small = self._shrunk(maps)
        own = small.gather(1, self._classes[:, :, None, None].expand(-1, -1, *self._sides))
        own = own.masked_fill(self._others, -torch.inf)
        scores = [torch.cat([torch.full_like(small[:, :1], level), own], 1).softmax(1) for level in (high, low)]
        both = torch.cat([spread(one) if spread else one for one in scores], 1)
        names = functional.pad(self._classes + 1, (1, 0))
        strict, lax = (
            names.gather(1, one.argmax(1).flatten(1)).unflatten(1, self._sides)
            for one in self._par.spread(self._weights, both).chunk(2, 1)
        )
        found = torch.where(strict > 0, strict, torch.where(lax == 0, 0, 255))
        return found if self._batch.valid is None else without_padding(found, self._batch.valid)


def split_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """Return half the mean cross-entropy over background places and half that over places of classes.

    A half that has no place is 0, where the authors' is not a number.

    Parameters
    ----------
    logits : Tensor
        (B, K, h, w).
    labels : Tensor
        (B, h, w); 255 takes no part.
    """
    costs = functional.cross_entropy(logits, labels, ignore_index=255, reduction="none")
    halves = labels == 0, (labels > 0) & (labels < 255)
    return (
        sum(((costs * half).sum() / half.sum().clamp(min=1) for half in halves), torch.zeros_like(costs[0, 0, 0])) / 2
    )


def warm_poly(done: float, warmup: float, power: float) -> float:
    """Return the factor on a learning rate: it rises to 1, and goes on as if it had fallen from the beginning."""
    return max(1e-6, done / warmup) if done < warmup else (1 - done) ** power
