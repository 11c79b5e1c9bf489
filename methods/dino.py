"""Foreground from the self-attention of a self-supervised ViT, as DINO shows it (Caron et al., ICCV 2021; Table D)."""

from __future__ import annotations

from typing import Any, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from harness import Method, Params, RunSpec, Session, TrainingData


class DINOParams(Params):
    """Settings of DINO's attention.

    Attributes
    ----------
    inference_size : int
        DINO's own images are 480 pixels wide.
    heads : "mean", or int
        Whose attention: the mean of all heads, or that of one.
    """

    inference_size: int = Field(480, ge=16, json_schema_extra={"stage": "score"})
    heads: int | Literal["mean"] = Field("mean", json_schema_extra={"stage": "score"})


class DINO(Method):
    """What the class token of a ViT's last layer attends to; it knows foreground from background, and no class.

    A patch scores the share of attention that lies on it and on all weaker patches together. So a background of
    `fixed:x` keeps the strongest patches that hold 1 - x of the attention: 0.4 is the 60 % of DINO's own images. Each
    class gets the same map; of the scores only `foreground` means anything.
    """

    name = "dino"
    cite = "caron2021dino"
    families = ("vit",)
    supervision: tuple[str, ...] = ("self-supervision",)
    Params = DINOParams

    params: DINOParams

    @classmethod
    def skip(cls, spec: RunSpec) -> str | None:
        return None if spec.weights != "random" else "attention at a random start shows nothing: give --weights"

    def build(self, backbone: Any, num_classes: int) -> nn.Module:
        _ = backbone.class_token  # refuses a backbone that has none
        model = nn.Module()
        model.backbone = backbone
        model.register_buffer("classes", torch.zeros(num_classes - 1))
        return model

    def fit(self, model: Any, data: TrainingData, session: Session) -> None:
        """There is nothing to train."""

    def score(self, model: Any, images: Tensor, labels: Tensor | None) -> Tensor:
        features = model.backbone.features(images, attention=(-1,))
        height, width = features.dense.shape[-2:]
        attention = features.attention[0][:, :, 0, -height * width :].unflatten(2, (height, width))
        heads = self.params.heads
        chosen = attention.mean(1) if heads == "mean" else attention[:, heads]
        return mass_below(chosen)[:, None].expand(-1, len(model.classes), -1, -1)


def mass_below(attention: Tensor) -> Tensor:
    """Return, for each patch of (B, h, w), the share of attention on it and on all weaker patches, in [0, 1]."""
    flat = attention.flatten(1)
    share, order = (flat / flat.sum(1, keepdim=True)).sort(1)
    return torch.zeros_like(flat).scatter(1, order, share.cumsum(1)).clamp(max=1.0).view_as(attention)
