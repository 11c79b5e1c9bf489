"""PPC (Du et al., CVPR 2022): SEAM whose pixels must be near the prototypes of their classes, across its two views."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional
from wsss_methods.field import mean_padded
from wsss_methods.seam import SEAM, SEAMNet, SEAMParams, at, confident, spread

from harness import Batch, Step


class PPCParams(SEAMParams):
    """Settings of PPC; those of SEAM, and the defaults of the authors' code, usr922/wseg.

    Attributes
    ----------
    second_side : int
        Side in pixels of the second view.
    background : float
        The background's score everywhere, beside the stretched maps.
    share : float
        Of the pixels of an image: so many of a batch's strongest make a prototype.
    temperature : float
    weight : float
        Of each of the three losses.
    """

    second_side: int = Field(128, ge=16)
    background: float = Field(0.2, ge=0, le=1)
    share: float = Field(1 / 8, gt=0, le=1)
    temperature: float = Field(0.1, gt=0)
    weight: float = Field(0.1, ge=0)


class PPC(SEAM):
    """Prototypes of classes are means of a batch's strongest pixels; a pixel must be nearer to its own than to others.

    It is compared with the prototypes of its own view, with those of the other view, and by the other view's labels
    with its own prototypes.
    """

    name = "ppc"
    cite = "du2022ppc"
    Params = PPCParams

    params: PPCParams

    def build(self, backbone: Any, num_classes: int) -> nn.Module:
        backbone.freeze_norms()
        return PPCNet(backbone, num_classes, self.params.dropout)

    def training_step(self, model: Any, batch: Batch, step: Step) -> dict[str, Tensor]:
        p, images = self.params, mean_padded(batch, model.backbone)
        small = functional.interpolate(images, (p.second_side,) * 2, mode="bilinear", align_corners=True)
        first, second = model.with_pixels(images), model.with_pixels(small)
        losses = self.losses(first[:2], second[:2], batch.labels, p.second_side)
        grid = second[2].shape[-2:]
        views = [self._view(refined, pixels, batch.labels, grid) for _, refined, pixels in (first, second)]
        one, other = views
        cross = self._away(one, one.labels, other.centres).mean() + self._away(other, other.labels, one.centres).mean()
        labels = self._away(one, other.labels, one.centres).mean() + self._away(other, one.labels, other.centres).mean()
        within = sum(hardest(self._nearest(view), view.labels, len(view.centres)) for view in views)
        return losses | {
            "cross": p.weight * cross / 2,
            "labels": p.weight * labels / 2,
            "within": p.weight * within / 2,
        }

    def _view(self, refined: Tensor, pixels: Tensor, present: Tensor, grid: Any) -> View:
        """Bring refined maps and pixel features to a grid; the gradient reaches the features of the pixels alone."""
        pixels = at(pixels, grid)
        scores = scored(at(refined.detach(), grid), self.params.background)
        labels = (scores * present[:, :, None, None]).argmax(1).flatten()
        count = max(1, round(grid[0] * grid[1] * self.params.share))
        centres = prototypes(scores, pixels.detach(), count)
        return View(functional.normalize(pixels.permute(0, 2, 3, 1).flatten(0, 2), dim=1), labels, centres)

    def _away(self, view: View, labels: Tensor, centres: Tensor) -> Tensor:
        """Return the cost of each pixel: the cross-entropy of its label over its likeness to all prototypes."""
        return functional.cross_entropy(view.pixels @ centres.T / self.params.temperature, labels, reduction="none")

    def _nearest(self, view: View) -> Tensor:
        """Return the cost of each pixel against its own prototype and the semi-hard ones, of rank 4 to 13."""
        likeness = view.pixels @ view.centres.T / self.params.temperature
        own = likeness.gather(1, view.labels[:, None])
        others = likeness.sort(1, descending=True).values[:, 3:13]
        return torch.cat([own, others], 1).logsumexp(1) - own[:, 0]


@dataclass(frozen=True)
class View:
    """What is compared of a view: (n, 128) pixels of length 1, their (n,) labels, and (K, 128) prototypes."""

    pixels: Tensor
    labels: Tensor
    centres: Tensor


class PPCNet(SEAMNet):
    """SEAM's network, and a projection of the features that it classifies."""

    def __init__(self, backbone: Any, num_classes: int, dropout: float) -> None:
        super().__init__(backbone, num_classes, dropout)
        self.project = nn.Conv2d(backbone.dim, 128, 1, bias=False)
        nn.init.xavier_uniform_(self.project.weight)

    def new_parameters(self) -> list[nn.Parameter]:
        """Return the parameters outside the backbone."""
        return [*super().new_parameters(), *self.project.parameters()]

    def with_pixels(self, images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return maps and refined maps as `forward` does, and (B, 128, h, w) features to be compared."""
        dense, maps, seen = self.classified(images)
        return maps, spread(confident(maps.detach()), self.joint(seen)), self.project(dense).relu()


def scored(refined: Tensor, background: float) -> Tensor:
    """Return (B, K, h, w) maps stretched as the authors do, a constant background first; the lowest may be negative."""
    maps = refined.relu()
    low, high = maps.amin((2, 3), keepdim=True), maps.amax((2, 3), keepdim=True)
    stretched = (maps * (maps >= low + 1e-5) - low - 1e-5) / (high - low + 1e-5)
    return torch.cat([torch.full_like(stretched[:, :1], background), stretched[:, 1:]], 1)


def prototypes(scores: Tensor, features: Tensor, count: int) -> Tensor:
    """Return (K, D) prototypes of length 1: weighted means of the features where each class is strongest in the batch.

    All pixels are background alike; those of the lowest foreground are taken first, where the authors take any.

    Parameters
    ----------
    scores : Tensor
        (B, K, h, w), background first.
    features : Tensor
        (B, D, h, w).
    count : int
        Of pixels for each prototype.
    """
    flat, seen = scores.transpose(0, 1).flatten(1), features.permute(0, 2, 3, 1).flatten(0, 2)
    order = torch.cat([-flat[1:].amax(0, keepdim=True), flat[1:]])
    chosen = order.topk(min(count, flat.shape[1]), 1).indices
    weights = flat.gather(1, chosen)
    total = weights.sum(1, keepdim=True)
    means = (weights[:, :, None] * seen[chosen]).sum(1) / torch.where(total.abs() < 1e-5, 1e-5, total)
    return functional.normalize(means, dim=1)


def hardest(costs: Tensor, labels: Tensor, classes: int) -> Tensor:
    """Return the mean cost over classes, of each class a random half of its pixels and half of its hard ones.

    The very hardest are left out: of 10 pixels the second to the sixth hardest count. A class of one pixel costs 0.

    Parameters
    ----------
    costs, labels : Tensor
        (n,).
    classes : int
    """
    own = labels == torch.arange(classes, device=labels.device)[:, None]
    counts = own.sum(1)
    half = counts // 2
    first = (0.6 * counts.double()).long() - half
    rank = ranks(costs.detach(), labels, counts)
    hard = (rank >= first[labels]) & (rank < (first + half)[labels])
    drawn = ranks(torch.rand_like(costs), labels, counts) < half[labels]
    means = (own * (costs * (hard.float() + drawn.float()))).sum(1) / (2 * half).clamp(min=1)
    return means.sum() / (counts > 0).sum()


def ranks(values: Tensor, labels: Tensor, counts: Tensor) -> Tensor:
    """Return (n,) places of values among those of their label, the largest first; `counts` has a label's number."""
    order = values.argsort(descending=True)
    order = order[labels[order].argsort(stable=True)]
    places = torch.empty_like(order).scatter_(0, order, torch.arange(len(order), device=order.device))
    return places - (counts.cumsum(0) - counts)[labels]
