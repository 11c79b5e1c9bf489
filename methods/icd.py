"""ICD (Fan et al., CVPR 2020): a direction in feature space for each class parts it from its background."""

from __future__ import annotations

import math
from typing import Any

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional

from harness import Augment, Batch, Method, Phase, Step, TrainParams


class ICDParams(TrainParams):
    """Settings of ICD; the defaults are those of the authors' code, js-fan/ICD.

    Attributes
    ----------
    width : int
        Channels of the layers before the classifiers.
    bottom_up : float
        Weight of the variance along a class's direction.
    ignored : float
        Scores within this share of the largest one on their side of 0 teach nothing.
    warmup : float
        Share of the training in which what the directions teach the features fades in.
    follow : float
        How much of the average map on either side of a direction stays from step to step.
    head_lr_factor, momentum, weight_decay : float
    """

    image_size: int = Field(321, ge=32)
    epochs: int = Field(20, ge=0)
    batch_size: int = Field(32, ge=1)
    lr: float = Field(1e-3, gt=0)
    width: int = Field(1024, ge=1)
    bottom_up: float = Field(10.0, ge=0)
    ignored: float = Field(0.2, ge=0, lt=1)
    warmup: float = Field(0.1, ge=0, le=1)
    follow: float = Field(0.9, ge=0, lt=1)
    head_lr_factor: float = Field(10.0, gt=0)
    momentum: float = Field(0.9, ge=0, lt=1)
    weight_decay: float = Field(5e-4, ge=0)


class ICD(Method):
    """For each class the direction in which features of its images vary most parts the object from what is around it.

    Directions are learned on images of one class alone; CAM says which side of them the object is on. A head of its own
    learns the sides, trains the features by them, and is scored.
    """

    name = "icd"
    cite = "fan2020icd"
    predicts_presence = True
    Params = ICDParams

    params: ICDParams

    def background_rule(self, family: str) -> str:
        return "fixed:0.00001"

    def build(self, backbone: Any, num_classes: int) -> nn.Module:
        return ICDNet(backbone, num_classes - 1, self.params.width)

    def phases(self, model: Any) -> list[Phase]:
        p = self.params
        groups = [
            {"params": list(model.backbone.parameters()), "lr": p.lr},
            {"params": model.new_parameters(), "lr": p.lr * p.head_lr_factor},
        ]
        options = {"momentum": p.momentum, "weight_decay": p.weight_decay}
        drawn = Augment(p.image_size, "scale", (0.5, 1.5), 0.5)
        return [Phase(p.epochs, groups, "SGD", options, lambda done: (1 - done) ** 0.9, drawn)]

    def training_step(self, model: Any, batch: Batch, step: Step) -> dict[str, Tensor]:
        p, present = self.params, batch.labels[:, 1:]
        features = model.backbone(batch.images)
        maps = model.classifier(model.branch(features))
        dense = model.normed(features)
        scores = model.along(dense.detach().float())
        with torch.no_grad():
            model.watch(scores, maps.float().relu(), present, p.follow)
            wanted = agreed(scores * model.signs[:, None, None], present)
        classified = functional.binary_cross_entropy_with_logits(maps.mean((2, 3)).float(), present, reduction="sum")
        taught = side_loss(model.head(dense).float(), wanted, present, p.ignored)
        return {
            "cam": classified / len(present),
            "bottom_up": spread_loss(scores, present, p.bottom_up),
            "top_down": fading_in(step.iteration / step.total, p.warmup) * taught,
        }

    def score(self, model: Any, images: Tensor, labels: Tensor | None) -> tuple[Tensor, Tensor]:
        features = model.backbone(images)
        sides = [min(4 * own, side) for own, side in zip(features.shape[-2:], images.shape[-2:], strict=True)]
        scores = functional.interpolate(model.head(model.normed(features)).float(), sides, mode="bilinear")
        return scores.relu(), model.classifier(model.branch(features)).mean((2, 3)).sigmoid()


