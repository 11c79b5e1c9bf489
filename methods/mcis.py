"""MCIS (Sun et al., ECCV 2020): what two images share, and what only one shows, by co-attention between them."""

from __future__ import annotations

from typing import Any

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional

from harness import Augment, Batch, Method, Phase, Step, TrainParams


class MCISParams(TrainParams):
    """Settings of MCIS; the defaults are those of the authors' code, GuoleiSun/MCIS_wsss.

    Attributes
    ----------
    width : int
        Channels of the layers behind the backbone.
    scales : tuple of float
        Other sizes of an image that it is paired with, beside its mirror, in training and when it is scored.
    contrast_from : float
        Share of the training after which what an image does not share is asked for too.
    head_lr_factor, momentum, weight_decay : float
    jitter : float
        By which share brightness, contrast and saturation change; the hue by a third of it.
    trusted : float
        When an image is scored, maps of its own views count for classes that they show with at least this probability.
    """

    image_size: int = Field(256, ge=32)
    epochs: int = Field(15, ge=0)
    batch_size: int = Field(10, ge=2)
    lr: float = Field(1e-3, gt=0)
    width: int = Field(512, ge=1)
    scales: tuple[float, ...] = (0.75, 2.0)
    contrast_from: float = Field(2 / 15, ge=0, le=1)
    head_lr_factor: float = Field(10.0, gt=0)
    momentum: float = Field(0.9, ge=0, lt=1)
    weight_decay: float = Field(5e-4, ge=0)
    jitter: float = Field(0.3, ge=0, le=1)
    trusted: float = Field(0.1, ge=0, le=1)


class MCIS(Method):
    """A classifier over pairs: features of an image, rebuilt from its partner's, must show the classes of both.

    The features that this leaves over must show the classes that only the image has. An image is paired with one that
    shares a class, with its own mirror and with itself in other sizes; it is scored by the last three.
    """

    name = "mcis"
    cite = "sun2020mcis"
    predicts_presence = True
    Params = MCISParams

    params: MCISParams

    def background_rule(self, family: str) -> str:
        return "fixed:0.3"

    def build(self, backbone: Any, num_classes: int) -> nn.Module:
        return MCISNet(backbone, num_classes - 1, self.params.width)

    def phases(self, model: Any) -> list[Phase]:
        p = self.params
        groups = [
            {"params": list(model.backbone.parameters()), "lr": p.lr},
            {"params": model.new_parameters(), "lr": p.lr * p.head_lr_factor},
        ]
        options = {"momentum": p.momentum, "weight_decay": p.weight_decay, "nesterov": True}
        colours = (p.jitter, p.jitter, p.jitter, p.jitter / 3)
        drawn = Augment(p.image_size, "squash", flip=0.5, jitter=colours)
        return [Phase(p.epochs, groups, "SGD", options, falling, drawn, pairs=True)]

    def training_step(self, model: Any, batch: Batch, step: Step) -> dict[str, Tensor]:
        half = len(batch.ids) // 2
        first, second = batch.labels[:, 1:].split([half, len(batch.ids) - half])
        own = model.features(batch.images)
        losses = pair_losses(model, own[:half], own[half:], first, second)
        if step.iteration >= self.params.contrast_from * step.total:
            losses["contrast"] = contrast_loss(model, own[:half], own[half:], first, second)
        for name, view in self._views(batch.images[:half]).items():
            found = pair_losses(model, own[:half], model.features(view), first, first)
            losses |= {f"{kind}_{name}": loss for kind, loss in found.items()}
        return losses

    def _views(self, images: Tensor) -> dict[str, Tensor]:
        """Return an image's own views by name: its mirror, and other sizes."""
        views = {"mirror": images.flip(3)}
        for scale in self.params.scales:
            sides = [max(32, round(scale * side)) for side in images.shape[-2:]]
            views[f"{scale:g}"] = functional.interpolate(images, sides, mode="bilinear")
        return views

    def score(self, model: Any, images: Tensor, labels: Tensor | None) -> tuple[Tensor, Tensor]:
        own = model.features(images)
        total, grid = torch.zeros_like(model.shared(own)), own.shape[-2:]
        for number, view in enumerate(self._views(images).values()):
            other = model.features(view)
            for maps in (model.rebuilt(own, other), *([model.rebuilt(other, own).flip(3)] if number == 0 else [])):
                shown = model.shared(maps)
                if number:
                    shown = shown * (shown.mean((2, 3), keepdim=True).sigmoid() > self.params.trusted)
                positive = functional.interpolate(shown.relu(), grid, mode="bilinear")
                total = total + positive / positive.amax((2, 3), keepdim=True).clamp(min=1e-5)
        return total, model.classifier(own).mean((2, 3)).sigmoid()


