"""What ToCo and DuPL share: a ViT with two classifiers and a segmentation head, and the contrast of its tokens."""

from __future__ import annotations

from typing import Any

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional
from wsss_methods.single_stage import confident, multi_scale, stretched, warm_poly, without_padding

from harness import Augment, Batch, Phase, TrainParams


class StudentParams(TrainParams):
    """Settings of a ViT with two classifiers and a segmentation head, trained as in ToCo's code on VOC.

    Attributes
    ----------
    epochs, batch_size : int
        20,000 steps of 4 images.
    warmup : float
        Share of the training in which the learning rate rises.
    segment_from : float
        Share of the training after which the segmentation head learns.
    head_lr_factor : float
    weight_decay : float
    level : int
        The block whose patches the auxiliary classifier reads.
    high, low : float
        A map is a class above the first, background below the second, and unknown between them.
    tokens, segmentation : float
        Weights of the losses on patch tokens (PTC), and of the segmentation head.
    """

    image_size: int = Field(448, ge=32)
    epochs: int = Field(8, ge=0)
    batch_size: int = Field(4, ge=1)
    lr: float = Field(6e-5, gt=0)
    warmup: float = Field(0.075, ge=0, lt=1)
    segment_from: float = Field(0.1, ge=0, le=1)
    head_lr_factor: float = Field(10.0, gt=0)
    weight_decay: float = Field(0.01, ge=0)
    level: int = -3
    high: float = Field(0.7, ge=0, le=1)
    low: float = Field(0.25, ge=0, le=1)
    tokens: float = Field(0.2, ge=0)
    segmentation: float = Field(0.1, ge=0)

    def phase(self, own: list[nn.Parameter], new: list[nn.Parameter]) -> Phase:
        """Return the training of a backbone's parameters, and of new ones."""
        groups = [{"params": own, "lr": self.lr}, {"params": new, "lr": self.lr * self.head_lr_factor}]
        drawn = Augment(self.image_size, "scale", (0.5, 2.0), 0.5)
        options = {"weight_decay": self.weight_decay}
        return Phase(self.epochs, groups, "AdamW", options, lambda done: warm_poly(done, self.warmup, 0.9), drawn)


class Student(nn.Module):
    """A ViT with two classifiers, of its last block and of an earlier one, and a segmentation head."""

    def __init__(self, backbone: Any, num_classes: int, level: int) -> None:
        super().__init__()
        _ = backbone.class_token  # refuses a backbone that has none
        self.backbone, self.level = backbone, max(level, -len(backbone.dims))
        dim = backbone.dim
        self.classifier = nn.Conv2d(dim, num_classes - 1, 1, bias=False)
        self.auxiliary = nn.Conv2d(dim, num_classes - 1, 1, bias=False)
        self.segmentation = nn.Sequential(
            nn.Conv2d(dim, 512, 3, padding=5, dilation=5, bias=False), nn.ReLU(),
            nn.Conv2d(512, 512, 3, padding=5, dilation=5, bias=False), nn.ReLU(),
            nn.Conv2d(512, num_classes, 1, bias=False),
        )  # fmt: skip

    def new_parameters(self) -> list[nn.Parameter]:
        """Return the parameters outside the backbone that learn."""
        return [*self.classifier.parameters(), *self.auxiliary.parameters(), *self.segmentation.parameters()]

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """Return dense features, the class token, logits of both classifiers by maximum, and of the segmentation."""
        features = self.backbone.features(images, levels=(self.level,))
        return {
            "dense": features.dense,
            "token": features.tokens[:, 0],
            "logits": self.classifier(features.dense.amax((2, 3), keepdim=True))[:, :, 0, 0],
            "auxiliary": self.auxiliary(features.levels[0].amax((2, 3), keepdim=True))[:, :, 0, 0],
            "segmentation": self.segmentation(features.dense),
        }

    def maps(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Return (B, K, h, w) maps of both classifiers."""
        features = self.backbone.features(images, levels=(self.level,))
        return self.classifier(features.dense), self.auxiliary(features.levels[0])


@torch.no_grad()
def gated_maps(model: Student, batch: Batch) -> tuple[Tensor, Tensor]:
    """Return (B, K, H, W) maps of both classifiers at image size, of three scales, in [0, 1], 0 for absent classes."""
    present = batch.labels[:, 1:, None, None]
    cams, auxiliary = (stretched(maps) * present for maps in multi_scale(model.maps, batch.images))
    return cams, auxiliary


def token_labels(maps: Tensor, batch: Batch, grid: Any, high: float, low: float) -> Tensor:
    """Return (B, h, w) labels of tokens by maps at image size; padding and what is between high and low are 255."""
    labels = confident(functional.interpolate(maps, grid, mode="bilinear"), high, low)
    return labels if batch.valid is None else without_padding(labels, batch.valid)


def token_contrast(features: Tensor, labels: Tensor) -> Tensor:
    """Return PTC: tokens of equal labels should be parallel, tokens of different ones orthogonal.

    Parameters
    ----------
    features : Tensor
        (B, D, h, w).
    labels : Tensor
        (B, h, w); 255 takes no part.
    """
    flat, own = functional.normalize(features.flatten(2), dim=1), labels.flatten(1)
    alike = (flat.transpose(1, 2) @ flat).abs()
    known = (own[:, :, None] < 255) & (own[:, None] < 255)
    same = own[:, :, None] == own[:, None]
    pulled = known & same & ~torch.eye(own.shape[1], dtype=torch.bool, device=own.device)
    pushed = known & ~same
    return ((1 - (alike * pulled).sum() / (pulled.sum() + 1)) + (alike * pushed).sum() / (pushed.sum() + 1)) / 2
