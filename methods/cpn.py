"""CPN (Zhang et al., ICCV 2021): the map of an image is the sum of the maps of its two complementary halves."""

from __future__ import annotations

from typing import Any

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional
from wsss_methods.field import classification, mean_padded, with_background
from wsss_methods.seam import SEAM, SEAMNet, SEAMParams, confident, smallest, spread, stretched

from harness import Batch, Step


class CPNParams(SEAMParams):
    """Settings of CPN; the defaults are those of the authors' code, zhangfan369/CPN.

    Attributes
    ----------
    cell : int
        Side in pixels of the squares that are hidden.
    hidden : float
        The share of them that one half lacks, and the other has.
    """

    batch_size: int = Field(4, ge=1)
    cell: int = Field(28, ge=1)
    hidden: float = Field(0.39, gt=0, lt=1)


class CPN(SEAM):
    """Squares of an image are hidden in one copy, the others in a second one; maps of both must add up to its own.

    SEAM's module that spreads maps gets a second part, which weighs each pixel by its likeness to the mean feature of
    each class (PRCM). The raw maps of the two halves are weighted by how much of the image they show.
    """

    name = "cpn"
    cite = "zhang2021cpn"
    Params = CPNParams

    params: CPNParams

    def build(self, backbone: Any, num_classes: int) -> nn.Module:
        backbone.freeze_norms()
        return CPNNet(backbone, num_classes, self.params.dropout)

    def training_step(self, model: Any, batch: Batch, step: Step) -> dict[str, Tensor]:
        images = mean_padded(batch, model.backbone)
        shown = self._shown(images)
        halves = [torch.where(part, images, model.backbone.mean) for part in (shown, ~shown)]
        share = shown.float().mean((1, 2, 3))
        return self.complementary([model(part) for part in (images, *halves)], share, batch.labels)

    def _shown(self, images: Tensor) -> Tensor:
        """Draw what the first half shows, (B, 1, H, W) bool."""
        height, width = images.shape[-2:]
        cells = (len(images), 1, -(-height // self.params.cell), -(-width // self.params.cell))
        drawn = (torch.rand(cells, device=images.device) >= self.params.hidden).float()
        whole = drawn.repeat_interleave(self.params.cell, 2).repeat_interleave(self.params.cell, 3)
        return whole[..., :height, :width] > 0

    def complementary(self, views: list[tuple[Tensor, Tensor]], share: Tensor, labels: Tensor) -> dict[str, Tensor]:
        """Return all losses of the maps and improved maps of an image and of its halves.

        Parameters
        ----------
        views : list of tuple of Tensor
            Maps and improved maps, (B, K, h, w) each, of the image, the first half and the second.
        share : Tensor
            (B,) how much of the image the first half shows.
        labels : Tensor
            (B, K), the background first.
        """
        there = labels[:, :, None, None]
        visible = [torch.ones_like(share), share, 1 - share]
        raw, improved = zip(*views, strict=True)

        def weighted(maps: tuple[Tensor, ...]) -> list[Tensor]:
            pairs = zip(maps, visible, strict=True)
            return [stretched(one)[:, 1:] * there[:, 1:] * part[:, None, None, None] for one, part in pairs]

        c, r = weighted(raw), weighted(improved)
        whole = (c[0] - c[1].detach() - c[2].detach()).abs().mean() + (r[0] - r[1] - r[2]).abs().mean()
        c, r = [with_background(one) for one in c], [with_background(one) for one in r]
        return {
            "cls": sum(classification(one[:, 1:], labels[:, 1:]) for one in raw) / 3,
            "min": sum(smallest(one * there) for one in improved) / 3,
            "tcp": whole,
            "cpcr": self._rest(c[0] - c[1], r[2]) + self._rest(c[0] - c[2], r[1]),
        }

    def _rest(self, difference: Tensor, improved: Tensor) -> Tensor:
        """Return the mean of the largest differences between what one half leaves and the other's improved maps."""
        difference = difference.detach()
        target = difference * (difference == difference.amax(1, keepdim=True))
        apart = (improved - target).abs().flatten(1)
        return apart.topk(max(1, int(apart.shape[1] * self.params.hardest)), 1).values.mean()


class CPNNet(SEAMNet):
    """SEAM's network, and features of whole classes that pixels are compared with."""

    def __init__(self, backbone: Any, num_classes: int, dropout: float) -> None:
        super().__init__(backbone, num_classes, dropout)
        self.region = nn.Linear(195, 192, bias=False)
        nn.init.xavier_uniform_(self.region.weight, gain=4)

    def new_parameters(self) -> list[nn.Parameter]:
        """Return the parameters outside the backbone."""
        return [*super().new_parameters(), *self.region.parameters()]

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Return (B, K, h, w) maps and improved maps, channel 0 for the background, of (B, 3, H, W) images."""
        maps, seen = self.classified(images)[1:]
        strong, joint = confident(maps.detach()), self.joint(seen)
        weights = strong.flatten(2).softmax(2)
        return maps, spread(strong, joint) + strong * likeness(self.region(weights @ seen.flatten(2).mT), joint)


def likeness(regions: Tensor, pixels: Tensor) -> Tensor:
    """Return how much of a class is at each pixel, which sums to 1 over an image (PRCM).

    Parameters
    ----------
    regions : Tensor
        (B, K, D) features of classes.
    pixels : Tensor
        (B, D, h, w) of pixels.
    """
    products = regions.relu() @ pixels.flatten(2).relu() * regions.shape[1] ** -0.5
    return functional.softmax(products, 2).unflatten(2, pixels.shape[2:])
