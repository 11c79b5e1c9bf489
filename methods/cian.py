"""CIAN (Fan et al., AAAI 2020) as a refiner that learns: `--refine cian`."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional
from wsss_methods.learned import Learned, LearnedParams, OfUse, confident

from harness import Augment, Batch, Phase, Step

SCALES = (0.75, 1.0, 1.25)  # at which an image is read


class CIANParams(LearnedParams):
    """Settings of CIAN; the defaults are those of the authors' code, js-fan/CIAN.

    Attributes
    ----------
    stride : int
        Of a convolutional backbone.
    lr : float
        New layers learn ten times as fast.
    high, low : float
        As of IRN; the authors' labels have their background from saliency.
    width : int
        Channels in which places of two images are compared.
    dilation : int
        Of the classifier.
    longest : int
        Long side in pixels to which a larger image is brought before it is read.
    """

    epochs: int = Field(20, ge=0)
    batch_size: int = Field(16, ge=2)
    crop: int = Field(321, ge=32)
    stride: Literal[8, 16, 32] = 8
    lr: float = Field(5e-4, gt=0)
    weight_decay: float = Field(5e-4, ge=0)
    width: int = Field(1024, ge=1)
    dilation: int = Field(12, ge=1)
    longest: int = Field(512, ge=32, json_schema_extra=OfUse)


class CIAN(Learned):
    """A segmentation network learns the sure pixels of maps, and reads each image beside one that shares a class.

    At each place the features of all places of the image, weighted by likeness, are added, or where these are larger
    those of the partner. What the network says with the partner's help is a label for the pixels that had none. An
    image is refined alone: what comes back are the network's probabilities of the open classes and of the background.
    """

    name = "cian"
    cite = "fan2020cian"
    background_rule = "model"
    check_settings: ClassVar[Mapping[str, Any]] = {
        "epochs": 1, "crop": 64, "batch_size": 4, "labels": "none", "stride": 16, "width": 8,
    }  # fmt: skip
    Params = CIANParams

    params: CIANParams

    def build(self, backbone: Any, num_classes: int) -> nn.Module:
        backbone.freeze_norms()
        return CIANNet(backbone, num_classes, self.params.width, self.params.dilation)

    def phases(self, model: Any) -> list[Phase]:
        p = self.params
        own = {id(parameter) for parameter in model.backbone.parameters()}
        new = [parameter for parameter in model.parameters() if id(parameter) not in own]
        groups = [{"params": list(model.backbone.parameters()), "lr": p.lr}, {"params": new, "lr": 10 * p.lr}]
        options = {"momentum": 0.9, "weight_decay": p.weight_decay}
        drawn = Augment(p.crop, "scale", (0.5, 1.5), flip=0.5)
        return [Phase(p.epochs, groups, "SGD", options, lambda done: by_epoch(done, p.epochs), drawn, pairs=True)]

    def training_step(self, model: Any, batch: Batch, step: Step) -> dict[str, Tensor]:
        features = model.backbone(batch.images)
        half = len(features) // 2  # partners stand behind their images
        alone, helped = model(features), model(features, features.roll(half, 0))
        labels = confident(batch.pseudo[:, 0], batch.pseudo[:, 1])
        seeds = functional.interpolate(labels[:, None].float(), features.shape[-2:]).long()[:, 0]
        found = completed(helped, seeds)
        return {
            "self": entropy(alone, seeds),
            "cross": entropy(helped, seeds),
            "completion": entropy(alone, found) + entropy(helped, found),
        }

    @torch.no_grad()
    def refine(self, image: np.ndarray, probabilities: np.ndarray) -> np.ndarray:
        pixels = torch.from_numpy(image.copy()).permute(2, 0, 1)[None].float() / 255
        pixels = pixels.to(next(self.model.parameters()).device)
        shrunk = min(1.0, self.params.longest / max(image.shape[:2]))
        sides = [round(side * shrunk) for side in image.shape[:2]]
        found = []
        for scale in SCALES:
            size = [max(1, round(side * scale)) for side in sides]
            view = functional.interpolate(pixels, size, mode="bilinear", align_corners=False, antialias=True)
            both = (self.model(self.model.backbone(shown)).softmax(1) for shown in (view, view.flip(3)))
            chances = [functional.interpolate(one, sides, mode="bilinear", align_corners=False) for one in both]
            found.append((chances[0] + chances[1].flip(3)) / 2)
        every = torch.stack(found)
        merged = (every.sum(0) + every.amax(0))[0] / (len(SCALES) + 1)  # the largest counts as a fourth scale
        return merged[[0, *self.classes]].cpu().numpy()


class CIANNet(nn.Module):
    """A backbone, what retrieves features of alike places, and a classifier."""

    def __init__(self, backbone: Any, num_classes: int, width: int, dilation: int) -> None:
        super().__init__()
        self.backbone = backbone
        self.query, self.key, self.value = (nn.Conv2d(backbone.dim, width, 1, bias=False) for _ in range(3))
        self.back = nn.Conv2d(width, backbone.dim, 1, bias=False)
        self.norm = nn.BatchNorm2d(backbone.dim)
        nn.init.zeros_(self.norm.weight)  # at first nothing is added
        self.classifier = nn.Conv2d(backbone.dim, num_classes, 3, padding=dilation, dilation=dilation)

    def forward(self, features: Tensor, partners: Tensor | None = None) -> Tensor:
        """Return (B, C, h, w) logits of (B, D, h, w) features, with the help of partners' if there are any."""
        query = self.query(features)
        found = self._from(query, features)
        if partners is not None:
            found = torch.maximum(found, self._from(query, partners))
        logits: Tensor = self.classifier(features + self.norm(self.back(found)))
        return logits

    def _from(self, query: Tensor, others: Tensor) -> Tensor:
        key, value = (functional.max_pool2d(one(others), 3, 2, 1) for one in (self.key, self.value))
        return retrieved(query, key, value)


def retrieved(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """Return (B, D, h, w) values that places are alike to: a softmax of products, without a scale.

    Parameters
    ----------
    query : Tensor
        (B, D, h, w).
    key, value : Tensor
        (B, D, h', w').
    """
    likeness = (query.flatten(2).transpose(1, 2) @ key.flatten(2)).softmax(2)
    return (value.flatten(2) @ likeness.transpose(1, 2)).unflatten(2, query.shape[-2:])


def completed(helped: Tensor, seeds: Tensor) -> Tensor:
    """Return (B, h, w) the likeliest class where that is among the image's seeds, else 255; without a gradient.

    Parameters
    ----------
    helped : Tensor
        (B, C, h, w) logits.
    seeds : Tensor
        (B, h, w); 255 is unknown.
    """
    likeliest = helped.detach().argmax(1)
    among = functional.one_hot(seeds.flatten(1).where(seeds.flatten(1) < 255, helped.shape[1]), helped.shape[1] + 1)
    there = among.amax(1).gather(1, likeliest.flatten(1)).view_as(likeliest)
    return likeliest.where(there > 0, 255)


def entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """Return the mean cross-entropy over labelled places of a batch; 0 where there is none."""
    costs = functional.cross_entropy(logits.float(), labels, ignore_index=255, reduction="sum")
    return costs / (labels < 255).sum().clamp(min=1)


def by_epoch(done: float, epochs: int) -> float:
    """Return the factor on a learning rate, which falls from one epoch to the next."""
    return (1 - math.floor(done * epochs + 1e-6) / max(1, epochs)) ** 0.9
