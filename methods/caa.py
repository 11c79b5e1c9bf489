"""Class-aware attention affinity (CLIP-ES, Lin et al., CVPR 2023) as a refiner: `--refine caa`."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional

from harness import Phase, Refiner, TrainedRefinerParams


class CAAParams(TrainedRefinerParams):
    """Settings of CAA; the defaults are those of the authors' code, linyq2117/CLIP-ES, on VOC.

    Attributes
    ----------
    blocks : int
        Last blocks whose attention is averaged.
    normalisations : int
        How often columns and rows are made to sum to one.
    box : float
        Share of a map's maximum; scores outside the boxes around what is above it do not spread.
    longest : int
        Long side in pixels of what the ViT is shown: attention grows with its fourth power.
    """

    blocks: int = Field(8, ge=1)
    normalisations: int = Field(3, ge=0)
    box: float = Field(0.4, ge=0, le=1)
    longest: int = Field(448, ge=32)


class CAA(Refiner):
    """Maps spread twice by what patches of a ViT attend to, made symmetric and doubly stochastic.

    The ViT is the cell's, as its weights were before any training, or another one: `--refine caa:dino_s16`.
    """

    name = "caa"
    cite = "lin2023clipes"
    trained = True  # it needs a backbone, and learns nothing
    refines = "maps"
    families = ("vit",)
    Params = CAAParams

    params: CAAParams

    def build(self, backbone: Any, num_classes: int) -> nn.Module:
        model: nn.Module = backbone
        return model

    def phases(self, model: Any) -> list[Phase]:
        return []

    @torch.no_grad()
    def refine(self, image: np.ndarray, probabilities: np.ndarray) -> np.ndarray:
        p, net = self.params, self.model
        pixels = torch.from_numpy(image.copy()).permute(2, 0, 1)[None].float().to(net.mean.device) / 255
        scale = min(1.0, p.longest / max(image.shape[:2]))
        sides = [max(1, round(side * scale / net.stride)) * net.stride for side in image.shape[:2]]
        shown = functional.interpolate(pixels, sides, mode="bilinear", align_corners=False, antialias=True)
        blocks = range(max(0, len(net.dims) - p.blocks), len(net.dims))
        features = net.features(shown, attention=blocks)
        grid = features.dense.shape[-2:]
        patches = grid[0] * grid[1]
        attention = torch.stack([one[0, :, -patches:, -patches:].mean(0) for one in features.attention]).mean(0)
        maps = torch.from_numpy(probabilities)[None].to(pixels.device)
        maps = functional.interpolate(maps, grid, mode="bilinear", align_corners=False)[0]
        found = spread(maps, affinity(attention, p.normalisations), p.box)
        return (found / found.amax((1, 2), keepdim=True).clamp(min=1e-7)).cpu().numpy()


def affinity(attention: Tensor, normalisations: int) -> Tensor:
    """Return (N, N) attention with columns and rows that sum to one, made symmetric, and multiplied with itself."""
    for _ in range(normalisations):
        attention = attention / attention.sum(0, keepdim=True)
        attention = attention / attention.sum(1, keepdim=True)
    symmetric = (attention + attention.T) / 2
    return symmetric @ symmetric


def spread(maps: Tensor, weights: Tensor, box: float) -> Tensor:
    """Return (C, h, w) maps spread by (N, N) weights from inside the box around each map's strong places."""
    inside = torch.stack([boxed(one >= box * one.max()) for one in maps])
    return ((maps * inside).flatten(1) @ weights.T).view_as(maps)


def boxed(strong: Tensor) -> Tensor:
    """Return (h, w) bool: the boxes around the connected groups of what is true in (h, w)."""
    groups = torch.arange(1.0, strong.numel() + 1, device=strong.device).view(strong.shape) * strong
    while True:
        grown = functional.max_pool2d(groups[None, None], 3, 1, 1)[0, 0] * strong
        if torch.equal(grown, groups):
            break
        groups = grown
    found = torch.zeros_like(strong)
    for group in groups[strong].unique():
        rows, columns = ((groups == group).any(side).nonzero()[:, 0] for side in (1, 0))
        found[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1] = True
    return found
