"""OC-CSE (Kweon et al., ICCV 2021): an ordinary classifier judges what is left when one class is erased by its map."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional

from harness import Augment, Batch, Method, Phase, Step, TrainParams


class OCCSEParams(TrainParams):
    """Settings of OC-CSE; the defaults are those of the authors' code, KAIST-vilab/OC-CSE, but for `mask_norm`.

    Attributes
    ----------
    image_size : int
        Side of the crop; the long side of an image is drawn from two thirds to seven sixths of it: 256 to 448.
    lr : float
        Of the backbone and of the new classifier alike.
    first_weight, last_weight : float
        Of the loss on erased images in the first and in the last epoch; it grows by the same step each epoch.
    weight_decay : float
        The momentum too: the authors' optimiser takes one for the other.
    mask_norm : {"image", "batch"}
        Whose maximum a map is divided by. The authors' code takes that of the whole batch, so that an image whose map
        is half as strong as another's is only half erased.
    """

    epochs: int = Field(15, ge=0)
    batch_size: int = Field(8, ge=1)
    lr: float = Field(0.01, gt=0)
    first_weight: float = Field(0.3, ge=0)
    last_weight: float = Field(1.0, ge=0)
    weight_decay: float = Field(5e-4, ge=0)
    mask_norm: Literal["image", "batch"] = "image"


class OCCSE(Method):
    """A CAM that learns from a frozen one: an image without one of its classes must look so to an ordinary classifier.

    Of each image one present class t is drawn, and its map, positive and divided by its maximum, fades the image to
    the mean colour. The frozen classifier should then see every class of the image but t; the gradient flows through
    it into the map.
    """

    name = "occse"
    cite = "kweon2021occse"
    parent = "cam"
    predicts_presence = True
    Params = OCCSEParams

    params: OCCSEParams

    def build_from(self, parent: Any, backbone: Any, num_classes: int) -> nn.Module:
        return OCCSENet(backbone, num_classes - 1, parent)

    def phases(self, model: Any) -> list[Phase]:
        p = self.params
        group = {"params": [*model.backbone.parameters(), *model.classifier.parameters()], "lr": p.lr}
        options = {"momentum": p.weight_decay, "weight_decay": p.weight_decay}
        sides = (2 / 3 * p.image_size, 7 / 6 * p.image_size)
        augment = Augment(p.image_size, "long_side", sides, flip=0.5, jitter=(0.3, 0.3, 0.3, 0.1))
        return [Phase(p.epochs, [group], "SGD", options, lambda done: (1 - done) ** 0.9, augment)]

    def training_step(self, model: Any, batch: Batch, step: Step) -> dict[str, Tensor]:
        p, present = self.params, batch.labels[:, 1:]
        maps = model(batch.images)
        target = one_of(present)
        mask = erasing_mask((maps * target[:, :, None, None]).sum(1), batch.images.shape[-2:], p.mask_norm)
        mean = model.backbone.mean
        left = model.ordinary(mean + (batch.images - mean) * (1 - mask)).mean((2, 3))
        weight = p.first_weight + (p.last_weight - p.first_weight) * step.epoch / max(1, step.epochs - 1)
        entropy = functional.binary_cross_entropy_with_logits
        return {
            "bce": entropy(maps.mean((2, 3)).float(), present),
            "erased": weight * entropy(left.float(), present - target),
        }

    def score(self, model: Any, images: Tensor, labels: Tensor | None) -> tuple[Tensor, Tensor]:
        maps = model(images)
        return maps.relu(), maps.mean((2, 3)).sigmoid()


class OCCSENet(nn.Module):
    """A backbone with a 1x1 classifier without bias, and the ordinary classifier, always in evaluation mode."""

    def __init__(self, backbone: Any, classes: int, ordinary: nn.Module) -> None:
        super().__init__()
        self.backbone, self.ordinary = backbone, ordinary
        self.classifier = nn.Conv2d(backbone.dim, classes, 1, bias=False)
        nn.init.xavier_uniform_(self.classifier.weight)

    def forward(self, images: Tensor) -> Tensor:
        return self.classifier(self.backbone(images))

    def train(self, mode: bool = True) -> OCCSENet:
        """Set training mode, but for the ordinary classifier."""
        super().train(mode)
        self.ordinary.eval()
        return self


def one_of(present: Tensor) -> Tensor:
    """Return (B, K) one-hot choices, each uniform among the classes of an image; zeros for an image without any."""
    chosen = (torch.rand_like(present) * present).argmax(1)
    return functional.one_hot(chosen, present.shape[1]) * present


def erasing_mask(maps: Tensor, sides: Sequence[int], norm: Literal["image", "batch"]) -> Tensor:
    """Return (B, 1, *sides) shares of each pixel to erase, of (B, h, w) maps: resized first, then made positive."""
    positive = functional.interpolate(maps[:, None], list(sides), mode="bilinear", align_corners=False).relu()
    highest = positive.amax((1, 2, 3), keepdim=True) if norm == "image" else positive.max()
    return positive / (highest + 1e-5)
