"""SIPE (Chen et al., CVPR 2022): maps by likeness to prototypes of the image's own classes and background."""

from __future__ import annotations

from typing import Any

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional
from wsss_methods.field import FieldMethod, FieldParams, classification, mean_padded, over_max, with_background

from harness import Batch, Phase, Step


class SIPEParams(FieldParams):
    """Settings of SIPE; the defaults are those of the authors' code, chenqi1126/SIPE.

    Attributes
    ----------
    background_factor : float
        On the overlap of a pixel with the background, before it is compared with those of the classes.
    clip_norm : float
        The largest norm of the gradient.
    """

    image_size: int = Field(512, ge=32)
    batch_size: int = Field(16, ge=1)
    epochs: int = Field(5, ge=0)
    lr: float = Field(0.1, gt=0)
    background_factor: float = Field(0.5, gt=0)
    clip_norm: float = Field(1.0, gt=0)


class SIPE(FieldMethod):
    """Seeds of an image's classes give prototypes of its own; each pixel is scored by its likeness to them.

    A pixel's seed is the class whose map overlaps best with the pixels that look like it, the background, 1 minus all
    maps, among them. A prototype is the mean feature of a class's seeds. The maps by prototypes and CAM's must agree.
    """

    name = "sipe"
    cite = "chen2022sipe"
    background = True
    predicts_presence = True
    Params = SIPEParams

    params: SIPEParams

    def build(self, backbone: Any, num_classes: int) -> nn.Module:
        backbone.freeze_norms()
        return SIPENet(backbone, num_classes - 1)

    def phases(self, model: Any) -> list[Phase]:
        p, fast = self.params, [*model.classifier.parameters(), *model.sides.parameters()]
        return [self.sgd(p.epochs, model.backbone.parameters(), fast, p.clip_norm)]

    def training_step(self, model: Any, batch: Batch, step: Step) -> dict[str, Tensor]:
        maps, dense, hierarchy = model(mean_padded(batch, model.backbone))
        open_classes = batch.labels[:, :, None, None].expand(-1, -1, *maps.shape[-2:])
        if batch.valid is not None:
            open_classes = open_classes * functional.interpolate(batch.valid.float(), maps.shape[-2:])
        normal = with_background(over_max(maps.float())) * open_classes
        found = seeds(normal.detach(), dense.detach().float(), self.params.background_factor) * open_classes
        gsc = (normal - by_prototypes(hierarchy.float(), found)).abs().mean()
        return {"cls": classification(maps, batch.labels[:, 1:]), "gsc": gsc}

    def score(self, model: Any, images: Tensor, labels: Tensor | None) -> tuple[Tensor, Tensor]:
        maps, _, hierarchy = model(images)
        found = seeds(with_background(over_max(maps.float())), hierarchy.float(), self.params.background_factor)
        return by_prototypes(hierarchy.float(), found), maps.mean((2, 3)).sigmoid()


class SIPENet(nn.Module):
    """A classifier over positions, and four levels of the backbone, seen from the side, in one feature."""

    def __init__(self, backbone: Any, classes: int) -> None:
        super().__init__()
        self.backbone = backbone
        self.classifier = nn.Conv2d(backbone.dim, classes, 1, bias=False)
        count = len(backbone.dims)
        first = 1 if backbone.family == "cnn" and count > 4 else 0  # without the stem
        self.levels = [first + round(place * (count - 1 - first) / 3) for place in range(4)]
        widths = zip(self.levels, (128, 128, 256, 256), strict=True)
        self.sides = nn.ModuleList(nn.Conv2d(backbone.dims[level], width, 1, bias=False) for level, width in widths)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return (B, K, h, w) maps, the (B, dim, h, w) features below them, and (B, 768, h, w) of all levels.

        The gradient of the last reaches the convolutions at the side alone.
        """
        features = self.backbone.features(images, levels=self.levels)
        grid = features.dense.shape[-2:]
        seen = [
            functional.interpolate(unit(side(level.detach())), grid, mode="bilinear", align_corners=False)
            for side, level in zip(self.sides, features.levels, strict=True)
        ]
        return self.classifier(features.dense), features.dense, torch.cat(seen, 1)


def unit(features: Tensor) -> Tensor:
    """Return (B, D, h, w) features of length 1."""
    return features / (features.norm(dim=1, keepdim=True) + 1e-5)


def seeds(maps: Tensor, features: Tensor, background_factor: float) -> Tensor:
    """Return one-hot (B, K, h, w) seeds: the class of best overlap with the pixels that look like each.

    The overlap of class and pixel is the intersection over union of the class's map and the pixel's likeness to all
    others; in the place of the smaller of two values their product stands, as in the authors' code.

    Parameters
    ----------
    maps : Tensor
        (B, K, h, w) in [0, 1], background first.
    features : Tensor
        (B, D, h, w).
    background_factor : float
    """
    flat = unit(features).flatten(2)
    alike = (flat.transpose(1, 2) @ flat).relu()  # (B, N, N)
    classes = maps.flatten(2)
    both = classes @ alike
    overlap = both / (classes.sum(2, keepdim=True) + alike.sum(1, keepdim=True) - both + 1e-5)
    overlap = torch.cat([overlap[:, :1] * background_factor, overlap[:, 1:]], 1)
    best = overlap.argmax(1)
    return functional.one_hot(best, maps.shape[1]).transpose(1, 2).to(maps.dtype).view_as(maps)


def by_prototypes(features: Tensor, found: Tensor) -> Tensor:
    """Return (B, K, h, w) likeness of each pixel to the mean feature of each class's seeds, divided by its maximum.

    It is 0 for a class without seeds.
    """
    flat, chosen = features.flatten(2), found.flatten(2)
    prototypes = chosen @ flat.transpose(1, 2) / (chosen.sum(2, keepdim=True) + 1e-5)  # (B, K, D)
    likeness = functional.normalize(prototypes, dim=2, eps=1e-5) @ functional.normalize(flat, dim=1, eps=1e-5)
    return over_max(likeness.view_as(found))
