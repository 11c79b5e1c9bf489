"""SEAM (Wang et al., CVPR 2020): maps that do not change with the scale, spread by pixel correlation."""

from __future__ import annotations

from typing import Any

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional
from wsss_methods.field import FieldMethod, FieldParams, classification, mean_padded, over_max, with_background

from harness import Batch, Phase, Step


class SEAMParams(FieldParams):
    """Settings of SEAM; the defaults are those of the authors' code, YudeWang/SEAM.

    Attributes
    ----------
    second_scale : float
        Of the second view, beside the first.
    hardest : float
        The share of all values, the largest ones, that the loss between maps and refined maps takes.
    dropout : float
        Of channels, before the classifier.
    """

    image_size: int = Field(448, ge=32)
    shortest: int = Field(448, ge=16)
    longest: int = Field(768, ge=16)
    jitter: float = Field(0.3, ge=0, le=1)
    batch_size: int = Field(8, ge=1)
    epochs: int = Field(8, ge=0)
    lr: float = Field(0.01, gt=0)
    weight_decay: float = Field(5e-4, ge=0)
    second_scale: float = Field(0.3, gt=0, le=1)
    hardest: float = Field(0.2, gt=0, le=1)
    dropout: float = Field(0.5, ge=0, lt=1)


class SEAM(FieldMethod):
    """An image and a smaller copy of it must have the same maps, before and after a module that spreads them.

    The pixel correlation module (PCM) replaces each pixel's scores by a mean over all pixels, weighted by how alike
    their features are. Losses: classification; the smallest quarter of the refined maps; the difference between the
    maps of both views (ER); the difference between each view's refined maps and the other's maps (ECR).
    """

    name = "seam"
    cite = "wang2020seam"
    predicts_presence = True
    Params = SEAMParams

    params: SEAMParams

    def build(self, backbone: Any, num_classes: int) -> nn.Module:
        backbone.freeze_norms()
        return SEAMNet(backbone, num_classes, self.params.dropout)

    def phases(self, model: Any) -> list[Phase]:
        return [self.sgd(self.params.epochs, model.backbone.parameters(), model.new_parameters())]

    def training_step(self, model: Any, batch: Batch, step: Step) -> dict[str, Tensor]:
        images, side = mean_padded(batch, model.backbone), round(self.params.image_size * self.params.second_scale)
        small = functional.interpolate(images, (side, side), mode="bilinear", align_corners=True)
        return self.losses(model(images), model(small), batch.labels, side)

    def losses(
        self, first: tuple[Tensor, Tensor], second: tuple[Tensor, Tensor], labels: Tensor, side: int
    ) -> dict[str, Tensor]:
        """Return all losses of the maps and refined maps of two views, compared at a side in pixels."""
        there = labels[:, :, None, None]
        maps, refined = zip(first, second, strict=True)
        cls = sum(classification(one[:, 1:], labels[:, 1:]) for one in maps) / 2
        minimum = sum(smallest(resized(one, side) * there) for one in refined) / 2
        c1, c2 = (resized(stretched(one), side) * there for one in maps)
        r1, r2 = (resized(stretched(one), side) * there for one in refined)
        er = (c1[:, 1:] - c2[:, 1:]).abs().mean()
        ecr = self._largest(r1, c2) + self._largest(r2, c1)
        return {"cls": cls, "min": minimum, "er": er, "ecr": ecr}

    def _largest(self, refined: Tensor, maps: Tensor) -> Tensor:
        """Return the mean of the largest differences between refined maps and the other view's strongest classes."""
        target = strongest(with_background(maps[:, 1:].detach()))
        difference = (refined - target).abs().flatten(1)
        return difference.topk(max(1, int(difference.shape[1] * self.params.hardest)), 1).values.mean()

    def score(self, model: Any, images: Tensor, labels: Tensor | None) -> tuple[Tensor, Tensor]:
        maps, refined = model(images)
        return refined[:, 1:].relu(), maps[:, 1:].mean((2, 3)).sigmoid()


