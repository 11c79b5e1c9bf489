"""W-OoD (Lee et al., CVPR 2022): images without any class teach a CAM what to leave out."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional
from wsss_methods.cam import CAMNet
from wsss_methods.field import FieldMethod, FieldParams, classification, mean_padded

from harness import Batch, Folder, Phase, RunSpec, Step, TrainingData
from harness.kmeans import lloyd


class WOoDParams(FieldParams):
    """Settings of W-OoD; the defaults are those of the authors' code, naver-ai/w-ood.

    Attributes
    ----------
    ood : Folder or None
        Images that show no class of the dataset and look as if they did. Given by `--input`.
    detached : int
        The first stages or blocks that are not trained.
    clusters : int
        Of features of those images.
    distance, negative : float
        Weights of the loss on distances, and of that on those images.
    nearest : float
        Share of the distances to clusters that are made larger, the smallest ones.
    attack : float
        How far those images are moved towards the classes that they are taken for, in normalised units.
    exempt : tuple of int
        Classes, from 0, that such an image may be taken for without a loss; the authors' code has bottle, 4.
    """

    image_size: int = Field(512, ge=32)
    batch_size: int = Field(16, ge=1)
    epochs: int = Field(5, ge=0)
    lr: float = Field(0.1, gt=0)
    ood: Folder | None = None
    detached: int = Field(3, ge=0)
    clusters: int = Field(50, ge=1)
    distance: float = Field(0.007, ge=0)
    negative: float = Field(0.25, ge=0)
    nearest: float = Field(0.2, gt=0, le=1)
    attack: float = Field(0.07, ge=0)
    exempt: tuple[int, ...] = ()


class WOoD(FieldMethod):
    """CAM's model trains on, with as many images that show no class: it should see nothing there, even after an attack.

    Mean features of images should be near the centres of their classes, and far from the nearest clusters of images
    without a class. Centres and clusters are those of CAM's features, found once.
    """

    name = "wood"
    cite = "lee2022wood"
    parent = "cam"
    supervision = ("image_labels", "images_without_classes")
    predicts_presence = True
    Params = WOoDParams

    params: WOoDParams
    _seed: int | None = None  # of the epoch that `_others` is of
    _others: Iterator[Batch]

    @classmethod
    def skip(cls, spec: RunSpec) -> str | None:
        given = Folder.parse(spec.params["ood"]) if spec.params["ood"] else None
        if given is None:
            return "needs images without any class of the dataset: --input ood=FOLDER"
        count, clusters = len(given.files()), spec.params["clusters"]
        return f"{given.name} has {count} images, fewer than the {clusters} clusters" if count < clusters else None

    def background_rule(self, family: str) -> str:
        return "fixed:0.15" if family == "cnn" else ""

    def build_from(self, parent: Any, backbone: Any, num_classes: int) -> nn.Module:
        backbone.freeze_norms()
        model = WOoDNet(backbone, num_classes - 1, self.params.clusters)
        model.load_state_dict(parent.state_dict(), strict=False)
        return model

    def phases(self, model: Any) -> list[Phase]:
        p = self.params
        return [self.sgd(p.epochs, model.backbone.parameters_from(p.detached), model.classifier.parameters())]

    def start_phase(self, model: Any, data: TrainingData, phase: int) -> None:
        p, device = self.params, model.classifier.weight.device
        model.eval()

        def means(images: TrainingData) -> Tensor:
            found = [model.pooled(batch.images.to(device)) for batch in images.in_order(p.image_size, p.batch_size)]
            return torch.cat(found)

        with torch.no_grad():
            own, others = means(data), means(self._other_images(str(device)))
        labels = data.labels[:, 1:].to(own)
        model.centres.copy_(labels.T @ own / labels.sum(0).clamp(min=1)[:, None])
        model.clusters.copy_(lloyd(others.cpu(), others[: p.clusters].cpu(), iterations=10)[0])

    def training_step(self, model: Any, batch: Batch, step: Step) -> dict[str, Tensor]:
        p, images = self.params, mean_padded(batch, model.backbone)
        features = model.backbone(images)
        pushed = attacked(model, self._next_others(model, batch), p.attack)
        logits = model(pushed).mean((2, 3)).float()
        taken_for = torch.isin(logits.argmax(1), torch.tensor(p.exempt, device=logits.device))
        costs = functional.binary_cross_entropy_with_logits(logits, torch.zeros_like(logits), reduction="none").mean(1)
        pooled = features.mean((2, 3)).float()
        return {
            "bce": classification(model.classifier(features), batch.labels[:, 1:]),
            "distance": p.distance * distances(pooled, batch.labels[:, 1:], model.centres, model.clusters, p.nearest),
            "negative": p.negative * (costs * ~taken_for).mean(),
        }

    def _other_images(self, device: str) -> TrainingData:
        assert self.params.ood
        files = self.params.ood.files()
        return TrainingData([*files], torch.zeros(len(files), 1), [*files.values()], device=device, room=1 << 28)

    def _next_others(self, model: Any, batch: Batch) -> Tensor:
        """Return as many images without a class, drawn as a batch is; a new order begins with every epoch."""
        if torch.initial_seed() != self._seed:
            (phase,) = self.phases(model)
            self._seed = torch.initial_seed()
            self._others = self._endless(str(batch.images.device), phase.augment, len(batch.ids))
        return mean_padded(next(self._others), model.backbone)

    def _endless(self, device: str, augment: Any, count: int) -> Iterator[Batch]:
        others = self._other_images(device)
        while True:
            yield from others.batches(augment, count, int(torch.randint(2**31, ())))

    def score(self, model: Any, images: Tensor, labels: Tensor | None) -> tuple[Tensor, Tensor]:
        maps = model(images)
        return maps.relu(), maps.mean((2, 3)).sigmoid()


class WOoDNet(CAMNet):
    """CAM's model with the centres of its classes, and of images without a class."""

    centres: Tensor
    clusters: Tensor

    def __init__(self, backbone: Any, classes: int, clusters: int) -> None:
        super().__init__(backbone, classes)
        self.register_buffer("centres", torch.zeros(classes, backbone.dim))
        self.register_buffer("clusters", torch.zeros(clusters, backbone.dim))

    def pooled(self, images: Tensor) -> Tensor:
        """Return (B, D) mean features of images."""
        return self.backbone(images).mean((2, 3)).float()


