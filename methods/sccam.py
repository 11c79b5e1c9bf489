"""SC-CAM (Chang et al., CVPR 2020): a classifier that must tell clusters of each class apart sees more of it."""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, ClassVar

import torch
from pydantic import Field
from torch import Tensor, nn
from wsss_methods.field import FieldMethod, FieldParams, classification, mean_padded, poly
from wsss_methods.kmeans import kmeans

from harness import Batch, Phase, Step


class SCCAMParams(FieldParams):
    """Settings of SC-CAM; the defaults are those of the authors' code, Juliachang/SC-CAM.

    Attributes
    ----------
    rounds : int
        Trainings, each of which learns the clusters that the one before makes.
    epochs : int
        Of each round.
    share : float
        How much of its fall the learning rate has done when a round ends: the authors take epoch 30, 40 and 50 of 61.
    clusters : int
        Of each class.
    weight : float
        Of the loss over clusters.
    """

    image_size: int = Field(224, ge=32)
    shortest: int = Field(256, ge=16)
    longest: int = Field(512, ge=16)
    jitter: float = Field(0.3, ge=0, le=1)
    batch_size: int = Field(16, ge=1)
    rounds: int = Field(3, ge=1)
    epochs: int = Field(41, ge=0)
    share: float = Field(0.67, gt=0, le=1)
    lr: float = Field(0.01, gt=0)
    weight_decay: float = Field(5e-4, ge=0)
    clusters: int = Field(10, ge=1)
    weight: float = Field(5.0, ge=0)
    dropout: float = Field(0.5, ge=0, lt=1)


class SCCAM(FieldMethod):
    """In each round images of a class are clustered by their features, and a second classifier learns the clusters.

    The first round's features are those of CAM's trained model. Every round starts from the backbone's first weights.
    An image of two classes has a cluster of each. Maps are those of the classes, not of the clusters.
    """

    name = "sccam"
    cite = "chang2020sccam"
    parent = "cam"
    predicts_presence = True
    check_settings: ClassVar[Mapping[str, Any]] = {"rounds": 2, "clusters": 2, "batch_size": 4}
    Params = SCCAMParams

    params: SCCAMParams

    def background_rule(self, family: str) -> str:
        return "fixed:0.15"

    def build_from(self, parent: Any, backbone: Any, num_classes: int) -> nn.Module:
        backbone.freeze_norms()
        return SCCAMNet(backbone, parent.backbone, num_classes - 1, self.params.clusters, self.params.dropout)

    def phases(self, model: Any) -> list[Phase]:
        p = self.params
        once = self.sgd(p.epochs, model.backbone.parameters(), model.heads.parameters())
        return [replace(once, schedule=lambda done: poly(p.share * done)) for _ in range(p.rounds)]

    def start_phase(self, model: Any, data: Any, phase: int) -> None:
        model.eval()
        seen = model.before if phase == 0 else model.backbone
        device = next(model.parameters()).device
        with torch.no_grad():
            size = self.params.image_size
            pooled = [seen(batch.images.to(device)).mean((2, 3)).float().cpu() for batch in data.in_order(size, 16)]
        found = sub_labels(torch.cat(pooled), data.labels[:, 1:], self.params.clusters)
        model.remember(data.ids, found.to(device))
        model.reset()

    def training_step(self, model: Any, batch: Batch, step: Step) -> dict[str, Tensor]:
        maps, parts = model(mean_padded(batch, model.backbone))
        found = model.recalled(batch.ids)
        cls, sub = classification(maps, batch.labels[:, 1:]), classification(parts, found)
        return {"cls": cls, "sub": self.params.weight * sub}

    def score(self, model: Any, images: Tensor, labels: Tensor | None) -> tuple[Tensor, Tensor]:
        maps, _ = model(images)
        return maps.relu(), maps.mean((2, 3)).sigmoid()


class SCCAMNet(nn.Module):
    """Two classifiers over positions, of classes and of their clusters; and the clusters of each training image."""

    keys: Tensor
    found: Tensor

    def __init__(self, backbone: Any, before: nn.Module, classes: int, clusters: int, dropout: float) -> None:
        super().__init__()
        self.backbone, self.before = backbone, before
        self.dropout = nn.Dropout2d(dropout)
        widths = classes, classes * clusters
        self.heads = nn.ModuleList(nn.Conv2d(backbone.dim, width, 1, bias=False) for width in widths)
        for head in self.heads:
            nn.init.xavier_uniform_(head.weight)  # type: ignore[arg-type]
        self._first = copy.deepcopy({"backbone": backbone.state_dict(), "heads": self.heads.state_dict()})
        self.register_buffer("keys", torch.zeros(0, dtype=torch.int64))
        self.register_buffer("found", torch.zeros(0, classes * clusters))
        self.register_load_state_dict_pre_hook(_as_many_images)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Return (B, K, h, w) maps of classes, and (B, K * clusters, h, w) of clusters, of (B, 3, H, W) images."""
        features = self.dropout(self.backbone(images))
        return self.heads[0](features), self.heads[1](features)

    def reset(self) -> None:
        """Start again from the first weights."""
        self.backbone.load_state_dict(self._first["backbone"])
        self.heads.load_state_dict(self._first["heads"])

    def remember(self, ids: Sequence[str], found: Tensor) -> None:
        """Keep (N, K * clusters) labels of images."""
        keys = torch.tensor([_key(image_id) for image_id in ids], device=found.device)
        self.keys, order = keys.sort()
        self.found = found[order]

    def recalled(self, ids: Sequence[str]) -> Tensor:
        """Return the labels of some images."""
        keys = torch.tensor([_key(image_id) for image_id in ids], device=self.keys.device)
        return self.found[torch.searchsorted(self.keys, keys)]


def _as_many_images(net: SCCAMNet, state: dict[str, Tensor], prefix: str, *_: Any) -> None:
    """Make room for the labels of as many images as a checkpoint has."""
    for name in ("keys", "found"):
        setattr(net, name, torch.zeros_like(state[prefix + name], device=getattr(net, name).device))


def _key(image_id: str) -> int:
    return int.from_bytes(hashlib.sha256(image_id.encode()).digest()[:7], "big")


def sub_labels(features: Tensor, present: Tensor, clusters: int) -> Tensor:
    """Return (N, K * clusters) labels: of each class that an image shows, its cluster among the images that show it.

    Parameters
    ----------
    features : Tensor
        (N, D).
    present : Tensor
        (N, K).
    clusters : int
    """
    found = torch.zeros(len(features), present.shape[1], clusters)
    for number in range(present.shape[1]):
        chosen = present[:, number].nonzero()[:, 0]
        if len(chosen):
            found[chosen, number, kmeans(features[chosen], clusters)[0]] = 1
    return found.flatten(1)