class ICDNet(nn.Module):
    """A backbone with CAM's branch, a direction for each class, the side of it that is the object, and a head."""

    averages: Tensor

    def __init__(self, backbone: Any, classes: int, width: int) -> None:
        super().__init__()
        self.backbone = backbone
        dim = backbone.dim
        self.branch = nn.Sequential(
            nn.Conv2d(dim, width, 3, padding=1), nn.ReLU(), nn.Conv2d(width, width, 1), nn.ReLU(), nn.Dropout(0.5)
        )
        self.classifier = nn.Conv2d(width, classes, 1)
        self.shift = nn.BatchNorm2d(dim)
        self.shift.weight.requires_grad_(False)  # its gain is 1, and stays
        self.directions = nn.Parameter(torch.randn(classes, dim))
        self.near, self.far = nn.Conv2d(dim, width, 3, padding=1), nn.Conv2d(width, width, 1)
        self.near.load_state_dict(self.branch[0].state_dict())
        self.far.load_state_dict(self.branch[2].state_dict())
        self.sides = nn.Conv2d(dim + 2 * width, classes, 1, bias=False)
        self.register_buffer("averages", torch.zeros(2, classes))

    def new_parameters(self) -> list[nn.Parameter]:
        """Return the parameters outside the backbone that learn."""
        return [q for n, q in self.named_parameters() if not n.startswith("backbone.") and n != "shift.weight"]

    @property
    def signs(self) -> Tensor:
        """(K,) 1 where a class's map is larger where its direction points to, else -1."""
        positive, negative = self.averages
        return torch.where(positive < negative, -1.0, 1.0)

    def normed(self, features: Tensor) -> Tensor:
        """Return features without their mean and deviation over the batch."""
        found: Tensor = self.shift(features)
        return found

    def along(self, features: Tensor) -> Tensor:
        """Return (B, K, h, w): how far features lie in each class's direction."""
        return torch.einsum("bdhw,kd->bkhw", features, functional.normalize(self.directions, dim=1))

    def head(self, features: Tensor) -> Tensor:
        """Return (B, K, h, w) logits of being on the object's side."""
        near = self.near(features).relu()
        found: Tensor = self.sides(torch.cat([features, near, self.far(near).relu()], 1))
        return found

    def watch(self, scores: Tensor, maps: Tensor, present: Tensor, follow: float) -> None:
        """Follow the mean of maps on both sides of the directions of classes that a batch shows."""
        there = present[:, :, None, None] > 0
        for average, side in zip(self.averages, (scores > 0, scores < 0), strict=True):
            count = (side & there).sum((0, 2, 3))
            mean = (maps * (side & there)).sum((0, 2, 3)) / count.clamp(min=1)
            average.copy_(torch.where(count > 0, follow * average + (1 - follow) * mean, average))


def spread_loss(scores: Tensor, present: Tensor, weight: float) -> Tensor:
    """Return minus half the weighted mean square of scores of images that show one class alone; 0 if there is none.

    Parameters
    ----------
    scores : Tensor
        (B, K, h, w), with gradient to the directions alone.
    present : Tensor
        (B, K).
    weight : float
    """
    single = present * (present.sum(1, keepdim=True) == 1)
    means = scores.square().mean((2, 3))
    return -weight / 2 * (means * single).sum() / single.sum().clamp(min=1)


def agreed(scores: Tensor, present: Tensor) -> Tensor:
    """Return scores in which each place is on the object's side of one present class at most, its best one."""
    there = present[:, :, None, None] > 0
    best = torch.where(there, scores, -math.inf).amax(1, keepdim=True)
    return torch.where(scores == best, scores, scores.clamp(max=0)) * there


def side_loss(logits: Tensor, wanted: Tensor, present: Tensor, ignored: float) -> Tensor:
    """Return the cross-entropy with the sides of clear scores of present classes, a mean over places and images.

    A score is clear if it is more than `ignored` of the largest one on its side, of its image and class.
    """
    highest = wanted.clamp(min=0).amax((2, 3), keepdim=True).clamp(min=1e-7)
    lowest = (-wanted).clamp(min=0).amax((2, 3), keepdim=True).clamp(min=1e-7)
    share = torch.where(wanted > 0, wanted / highest, -wanted / lowest)
    costs = functional.binary_cross_entropy_with_logits(logits, (wanted > 0).float(), reduction="none")
    return (costs * (share > ignored) * present[:, :, None, None]).sum() / (len(logits) * logits[0, 0].numel())


def fading_in(done: float, warmup: float) -> float:
    """Return the factor on what the directions teach: exp(-10) at first, 1 after the warm-up."""
    return math.exp(-10 * (1 - done / warmup)) if done < warmup else 1.0