class SEAMNet(nn.Module):
    """A classifier over positions, and PCM over two levels of the backbone and the image's colours."""

    def __init__(self, backbone: Any, num_classes: int, dropout: float) -> None:
        super().__init__()
        self.backbone = backbone
        self.dropout = nn.Dropout2d(dropout)
        self.classifier = nn.Conv2d(backbone.dim, num_classes, 1, bias=False)
        count = len(backbone.dims)
        self.levels = (count - 2 if backbone.family == "cnn" else count // 2, count - 1)
        self.near = nn.Conv2d(backbone.dims[self.levels[0]], 64, 1, bias=False)
        self.far = nn.Conv2d(backbone.dims[self.levels[1]], 128, 1, bias=False)
        self.joint = nn.Conv2d(195, 192, 1, bias=False)
        nn.init.xavier_uniform_(self.classifier.weight)
        nn.init.xavier_uniform_(self.joint.weight, gain=4)
        for convolution in (self.near, self.far):
            nn.init.kaiming_normal_(convolution.weight)

    def new_parameters(self) -> list[nn.Parameter]:
        """Return the parameters outside the backbone."""
        return [
            *self.classifier.parameters(),
            *self.near.parameters(),
            *self.far.parameters(),
            *self.joint.parameters(),
        ]

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Return (B, K, h, w) maps and refined maps, channel 0 for the background, of (B, 3, H, W) images."""
        maps, seen = self.classified(images)[1:]
        return maps, spread(confident(maps.detach()), self.joint(seen))

    def classified(self, images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return dense features, maps, and the (B, 195, h, w) that PCM compares, without gradient to the backbone."""
        features = self.backbone.features(images, levels=self.levels)
        dense = self.dropout(features.dense)
        grid = dense.shape[-2:]
        levels = zip((self.near, self.far), features.levels, strict=True)
        near, far = (at(convolution(level.detach()).relu(), grid) for convolution, level in levels)
        return dense, self.classifier(dense), torch.cat([at(images, grid), near, far], 1)


def at(maps: Tensor, sides: Any) -> Tensor:
    """Return maps at other sides, bilinear, corners aligned."""
    return functional.interpolate(maps.float(), sides, mode="bilinear", align_corners=True)


def resized(maps: Tensor, side: int) -> Tensor:
    """Return maps at a square."""
    return at(maps, (side, side))


def spread(maps: Tensor, seen: Tensor) -> Tensor:
    """Replace scores by means over all pixels, weighted by the cosine of features where that is positive (PCM).

    Parameters
    ----------
    maps : Tensor
        (B, K, h, w).
    seen : Tensor
        (B, D, h, w) features.
    """
    flat = seen.flatten(2)
    flat = flat / (flat.norm(dim=1, keepdim=True) + 1e-5)
    alike = (flat.transpose(1, 2) @ flat).relu()
    return (maps.flatten(2) @ (alike / (alike.sum(1, keepdim=True) + 1e-5))).view_as(maps)


def confident(maps: Tensor) -> Tensor:
    """Return maps as PCM takes them: by their maximum, with a background, and each pixel's strongest class alone."""
    return strongest(with_background(over_max(maps[:, 1:].float())))


def strongest(maps: Tensor) -> Tensor:
    """Return maps in which each pixel keeps its strongest foreground class alone, and the background as it is."""
    foreground = maps[:, 1:]
    return torch.cat([maps[:, :1], foreground * (foreground == foreground.amax(1, keepdim=True))], 1)


def stretched(maps: Tensor) -> Tensor:
    """Return maps stretched to [0, 1], each from its minimum to its maximum, without what is negative."""
    positive = maps.relu()
    low, high = positive.amin((2, 3), keepdim=True), positive.amax((2, 3), keepdim=True)
    return (positive - low - 1e-5).relu() / (high - low + 1e-5)


def smallest(maps: Tensor) -> Tensor:
    """Return the mean of the smallest quarter of the pixels' strongest foreground scores."""
    scores = maps[:, 1:].amax(1).flatten(1)
    return scores.topk(max(1, scores.shape[1] // 4), 1, largest=False).values.relu().mean()
