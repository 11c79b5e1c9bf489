"""IRN (Ahn et al., CVPR 2019), its semantic part, as a refiner that learns: `--refine irn`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np
import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional
from wsss_methods.irn.walk import affinities, offsets, shifted, walk
from wsss_methods.learned import Learned, LearnedParams, OfUse, confident

from harness import Augment, Batch, Phase, Step

STRIDE = 4  # pixels of an image per place of its boundary map
_EPSILON = 1e-5


class IRNParams(LearnedParams):
    """Settings of IRN; the defaults are those of the authors' code, jiwoon-ahn/irn, whose batches have 32 images.

    Attributes
    ----------
    radius, walk_radius : int
        How far apart, in places of the boundary map, pairs are that are learned from, and that the walk goes between.
    beta : float
        Sharpens the affinities of the walk.
    squarings : int
        The walk takes 2 to the power of it steps.
    """

    low: float = Field(0.05, ge=0, le=1)
    radius: int = Field(10, ge=2)
    walk_radius: int = Field(5, ge=2, json_schema_extra=OfUse)
    beta: float = Field(10.0, gt=0, json_schema_extra=OfUse)
    squarings: int = Field(8, ge=0, le=12, json_schema_extra=OfUse)


class IRN(Learned):
    """A small network learns class boundaries from confident pixels; maps spread from place to place between them.

    The affinity of two places is 1 minus the strongest boundary between them. Pairs of equal labels should have an
    affinity of 1, pairs of different labels of 0. Maps are then walked over these affinities, see `walk`.
    """

    name = "irn"
    cite = "ahn2019irn"
    background_rule = "fixed:0.25"
    check_settings: ClassVar[Mapping[str, Any]] = {
        "epochs": 1, "crop": 64, "radius": 4, "batch_size": 4, "labels": "none",
    }  # fmt: skip
    Params = IRNParams

    params: IRNParams

    def build(self, backbone: Any, num_classes: int) -> nn.Module:
        return EdgeNet(backbone)

    def phases(self, model: Any) -> list[Phase]:
        p = self.params
        groups = [{"params": [*model.heads.parameters(), *model.edge.parameters()], "lr": p.lr}]
        options = {"momentum": 1e-4, "weight_decay": p.weight_decay}  # the authors' optimiser takes one for the other
        drawn = Augment(p.crop, "scale", (0.5, 1.5), flip=0.5)
        return [Phase(p.epochs, groups, "SGD", options, lambda done: (1 - done) ** 0.9, drawn)]

    def training_step(self, model: Any, batch: Batch, step: Step) -> dict[str, Tensor]:
        edges = model(batch.images).float().sigmoid()
        labels = confident(batch.pseudo[:, 0], batch.pseudo[:, 1])
        there = functional.interpolate(labels[:, None].float(), edges.shape[-2:]).long()[:, 0]
        return {"pairs": pair_loss(affinities(edges, self.params.radius), there, self.params.radius)}

    @torch.no_grad()
    def refine(self, image: np.ndarray, probabilities: np.ndarray) -> np.ndarray:
        p = self.params
        device = next(self.model.parameters()).device
        pixels = torch.from_numpy(image.copy()).permute(2, 0, 1)[None].float().to(device) / 255
        edges = ((self.model(pixels) + self.model(pixels.flip(3)).flip(2)) / 2).sigmoid()
        maps = torch.from_numpy(probabilities)[None].to(device)
        maps = functional.interpolate(maps, edges.shape[-2:], mode="bilinear", align_corners=False)[0]
        affinity = affinities(edges, p.walk_radius)[0]
        walked = walk(maps * (1 - edges), affinity, p.walk_radius, p.beta, 2**p.squarings)
        return (walked / walked.amax().clamp(min=_EPSILON)).cpu().numpy()


class EdgeNet(nn.Module):
    """Levels of a frozen backbone, 32 channels each, brought to stride 4 and read as one boundary map.

    A ViT's levels are five of its blocks, spread evenly; the authors know ResNets only.
    """

    def __init__(self, backbone: Any) -> None:
        super().__init__()
        self.backbone = backbone
        count = len(backbone.dims)
        self.levels = sorted({round(place * (count - 1) / 4) for place in range(5)})
        self.heads = nn.ModuleList(
            nn.Sequential(nn.Conv2d(backbone.dims[level], 32, 1, bias=False), nn.GroupNorm(4, 32))
            for level in self.levels
        )
        self.edge = nn.Conv2d(32 * len(self.levels), 1, 1)

    def train(self, mode: bool = True) -> EdgeNet:
        """Set training mode; the backbone is only looked through."""
        super().train(mode)
        self.backbone.eval()
        return self

    def forward(self, images: Tensor) -> Tensor:
        """Return (B, H / 4, W / 4) logits of boundaries, sides rounded up."""
        sides = [-(-side // STRIDE) for side in images.shape[-2:]]
        with torch.no_grad():
            levels = self.backbone.features(images, levels=self.levels).levels
        seen = [
            functional.interpolate(head(level), sides, mode="bilinear", align_corners=False).relu()
            for head, level in zip(self.heads, levels, strict=True)
        ]
        return self.edge(torch.cat(seen, 1))[:, 0]


def pair_loss(affinity: Tensor, labels: Tensor, radius: int) -> Tensor:
    """Return half of (half background pairs + half foreground pairs + unlike pairs), each a mean over such pairs.

    Parameters
    ----------
    affinity : Tensor
        (B, n, h, w) of `affinities`.
    labels : Tensor
        (B, h, w) class positions; 255 counts nowhere.
    radius : int
    """
    others = torch.stack([shifted(labels.float(), offset, 255.0) for offset in offsets(radius)], 1).long()
    own = labels[:, None].expand_as(others)
    known = (own < 255) & (others < 255)
    alike, unlike = -(affinity + _EPSILON).log(), -(1 + _EPSILON - affinity).log()

    def mean(losses: Tensor, chosen: Tensor) -> Tensor:
        return (losses * chosen).sum() / (chosen.sum() + _EPSILON)

    same = known & (own == others)
    like = mean(alike, same & (own == 0)) / 2 + mean(alike, same & (own > 0)) / 2
    return (like + mean(unlike, known & (own != others))) / 2
