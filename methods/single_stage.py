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


@torch.no_grad()
def refined_labels(
    batch: Batch, maps: Tensor, high: float, low: float, spread: Callable[[int, Tensor], Tensor] | None = None
) -> Tensor:
    """Return (B, H / 2, W / 2) labels of maps refined by PAR against a high and a low background, where both agree.

    A class is one against the high background, background is what is that against both; all else, and padding, is 255.

    Parameters
    ----------
    batch : Batch
    maps : Tensor
        (B, K, H, W) in [0, 1], 0 for absent classes.
    high, low : float
    spread : callable, optional
        What is done to the (C, H / 2, W / 2) scores of an image, by its number, before PAR.
    """
    sides, par = [side // 2 for side in batch.images.shape[-2:]], PAR(PARParams())
    images = functional.interpolate(batch.images, sides, mode="bilinear", align_corners=False)
    maps = functional.interpolate(maps, sides, mode="bilinear", align_corners=False)
    found = torch.full((len(maps), *sides), 255, device=maps.device)
    for number, (image, own) in enumerate(zip(images, maps, strict=True)):
        classes = batch.labels[number, 1:].nonzero()[:, 0]
        names = torch.cat([classes.new_zeros(1), classes + 1])
        best = []
        for background in (high, low):
            scores = torch.cat([own.new_full((1, *sides), background), own[classes]]).softmax(0)
            scores = spread(number, scores) if spread else scores
            best.append(names[par.refined(image, scores).argmax(0)])
        found[number] = torch.where(best[0] > 0, best[0], torch.where(best[1] == 0, 0, 255))
    if batch.valid is not None:
        found[functional.interpolate(batch.valid.float(), sides)[:, 0] == 0] = 255
    return found


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
