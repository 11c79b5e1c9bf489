"""Class activation maps (Zhou et al., CVPR 2016) from a classifier's dense features, of a CNN or of a ViT's patches."""

from __future__ import annotations

from typing import Any, Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn
from wsss_methods.field import FieldMethod, FieldParams, classification, mean_padded, poly

from harness import Batch, Phase, Step

IRN = {"image_size": 512, "batch_size": 16, "lr": 0.1}  # jiwoon-ahn/irn; the rest are defaults here


class CAMParams(FieldParams):
    """Settings of CAM.

    Attributes
    ----------
    recipe : {"plain", "irn"}
        `plain` is ours: AdamW, images squashed and mirrored. `irn` is the field's, of a CNN: SGD, crops of images whose
        long side is drawn, frozen norms.
    detached : int
        The first stages or blocks that are not trained, in the recipe `irn`; the authors leave the stem and two stages.
    l2 : float
        Weight of the squared norm of the class weights in the loss, as ViT-PCM has it; its Table 3 has it for CAM too.
    """

    recipe: Literal["plain", "irn"] = "plain"
    epochs: int = Field(5, ge=0)
    detached: int = Field(3, ge=0)
    l2: float = Field(0.0, ge=0)

    @model_validator(mode="before")
    @classmethod
    def _take_the_recipe(cls, values: Any) -> Any:
        return IRN | values if values.get("recipe") == "irn" else values


class CAM(FieldMethod):
    """Multi-label classification by global average pooling; the class weights are read at every position."""

    name = "cam"
    cite = "zhou2016cam"
    predicts_presence = True
    Params = CAMParams

    params: CAMParams

    def background_rule(self, family: str) -> str:
        return "fixed:0.15" if family == "cnn" else ""  # IRN's, whose recipe most CAMs of a CNN follow

    def build(self, backbone: Any, num_classes: int) -> nn.Module:
        if self.params.recipe == "irn":
            backbone.freeze_norms()
        return CAMNet(backbone, num_classes - 1)

    def phases(self, model: Any) -> list[Phase]:
        p = self.params
        if p.recipe == "irn":
            return [self.sgd(p.epochs, model.backbone.parameters_from(p.detached), model.classifier.parameters())]
        groups = [
            {"params": list(model.backbone.parameters()), "lr": p.lr},
            {"params": list(model.classifier.parameters()), "lr": p.lr * p.head_lr_factor},
        ]
        return [Phase(p.epochs, groups, "AdamW", {"weight_decay": p.weight_decay}, poly)]

    def training_step(self, model: Any, batch: Batch, step: Step) -> dict[str, Tensor]:
        images = mean_padded(batch, model.backbone)
        if self.params.recipe == "plain":
            flip = torch.rand(len(images), 1, 1, 1, device=images.device) < 0.5
            images = torch.where(flip, images.flip(3), images)
        losses = {"bce": classification(model(images), batch.labels[:, 1:])}
        if self.params.l2:
            losses["l2"] = self.params.l2 * model.classifier.weight.square().sum()
        return losses

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
