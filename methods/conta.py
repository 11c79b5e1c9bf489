"""CONTA, after the paper (Zhang et al., NeurIPS 2020): in rounds a classifier is told what is usual around a class."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional
from wsss_methods.field import FieldMethod, FieldParams, classification, mean_padded, over_max, poly
from wsss_methods.single_stage import HalfSize, split_loss

from harness import Augment, Batch, Phase, Step


class CONTAParams(FieldParams):
    """Settings of CONTA; the paper gives the formula and three rounds, IRN's repository the rest of the classifier.

    Attributes
    ----------
    rounds : int
    epochs : int
        Of the classifier in each round.
    segment_epochs : int
        Of the segmentation network in each round.
    segment_lr : float
        Of its backbone.
    grid : int
        Rows and columns of a mask as the context sees it.
    momentum : float
        Of the mean mask of each class over batches.
    high, low : float
        Backgrounds of the labels of the segmentation network: a pixel is a class against the first, and background
        against both.
    detached : int
        The first stages or blocks that the classifier does not train.
    """

    image_size: int = Field(512, ge=32)
    lr: float = Field(0.1, gt=0)
    rounds: int = Field(3, ge=1)
    epochs: int = Field(5, ge=0)
    segment_epochs: int = Field(5, ge=0)
    segment_lr: float = Field(2.5e-4, gt=0)
    grid: int = Field(16, ge=1)
    momentum: float = Field(0.99, ge=0, lt=1)
    high: float = Field(0.55, ge=0, le=1)
    low: float = Field(0.35, ge=0, le=1)
    detached: int = Field(3, ge=0)


class CONTA(FieldMethod):
    """CAM's model goes on in rounds with a second network, which learns to segment from its maps.

    The mean mask that this network draws of each class is the context in which that class is seen. Those of all
    classes, weighted by how well they go with an image's own mask, are a map beside the features that CAM classifies.
    """

    name = "conta"
    cite = "zhang2020conta"
    parent = "cam"
    predicts_presence = True
    check_settings: ClassVar[Mapping[str, Any]] = {"rounds": 1, "segment_epochs": 1}
    Params = CONTAParams

    params: CONTAParams

    def background_rule(self, family: str) -> str:
        return "fixed:0.15" if family == "cnn" else ""

    def build_from(self, parent: Any, backbone: Any, num_classes: int) -> nn.Module:
        for network in (parent.backbone, backbone):
            network.freeze_norms()
        return CONTANet(parent, backbone, num_classes, self.params.grid)

    def phases(self, model: Any) -> list[Phase]:
        p = self.params
        groups = [
            {"params": list(model.segmenter.backbone.parameters()), "lr": p.segment_lr},
            {"params": list(model.segmenter.head.parameters()), "lr": p.segment_lr * p.head_lr_factor},
        ]
        options = {"momentum": 0.9, "weight_decay": 5e-4}
        drawn = Augment(p.image_size, "scale", (0.5, 1.5), flip=0.5)
        segment = Phase(p.segment_epochs, groups, "SGD", options, poly, drawn)
        new = [*model.classifier.parameters(), *model.beside.parameters(), *model.context.parameters()]
        return [segment, self.sgd(p.epochs, model.backbone.parameters_from(p.detached), new)] * p.rounds

    def training_step(self, model: Any, batch: Batch, step: Step) -> dict[str, Tensor]:
        p, images, present = self.params, mean_padded(batch, model.backbone), batch.labels[:, 1:]
        if step.phase % 2:  # the second half of a round
            with torch.no_grad():
                masks = model.segmenter(images).softmax(1)
            return {"bce": classification(model(images, masks), present)}
        logits = model.segmenter(images).float()
        with torch.no_grad():
            masks = logits.softmax(1)
            model.context.observe(masks, present, p.momentum)
            maps = over_max(model(images, masks)) * present[:, :, None, None]
            enlarged = functional.interpolate(maps, images.shape[-2:], mode="bilinear", align_corners=False)
            labels = HalfSize(batch).labels(enlarged, p.high, p.low)
        wanted = functional.interpolate(logits, labels.shape[-2:], mode="bilinear", align_corners=False)
        return {"segmentation": split_loss(wanted, labels)}

    def score(self, model: Any, images: Tensor, labels: Tensor | None) -> tuple[Tensor, Tensor]:
        maps = model(images, model.segmenter(images).float().softmax(1))
        return maps.relu(), maps.mean((2, 3)).sigmoid()


class CONTANet(nn.Module):
    """CAM's backbone and classifier, its weights for the context, the context, and a network that segments."""

    def __init__(self, parent: Any, backbone: Any, num_classes: int, grid: int) -> None:
        super().__init__()
        self.backbone, self.classifier = parent.backbone, parent.classifier
        self.beside = nn.Conv2d(1, num_classes - 1, 1, bias=False)  # the classifier's weights of one more channel
        nn.init.zeros_(self.beside.weight)  # at first the maps are CAM's
        self.context = Context(num_classes - 1, grid)
        self.segmenter = Segmenter(backbone, num_classes)

    def forward(self, images: Tensor, masks: Tensor) -> Tensor:
        """Return (B, K, h, w) maps of images, given (B, K + 1, h', w') probabilities of their masks."""
        features = self.backbone(images)
        around = functional.interpolate(self.context(masks), features.shape[-2:], mode="bilinear", align_corners=False)
        maps: Tensor = self.classifier(features) + self.beside(around)
        return maps


