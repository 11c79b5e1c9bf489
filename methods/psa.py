"""PSA's AffinityNet (Ahn and Kwak, CVPR 2018) as a refiner that learns: `--refine psa`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np
import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional
from wsss_methods.field import poly
from wsss_methods.irn import pair_loss
from wsss_methods.irn.walk import offsets, shifted, walk
from wsss_methods.learned import Learned, LearnedParams, OfUse, confident

from harness import Augment, Batch, Phase, Step

STRIDE = 8  # pixels of an image per place of its features


class PSAParams(LearnedParams):
    """Settings of PSA; the defaults are those of the authors' code, jiwoon-ahn/psa.

    Attributes
    ----------
    high, low : float
        Powers a of backgrounds (1 - maximum)^a: a pixel is a class where it is one under the first, which makes the
        stronger background, and background where it is that under both.
    radius : int
        How far apart, in places, pairs are that are learned from and that the walk goes between.
    beta : float
        Sharpens the affinities of the walk.
    squarings : int
        The walk takes 2 to the power of it steps.
    background_power : float
        Of the background that walks with the maps.
    """

    epochs: int = Field(8, ge=0)
    batch_size: int = Field(8, ge=1)
    crop: int = Field(448, ge=32)
    lr: float = Field(0.01, gt=0)
    weight_decay: float = Field(5e-4, ge=0)
    high: float = Field(4.0, gt=0)
    low: float = Field(32.0, gt=0)
    labels: str = "crf:psa"
    radius: int = Field(5, ge=2)
    beta: float = Field(8.0, gt=0, json_schema_extra=OfUse)
    squarings: int = Field(8, ge=0, le=12, json_schema_extra=OfUse)
    background_power: float = Field(16.0, gt=0, json_schema_extra=OfUse)


class PSA(Learned):
    """A network learns features that are alike where the class is; maps spread between places that are alike.

    The affinity of two places is exp(-d), d the mean absolute difference of their features. Pairs of equal labels
    should have one of 1, pairs of different labels of 0. Maps and a background of their own are then walked over these
    affinities, see `irn.walk`; what is returned are a class's shares of itself and the background, so that a fixed
    background of 0.5 decides as the authors' argmax does.
    """

    name = "psa"
    cite = "ahn2018psa"
    background_rule = "fixed:0.5"
    check_settings: ClassVar[Mapping[str, Any]] = {
        "epochs": 1, "crop": 64, "radius": 3, "batch_size": 4, "labels": "none",
    }  # fmt: skip
    Params = PSAParams

    params: PSAParams

    def learns_from(self) -> tuple[str, ...]:
        p = self.params
        return tuple(f"power:{power:g}+{p.labels}" for power in (p.high, p.low))

    def build(self, backbone: Any, num_classes: int) -> nn.Module:
        backbone.freeze_norms()
        return AffinityNet(backbone)

    def phases(self, model: Any) -> list[Phase]:
        p = self.params
        new = [*model.heads.parameters(), *model.joint.parameters()]
        groups = [{"params": list(model.backbone.parameters()), "lr": p.lr}, {"params": new, "lr": 10 * p.lr}]
        options = {"momentum": p.weight_decay, "weight_decay": p.weight_decay}  # as in `field`
        drawn = Augment(p.crop, "scale", (1.0, 1.0), 0.5, (0.3, 0.3, 0.3, 0.1))
        return [Phase(p.epochs, groups, "SGD", options, poly, drawn)]

    def training_step(self, model: Any, batch: Batch, step: Step) -> dict[str, Tensor]:
        affinity = alike(model(batch.images), self.params.radius)
        labels = confident(batch.pseudo[:, 0], batch.pseudo[:, 1])
        there = functional.interpolate(labels[:, None].float(), affinity.shape[-2:]).long()[:, 0]
        return {"pairs": pair_loss(affinity, there, self.params.radius)}

    @torch.no_grad()
    def refine(self, image: np.ndarray, probabilities: np.ndarray) -> np.ndarray:
        p = self.params
        device = next(self.model.parameters()).device
        pixels = torch.from_numpy(image.copy()).permute(2, 0, 1)[None].float().to(device) / 255
        affinity = alike(self.model(pixels), p.radius)[0]
        maps = torch.from_numpy(probabilities)[None].to(device)
        maps = functional.interpolate(maps, affinity.shape[-2:], mode="bilinear", align_corners=False)[0]
        background = (1 - maps.amax(0, keepdim=True)).clamp(min=0) ** p.background_power
        walked = walk(torch.cat([background, maps]), affinity, p.radius, p.beta, 2**p.squarings)
        strongest = walked[1:].amax(0)
        return (walked[1:] / (walked[0] + strongest).clamp(min=1e-5)).cpu().numpy()


class AffinityNet(nn.Module):
    """Three levels of a backbone, brought to stride 8, in features whose differences say what belongs together.

    They are the last three stages of a CNN, or blocks of a ViT at a half, three quarters and the end of it.
    """

    def __init__(self, backbone: Any) -> None:
        super().__init__()
        self.backbone = backbone
        count = len(backbone.dims)
        cnn = backbone.family == "cnn"
        self.levels = [count - 3, count - 2, count - 1] if cnn else [count // 2 - 1, 3 * count // 4 - 1, count - 1]
        widths = zip(self.levels, (64, 128, 256), strict=True)
        heads = [nn.Conv2d(backbone.dims[level], width, 1, bias=False) for level, width in widths]
        for head in heads:
            nn.init.kaiming_normal_(head.weight)
        self.heads = nn.ModuleList(heads)
        self.joint = nn.Conv2d(448, 448, 1, bias=False)
        nn.init.xavier_uniform_(self.joint.weight, gain=4)

    def forward(self, images: Tensor) -> Tensor:
        """Return (B, 448, H / 8, W / 8) features, sides rounded up."""
        sides = [-(-side // STRIDE) for side in images.shape[-2:]]
        levels = self.backbone.features(images, levels=self.levels).levels
        seen = [
            functional.interpolate(functional.elu(head(level)), sides, mode="bilinear", align_corners=False)
            for head, level in zip(self.heads, levels, strict=True)
        ]
        return functional.elu(self.joint(torch.cat(seen, 1)))


def alike(features: Tensor, radius: int) -> Tensor:
    """Return exp(-mean absolute difference of features) of neighbours.

    Parameters
    ----------
    features : Tensor
        (B, D, h, w).
    radius : int

    Returns
    -------
    Tensor
        (B, n, h, w), one for each of `offsets(radius)`; without meaning where that leaves the image.
    """
    found = [(features - shifted(features, offset, 0.0)).abs().mean(1).neg().exp() for offset in offsets(radius)]
    return torch.stack(found, 1).float()
