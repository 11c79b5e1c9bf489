"""SC-CAM (Chang et al., CVPR 2020): a CAM that must also tell sub-classes, found by clustering features; in rounds."""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import partial
from typing import Annotated, Any

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional

from harness import Augment, Batch, Method, Phase, Step, TrainingData, TrainParams
from harness.kmeans import lloyd, spread_start


class SCCAMParams(TrainParams):
    """Settings of SC-CAM; the defaults are those of the authors' code, Juliachang/SC-CAM.

    Attributes
    ----------
    image_size : int
        Side of the crop; the long side of an image is drawn from 8/7 to 16/7 of it: 256 to 512.
    epochs : int
        Over which the learning rate of a round falls to 0; no round gets so far.
    shares : tuple of float
        How much of these a round takes, for each round: 31, 41 and 51 epochs of 61.
    head_lr_factor : float
        The classifiers learn this much faster than the backbone.
    weight_decay : float
        The momentum too: the authors' optimiser takes one for the other.
    sub_classes : int
        Of each class; fewer for a class with fewer images.
    weight : float
        Of the loss of the sub-classes.
    dropout : float
        Share of the channels that the classifiers do not see in training.
    clustered_at : float
        Side to which an image is squashed to be clustered, as a multiple of the crop's.
    """

    image_size: int = Field(224, ge=16)
    epochs: int = Field(61, ge=0)
    batch_size: int = Field(16, ge=1)
    lr: float = Field(0.01, gt=0)
    shares: tuple[Annotated[float, Field(gt=0, le=1)], ...] = Field((0.508, 0.672, 0.836), min_length=1)
    head_lr_factor: float = Field(10.0, gt=0)
    weight_decay: float = Field(5e-4, ge=0)
    sub_classes: int = Field(10, ge=1)
    weight: float = Field(5.0, ge=0)
    dropout: float = Field(0.5, ge=0, lt=1)
    clustered_at: float = Field(2.0, gt=0)


class SCCAM(Method):
    """CAM with a second classifier for the sub-classes of each class: what K-means parts among its images.

    Before each round the images of a class are clustered by the mean feature of the model so far, first of CAM's; then
    the training begins anew from the backbone's start weights. The maps are those of the classes.
    """

    name = "sccam"
    cite = "chang2020sccam"
    parent = "cam"
    predicts_presence = True
    Params = SCCAMParams

    params: SCCAMParams

    def background_rule(self, family: str) -> str:
        return "fixed:0.15" if family == "cnn" else ""

    def build_from(self, parent: Any, backbone: Any, num_classes: int) -> nn.Module:
        model = SCCAMNet(backbone, num_classes - 1, self.params.sub_classes)
        model.backbone.load_state_dict(parent.backbone.state_dict())
        return model

    def phases(self, model: Any) -> list[Phase]:
        p = self.params
        heads = [*model.classifier.parameters(), *model.sub_classifier.parameters()]
        options = {"momentum": p.weight_decay, "weight_decay": p.weight_decay}
        sides = (8 / 7 * p.image_size, 16 / 7 * p.image_size)
        augment = Augment(p.image_size, "long_side", sides, flip=0.5, jitter=(0.3, 0.3, 0.3, 0.1))

        def round_of(length: int) -> Phase:
            groups = [
                {"params": list(model.backbone.parameters()), "lr": p.lr},
                {"params": heads, "lr": p.lr * p.head_lr_factor},
            ]
            falling = partial(_falling, length / max(1, p.epochs))
            return Phase(length, groups, "SGD", options, falling, augment)

        return [round_of(round(share * p.epochs)) for share in p.shares]

    def start_phase(self, model: Any, data: TrainingData, phase: int) -> None:
        side, device = round(self.params.clustered_at * self.params.image_size), model.classifier.weight.device
        model.eval()
        with torch.no_grad():
            means = [
                model.backbone(batch.images.to(device)).mean((2, 3)).double().cpu()
                for batch in data.in_order(side, self.params.batch_size)
            ]
        found = clustered(torch.cat(means), data.labels[:, 1:].cpu(), self.params.sub_classes)
        model.load_state_dict(model.start)
        model.sub_labels.shown = {name: row.nonzero()[:, 0].tolist() for name, row in zip(data.ids, found, strict=True)}

    def training_step(self, model: Any, batch: Batch, step: Step) -> dict[str, Tensor]:
        means = functional.dropout(model.backbone(batch.images).mean((2, 3)), self.params.dropout)[:, :, None, None]
        logits, sub_logits = model.classifier(means).flatten(1), model.sub_classifier(means).flatten(1)
        sub_labels = model.sub_labels(batch.ids, sub_logits.shape[1]).to(batch.labels)
        entropy = functional.binary_cross_entropy_with_logits
        return {
            "classes": entropy(logits.float(), batch.labels[:, 1:]),
            "sub_classes": self.params.weight * entropy(sub_logits.float(), sub_labels),
        }

    def score(self, model: Any, images: Tensor, labels: Tensor | None) -> tuple[Tensor, Tensor]:
        maps = model.classifier(model.backbone(images))
        return maps.relu(), maps.mean((2, 3)).sigmoid()


class SCCAMNet(nn.Module):
    """A backbone, two 1x1 classifiers without bias, the sub-labels, and the state in which each round starts."""

    def __init__(self, backbone: Any, classes: int, sub_classes: int) -> None:
        super().__init__()
        self.backbone = backbone
        self.classifier = nn.Conv2d(backbone.dim, classes, 1, bias=False)
        self.sub_classifier = nn.Conv2d(backbone.dim, classes * sub_classes, 1, bias=False)
        for classifier in (self.classifier, self.sub_classifier):
            nn.init.xavier_uniform_(classifier.weight)
        self.sub_labels = SubLabels()
        self.start = {name: value.clone() for name, value in self.state_dict().items()}


class SubLabels(nn.Module):
    """Which sub-classes each image shows, by its id; a part of the model's state, as text in bytes."""

    def __init__(self) -> None:
        super().__init__()
        self.shown: dict[str, list[int]] = {}

    def forward(self, ids: Sequence[str], count: int) -> Tensor:
        """Return (B, count) multi-hot sub-labels; zeros for an image that was not clustered."""
        rows = torch.zeros(len(ids), count)
        for row, name in zip(rows, ids, strict=True):
            row[self.shown.get(name, [])] = 1
        return rows

    def get_extra_state(self) -> Tensor:
        """Return the text."""
        return torch.tensor(list(json.dumps(self.shown).encode()), dtype=torch.uint8)

    def set_extra_state(self, state: Tensor) -> None:
        """Read the text."""
        self.shown = json.loads(bytes(state.tolist()))


def clustered(features: Tensor, present: Tensor, sub_classes: int) -> Tensor:
    """Return (N, K * sub_classes) multi-hot sub-labels of images, those of the first class first.

    Parameters
    ----------
    features : Tensor
        (N, D) on a CPU.
    present : Tensor
        (N, K) image labels.
    sub_classes : int
        Clusters of each class, or as many as it has images.
    """
    found = torch.zeros(*present.shape, sub_classes)
    for number in range(present.shape[1]):
        rows = present[:, number].nonzero()[:, 0]
        if len(rows):
            own = features[rows]
            _, nearest = lloyd(own, spread_start(own, min(sub_classes, len(rows))))
            found[rows, number, nearest] = 1
    return found.flatten(1)


def _falling(share: float, done: float) -> float:
    """Return the factor on the learning rate of a round that takes a share of the epochs."""
    return float((1 - share * done) ** 0.9)