class Context(nn.Module):
    """The mean mask of each class, and how masks are told from each other.

    Attributes
    ----------
    means : Tensor
        (K, cells) of masks with `grid` rows and columns.
    """

    means: Tensor

    def __init__(self, classes: int, grid: int) -> None:
        super().__init__()
        self.grid = grid
        self.register_buffer("means", torch.zeros(classes, grid * grid))
        self.of_image, self.of_class = (nn.Linear(grid * grid, classes, bias=False) for _ in range(2))

    def forward(self, masks: Tensor) -> Tensor:
        """Return (B, 1, grid, grid) contexts of images, given (B, K + 1, h, w) probabilities of their masks."""
        own = functional.adaptive_avg_pool2d(1 - masks[:, :1], self.grid).flatten(1)
        return mixture(self.of_image(own), self.of_class(self.means), self.means).view(-1, 1, self.grid, self.grid)

    def observe(self, masks: Tensor, present: Tensor, momentum: float) -> None:
        """Move the mean mask of each class that a batch shows towards the mean of the batch."""
        pooled = functional.adaptive_avg_pool2d(masks[:, 1:], self.grid).flatten(2)
        count = present.sum(0)[:, None]
        mean = (pooled * present[:, :, None]).sum(0) / count.clamp(min=1)
        self.means.copy_(torch.where(count > 0, torch.lerp(mean, self.means, momentum), self.means))


class Segmenter(nn.Module):
    """A backbone and a dilated classifier of each place."""

    def __init__(self, backbone: Any, num_classes: int) -> None:
        super().__init__()
        self.backbone = backbone
        self.head = nn.Conv2d(backbone.dim, num_classes, 3, padding=6, dilation=6)

    def forward(self, images: Tensor) -> Tensor:
        """Return (B, K + 1, h, w) logits."""
        logits: Tensor = self.head(self.backbone(images))
        return logits


def mixture(image: Tensor, classes: Tensor, means: Tensor) -> Tensor:
    """Return the contexts of images: their sum over classes i of a_i c_i / n, Eq. 3 of the paper.

    Parameters
    ----------
    image : Tensor
        (B, n) projections of the masks of images; a is the softmax of products over the square root of n.
    classes : Tensor
        (K, n) projections of the mean masks of classes.
    means : Tensor
        (K, cells) mean masks c.
    """
    count = image.shape[1]
    return (image @ classes.T / count**0.5).softmax(1) @ means / count