def distances(features: Tensor, labels: Tensor, centres: Tensor, clusters: Tensor, nearest: float) -> Tensor:
    """Return how far features are from the centres of their classes, less how far from the nearest clusters.

    Parameters
    ----------
    features, centres, clusters : Tensor
        (B, D), (K, D) and (C, D).
    labels : Tensor
        (B, K).
    nearest : float
        The share of the B * C distances to clusters that counts.
    """
    return distance_loss(far(features, centres), labels, far(features, clusters), nearest)


def distance_loss(own: Tensor, labels: Tensor, other: Tensor, nearest: float) -> Tensor:
    """Return the loss of (B, K) distances to classes and (B, C) to clusters, as the authors weigh them."""
    flat = other.flatten()
    limit = flat.topk(max(1, int((1 - nearest) * len(flat)))).values[-1]
    pulled = (own * labels).mean() * own.shape[1] / other.shape[1]
    return pulled - (other * (other < limit)).mean()


def far(points: Tensor, centres: Tensor) -> Tensor:
    """Return (B, K) distances with a gradient of length 1, and of 0 at a centre."""
    squares = (points[:, None] - centres).square().sum(2)
    return torch.where(squares > 0, squares, 1).sqrt() * (squares > 0)


def attacked(model: Any, images: Tensor, size: float) -> Tensor:
    """Return images a step of a size, in normalised units, towards the class that each is taken for."""
    std, mean = model.backbone.std, model.backbone.mean
    with torch.enable_grad():
        moved = ((images - mean) / std).detach().requires_grad_()
        highest = model(moved * std + mean).mean((2, 3)).amax(1).sum()
        (gradient,) = torch.autograd.grad(highest, moved)
    return step_along(moved.detach(), gradient, size) * std + mean


def step_along(images: Tensor, gradient: Tensor, size: float) -> Tensor:
    """Return images moved along a gradient whose largest value counts as 1, inside their range."""
    moved = images + size * gradient / gradient.abs().max().clamp(min=1e-12)
    return moved.clamp(images.min(), images.max())
