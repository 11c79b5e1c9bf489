"""OC-CSE (Kweon et al., ICCV 2021): what a map erases, an ordinary classifier must no longer see."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional
from wsss_methods.field import FieldMethod, FieldParams, classification, mean_padded

from harness import Batch, Phase, Step


class OCCSEParams(FieldParams):
    """Settings of OC-CSE; the defaults are those of the authors' code, KAIST-vilab/OC-CSE.

    Attributes
    ----------
    mask_norm : {"batch", "image"}
        By what a map is divided before it erases: the largest value of the whole batch, as the authors do, or of its
        image.
    weight, weight_growth : float
        Of the loss on erased images in the first epoch, and what each further epoch adds.
    """

    image_size: int = Field(384, ge=32)
    shortest: int = Field(256, ge=16)
    longest: int = Field(448, ge=16)
    jitter: float = Field(0.3, ge=0, le=1)
    batch_size: int = Field(8, ge=1)
    epochs: int = Field(15, ge=0)
    lr: float = Field(0.01, gt=0)
    head_lr_factor: float = Field(1.0, gt=0)
    weight_decay: float = Field(5e-4, ge=0)
    mask_norm: Literal["batch", "image"] = "batch"
    weight: float = Field(0.3, ge=0)
    weight_growth: float = Field(0.05, ge=0)


class OCCSE(FieldMethod):
    """Maps are trained so that a frozen classifier no longer sees the class that they erase, and still sees the others.

    In each step one present class of each image is drawn, and the image is multiplied by 1 minus its map. CAM's trained
    model is the classifier; a fresh one makes the maps, and the gradient reaches it through the mask.
    """

    name = "occse"
    cite = "kweon2021occse"
    parent = "cam"
    predicts_presence = True
    check_settings: ClassVar[Mapping[str, Any]] = {"batch_size": 4}
    Params = OCCSEParams

    params: OCCSEParams

    def build_from(self, parent: Any, backbone: Any, num_classes: int) -> nn.Module:
        backbone.freeze_norms()
        return OCCSENet(backbone, parent, num_classes - 1)

    def phases(self, model: Any) -> list[Phase]:
        return [self.sgd(self.params.epochs, model.backbone.parameters(), model.classifier.parameters())]

    def training_step(self, model: Any, batch: Batch, step: Step) -> dict[str, Tensor]:
        p, images, present = self.params, mean_padded(batch, model.backbone), batch.labels[:, 1:]
        maps = model(images)
        known = present.sum(1) > 0
        target = torch.multinomial(present + ~known[:, None], 1)[:, 0]  # of an image without a class, any, and unused
        erased = erase(images, maps[torch.arange(len(images)), target], model.backbone.mean, p.mask_norm)
        left = present - functional.one_hot(target, present.shape[1]) * known[:, None]
        weight = p.weight + p.weight_growth * step.epoch
        return {
            "cls": classification(maps, present),
            "erased": weight * classification(model.ordinary(erased), left),
        }

    def score(self, model: Any, images: Tensor, labels: Tensor | None) -> tuple[Tensor, Tensor]:
        maps = model(images)
        return maps.relu(), maps.mean((2, 3)).sigmoid()


class OCCSENet(nn.Module):
    """A classifier over positions, and CAM's trained model, which stays as it is."""

    def __init__(self, backbone: Any, ordinary: nn.Module, classes: int) -> None:
        super().__init__()
        self.backbone, self.ordinary = backbone, ordinary
        self.classifier = nn.Conv2d(backbone.dim, classes, 1, bias=False)
        nn.init.xavier_uniform_(self.classifier.weight)

    def train(self, mode: bool = True) -> OCCSENet:
        """Set training mode; the ordinary classifier stays in evaluation."""
        super().train(mode)
        self.ordinary.eval()
        return self

    def forward(self, images: Tensor) -> Tensor:
        """Return (B, K, h, w) maps of (B, 3, H, W) images."""
        return self.classifier(self.backbone(images))


def erase(images: Tensor, maps: Tensor, colour: Tensor, norm: str) -> Tensor:
    """Return images that fade to a colour where their map is strong; the gradient flows through the maps.

    Parameters
    ----------
    images : Tensor
        (B, 3, H, W).
    maps : Tensor
        (B, h, w) logits.
    colour : Tensor
        (1, 3, 1, 1).
    norm : {"batch", "image"}
    """
    masks = functional.interpolate(
        maps[:, None].float(), images.shape[-2:], mode="bilinear", align_corners=False
    ).relu()
    largest = masks.amax() if norm == "batch" else masks.amax((1, 2, 3), keepdim=True)
    return colour + (images - colour) * (1 - masks / (largest + 1e-5))
