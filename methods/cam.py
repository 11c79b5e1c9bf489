"""Class activation maps (Zhou et al., CVPR 2016) from a classifier's dense features, of a CNN or of a ViT's patches."""

from __future__ import annotations

from typing import Any

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional

from harness import Batch, Method, Phase, Step, TrainParams


class CAMParams(TrainParams):
    """Settings of CAM.

    Attributes
    ----------
    head_lr_factor : float
        The classifier learns this much faster than the backbone.
    weight_decay : float
    """

    epochs: int = Field(5, ge=0)
    head_lr_factor: float = Field(10.0, gt=0)
    weight_decay: float = Field(1e-4, ge=0)


class CAM(Method):
    """Multi-label classification by global average pooling; the class weights are read at every position."""

    name = "cam"
    cite = "zhou2016cam"
    predicts_presence = True
    Params = CAMParams

    params: CAMParams

    def background_rule(self, family: str) -> str:
        return "fixed:0.15" if family == "cnn" else ""  # IRN's, whose recipe most CAMs of a CNN follow

    def build(self, backbone: Any, num_classes: int) -> nn.Module:
        return CAMNet(backbone, num_classes - 1)

    def phases(self, model: Any) -> list[Phase]:
        p = self.params
        groups = [
            {"params": list(model.backbone.parameters()), "lr": p.lr},
            {"params": list(model.classifier.parameters()), "lr": p.lr * p.head_lr_factor},
        ]
        return [Phase(p.epochs, groups, "AdamW", {"weight_decay": p.weight_decay}, lambda done: (1 - done) ** 0.9)]

    def training_step(self, model: Any, batch: Batch, step: Step) -> dict[str, Tensor]:
        flip = torch.rand(len(batch.images), 1, 1, 1, device=batch.images.device) < 0.5
        logits = model(torch.where(flip, batch.images.flip(3), batch.images)).mean((2, 3))
        return {"bce": functional.binary_cross_entropy_with_logits(logits.float(), batch.labels[:, 1:])}

    def score(self, model: Any, images: Tensor, labels: Tensor | None) -> tuple[Tensor, Tensor]:
        maps = model(images)
        return maps.relu(), maps.mean((2, 3)).sigmoid()


class CAMNet(nn.Module):
    """A backbone and a 1x1 convolution without bias, so that pooling and classifying commute."""

    def __init__(self, backbone: Any, classes: int) -> None:
        super().__init__()
        self.backbone = backbone
        self.classifier = nn.Conv2d(backbone.dim, classes, 1, bias=False)

    def forward(self, images: Tensor) -> Tensor:
        return self.classifier(self.backbone(images))
