"""ReCAM (Chen et al., CVPR 2022): a trained CAM goes on with a softmax over class-specific features."""

from __future__ import annotations

from typing import Any

from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional

from harness import Batch, Method, Phase, Step, TrainParams


class ReCAMParams(TrainParams):
    """Settings of ReCAM; the defaults are those of the authors' code, zhaozhengChen/ReCAM.

    Attributes
    ----------
    lr : float
        Of the backbone and of CAM's own classifier.
    second_lr : float
        Of the second classifier.
    weight : float
        Of the softmax loss beside CAM's: 1 for VOC, 0.1 for COCO.
    weight_decay : float
    """

    epochs: int = Field(4, ge=0)
    lr: float = Field(5e-5, gt=0)
    second_lr: float = Field(5e-4, gt=0)
    weight: float = Field(1.0, ge=0)
    weight_decay: float = Field(1e-4, ge=0)


class ReCAM(Method):
    """CAM's model with a second classifier that must tell one present class from all others.

    With M_k the map of class k, positive and divided by its maximum, f_k = mean over positions of M_k times the
    features; each present class k of an image gives a softmax cross-entropy of the second classifier on f_k with
    target k. Maps are read with the product of both classifiers.
    """

    name = "recam"
    cite = "chen2022recam"
    parent = "cam"
    predicts_presence = True
    Params = ReCAMParams

    params: ReCAMParams

    def background_rule(self, family: str) -> str:
        return "fixed:0.21" if family == "cnn" else ""

    def build_from(self, parent: Any, backbone: Any, num_classes: int) -> nn.Module:
        return ReCAMNet(parent.backbone, parent.classifier)

    def phases(self, model: Any) -> list[Phase]:
        p = self.params
        groups = [
            {"params": [*model.backbone.parameters(), *model.classifier.parameters()], "lr": p.lr},
            {"params": list(model.second.parameters()), "lr": p.second_lr},
        ]
        options = {"momentum": 1e-4, "weight_decay": p.weight_decay}  # the authors' optimiser takes one for the other
        return [Phase(p.epochs, groups, "SGD", options, lambda done: (1 - done) ** 0.9)]

    def training_step(self, model: Any, batch: Batch, step: Step) -> dict[str, Tensor]:
        features = model.backbone(batch.images)
        maps = model.classifier(features)
        present = batch.labels[:, 1:]
        return {
            "bce": functional.binary_cross_entropy_with_logits(maps.mean((2, 3)).float(), present),
            "softmax": self.params.weight * reactivation(features, maps, model.second.weight, present),
        }

    def score(self, model: Any, images: Tensor, labels: Tensor | None) -> tuple[Tensor, Tensor]:
        features = model.backbone(images)
        both = model.classifier.weight * model.second.weight
        presence = model.classifier(features).mean((2, 3)).sigmoid()
        return functional.conv2d(features, both).relu(), presence


class ReCAMNet(nn.Module):
    """CAM's backbone and classifier, and a second 1x1 classifier without bias."""

    def __init__(self, backbone: Any, classifier: nn.Conv2d) -> None:
        super().__init__()
        self.backbone, self.classifier = backbone, classifier
        self.second = nn.Conv2d(classifier.in_channels, classifier.out_channels, 1, bias=False)


def reactivation(features: Tensor, maps: Tensor, second: Tensor, present: Tensor) -> Tensor:
    """Return the softmax loss: the mean over the classes of each image, summed over images, by the batch's size.

    Parameters
    ----------
    features : Tensor
        (B, D, h, w); the gradient flows through these and through the maps.
    maps : Tensor
        (B, K, h, w) logits of CAM.
    second : Tensor
        (K, D, 1, 1) weights of the second classifier.
    present : Tensor
        (B, K) image labels; an image without one counts 0.
    """
    positive = maps.relu()
    normal = positive / (positive.amax((2, 3), keepdim=True) + 1e-5)
    pooled = (normal.flatten(2) @ features.flatten(2).transpose(1, 2)) / features[0, 0].numel()  # (B, K, D)
    chances = (pooled @ second.flatten(1).T).float().log_softmax(-1)  # (B, K of the feature, K)
    losses = -chances.diagonal(dim1=1, dim2=2) * present
    return (losses.sum(1) / present.sum(1).clamp(min=1)).sum() / len(features)