class MCISNet(nn.Module):
    """A backbone, three convolutions, a classifier of single images and one of what pairs share."""

    def __init__(self, backbone: Any, classes: int, width: int) -> None:
        super().__init__()
        self.backbone = backbone
        self.neck = nn.Sequential(
            nn.Conv2d(backbone.dim, width, 3, padding=1), nn.ReLU(),
            nn.Conv2d(width, width, 3, padding=1), nn.ReLU(),
            nn.Conv2d(width, width, 3, padding=1), nn.ReLU(),
        )  # fmt: skip
        self.classifier = nn.Conv2d(width, classes, 1)
        self.likeness = nn.Linear(width, width, bias=False)
        self.shared = nn.Conv2d(width, classes, 1, bias=False)
        self.gate = nn.Conv2d(width, 1, 1)

    def new_parameters(self) -> list[nn.Parameter]:
        """Return the parameters outside the backbone."""
        return [q for name, q in self.named_parameters() if not name.startswith("backbone.")]

    def features(self, images: Tensor) -> Tensor:
        """Return (B, width, h, w) features of (B, 3, H, W) images."""
        features: Tensor = self.neck(self.backbone(images))
        return features

    def rebuilt(self, own: Tensor, other: Tensor) -> Tensor:
        """Return (B, D, h, w): each place of the first as a mean over places of the second, by how like it they are."""
        queries = self.likeness(own.flatten(2).transpose(1, 2))
        return attended(queries, other).transpose(1, 2).unflatten(2, own.shape[-2:])


def attended(queries: Tensor, other: Tensor) -> Tensor:
    """Return (B, n, D) means of (B, D, h, w) features over places, weighted by the softmax of their product."""
    places = other.flatten(2)
    return (queries @ places).softmax(2) @ places.transpose(1, 2)


def pair_losses(model: Any, own: Tensor, other: Tensor, labels: Tensor, other_labels: Tensor) -> dict[str, Tensor]:
    """Return what both images show by themselves, and what they share.

    Parameters
    ----------
    own, other : Tensor
        (B, D, h, w) and (B, D, h2, w2) features.
    labels, other_labels : Tensor
        (B, K).
    """
    both = labels * other_labels
    alone = margin(model.classifier(own), labels) + margin(model.classifier(other), other_labels)
    shared = [margin(model.shared(model.rebuilt(*pair)), both) for pair in ((own, other), (other, own))]
    return {"cls": alone / 2, "co": (shared[0] + shared[1]) / 2}


def contrast_loss(model: Any, own: Tensor, other: Tensor, labels: Tensor, other_labels: Tensor) -> Tensor:
    """Return what each image shows that the other does not, of features less what they share; 0 if there is none."""
    left = [labels * (1 - other_labels), other_labels * (1 - labels)]
    costs = []
    for pair, wanted in zip(((own, other), (other, own)), left, strict=True):
        kept = 1 - model.gate(model.rebuilt(*pair)).sigmoid()
        costs.append(margin(model.shared(pair[0] * kept), wanted))
    return torch.stack(costs).sum() * torch.stack(left).any()


def margin(maps: Tensor, labels: Tensor) -> Tensor:
    """Return the multi-label soft margin of (B, K, h, w) maps, averaged over places, and (B, K) labels."""
    return functional.binary_cross_entropy_with_logits(maps.mean((2, 3)).float(), labels)


def falling(done: float) -> float:
    """Return the factor on the learning rate: a tenth from a third of the training on, a hundredth from two thirds."""
    return 0.1 ** int(3 * done)
