"""DuPL (Wu et al., CVPR 2024): two students, kept apart, that label each other with ever more trust."""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional
from wsss_methods.single_stage import HalfSize, split_loss, without_padding
from wsss_methods.student import Student, StudentParams, gated_maps, token_contrast, token_labels
from wsss_methods.vitpcm.views import jitter

from harness import Batch, Method, Phase, Step


class DuPLParams(StudentParams):
    """Settings of DuPL; the defaults are those of the authors' code, Wu0409/DuPL, on VOC.

    Attributes
    ----------
    filter_from : float
        Share of the training after which labels are filtered, and unlabelled places must be consistent.
    high_end : float
        What `high` falls to, along a cosine.
    discrepancy, consistency : float
        Weights of the losses on features that become alike, and on unlabelled places.
    suspicious : float
        The least loss of a place of a class that the filter looks at.
    enough : int
        So many such places a step are needed for the filter to look.
    sure : float
        Unlabelled places where a student's own probability is above it are taught by that.
    """

    filter_from: float = Field(0.4, ge=0, le=1)
    high_end: float = Field(0.55, ge=0, le=1)
    segmentation: float = Field(0.2, ge=0)
    discrepancy: float = Field(0.1, ge=0)
    consistency: float = Field(0.05, ge=0)
    suspicious: float = Field(0.1, ge=0)
    enough: int = Field(1000, ge=2)
    sure: float = Field(0.9, ge=0, le=1)


class DuPL(Method):
    """Each of two students learns the masks that the other one's maps give; their features must not become alike.

    More of the maps counts as a class from step to step. Labels that a student finds implausible itself, by a mixture
    of two Gaussians over its losses, are left out; where the other gave none, it must see the same in a changed view.
    The first student's segmentation is scored.
    """

    name = "dupl"
    cite = "wu2024dupl"
    families = ("vit",)
    output = "probability"
    background = True
    predicts_presence = True
    check_settings: ClassVar[Mapping[str, Any]] = {"segment_from": 0.0, "filter_from": 0.0, "enough": 2, "sure": 0.0}
    Params = DuPLParams

    params: DuPLParams

    def build(self, backbone: Any, num_classes: int) -> nn.Module:
        return Pair(backbone, num_classes, self.params.level)

    def phases(self, model: Any) -> list[Phase]:
        own = [q for name, q in model.named_parameters() if "backbone." in name and not name.endswith("pos_embed")]
        return [self.params.phase(own, [q for student in model.students for q in student.new_parameters()])]

    def training_step(self, model: Any, batch: Batch, step: Step) -> dict[str, Tensor]:
        p, present, done = self.params, batch.labels[:, 1:], step.iteration / step.total
        high = p.high_end + (p.high - p.high_end) * (1 + math.cos(math.pi * done)) / 2
        seen = [student(batch.images) for student in model.students]
        maps = [gated_maps(student, batch) for student in model.students]
        grid = seen[0]["dense"].shape[-2:]
        wanted = [token_labels(auxiliary, batch, grid, high, p.low) for _, auxiliary in maps]
        contrasts = [token_contrast(own["dense"].float(), names) for own, names in zip(seen, wanted, strict=True)]
        losses = {
            "cls": _classification([own["logits"] for own in seen], present),
            "aux": _classification([own["auxiliary"] for own in seen], present),
            "tokens": p.tokens * torch.stack(contrasts).sum(),
            "discrepancy": p.discrepancy * likeness(seen[0]["dense"].float(), seen[1]["dense"].float()),
        }
        if done >= p.segment_from:
            refiner = HalfSize(batch)
            labels = [refiner.labels(cams, high, p.low) for cams, _ in maps]
            sides = labels[0].shape[-2:]
            logits = [functional.interpolate(own["segmentation"].float(), sides, mode="bilinear") for own in seen]
            if done >= p.filter_from:
                labels = [self._filtered(*own) for own in zip(logits, labels, strict=True)]
                taught = zip(model.students, logits, reversed(labels), strict=True)
                costs = [self._consistency(student, batch, own, other) for student, own, other in taught]
                losses["consistency"] = p.consistency * torch.stack(costs).sum()
            crossed = [split_loss(own, other) for own, other in zip(logits, reversed(labels), strict=True)]
            losses["segmentation"] = p.segmentation * torch.stack(crossed).sum()
        return losses

    @torch.no_grad()
    def _filtered(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Return a student's labels without those that it finds implausible itself."""
        costs = functional.cross_entropy(logits, labels, ignore_index=255, reduction="none")
        of_class = (labels > 0) & (labels < 255)
        looked_at = of_class & (costs > self.params.suspicious)
        means, deviations, shares = mixture(costs, looked_at)
        apart = (looked_at.sum() > self.params.enough) & (means[1] - means[0] > 1)
        odds = shares.log() - deviations.log() - ((costs[..., None] - means) / deviations) ** 2 / 2
        implausible = apart & of_class & (odds.softmax(-1)[..., 1] > 0.95) & (costs > means[0])
        return labels.masked_fill(implausible, 255)

    def _consistency(self, student: Student, batch: Batch, logits: Tensor, labels: Tensor) -> Tensor:
        """Return the cross-entropy of a recoloured, smaller mirror with a student's own view, where labels are open."""
        with torch.no_grad():
            probability, own = logits.detach().softmax(1).max(1)
            target = own.masked_fill((labels < 255) | (probability <= self.params.sure), 255)
            if batch.valid is not None:
                target = without_padding(target, batch.valid)
            side = [max(32, round(0.75 * side)) for side in batch.images.shape[-2:]]
            view = functional.interpolate(jitter(batch.images).clamp(0, 1), side, mode="bilinear").flip(3)
        other = functional.interpolate(student(view)["segmentation"].float(), target.shape[-2:], mode="bilinear")
        costs = functional.cross_entropy(other, target.flip(2), ignore_index=255, reduction="sum")
        return costs / (target < 255).sum().clamp(min=1)

    def score(self, model: Any, images: Tensor, labels: Tensor | None) -> tuple[Tensor, Tensor]:
        seen = model(images)
        return seen["segmentation"].float().softmax(1), seen["logits"].sigmoid()


class Pair(Student):
    """The first student, with the second one as its partner."""

    def __init__(self, backbone: Any, num_classes: int, level: int) -> None:
        super().__init__(backbone, num_classes, level)
        self.partner = Student(copy.deepcopy(backbone), num_classes, level)

    @property
    def students(self) -> tuple[Student, Student]:
        """Both of them."""
        return self, self.partner


def _classification(logits: list[Tensor], present: Tensor) -> Tensor:
    costs = [functional.binary_cross_entropy_with_logits(own.float(), present) for own in logits]
    return torch.stack(costs).sum()


def likeness(first: Tensor, second: Tensor) -> Tensor:
    """Return 1 + the mean over channels of the cosine over positions, with either side held fixed, added: 0 to 4.

    Parameters
    ----------
    first, second : Tensor
        (B, D, h, w) features.
    """
    one, other = first.flatten(2), second.flatten(2)
    cosines = functional.cosine_similarity(one, other.detach(), 2), functional.cosine_similarity(one.detach(), other, 2)
    return sum((1 + cosine.mean() for cosine in cosines), torch.zeros_like(one[0, 0, 0]))


def mixture(values: Tensor, taken: Tensor, iterations: int = 10, floor: float = 5e-4) -> tuple[Tensor, Tensor, Tensor]:
    """Fit two Gaussians to some values by expectation maximisation, from their halves around the middle of the range.

    Parameters
    ----------
    values : Tensor
    taken : Tensor
        Of the same shape: which of them. Of none, nothing comes that means anything.
    iterations : int
    floor : float

    Returns
    -------
    tuple of Tensor
        Means, the smaller one first, deviations and shares, (2,) each; `floor` is added to the variances.
    """
    values, share = values.flatten().double(), taken.flatten().double()[:, None]
    low, high = (torch.where(taken.flatten(), values, end) for end in (torch.inf, -torch.inf))
    upper = values > (low.min() + high.max()) / 2
    weights = torch.stack([~upper, upper], 1) * share
    for _ in range(iterations):
        counts = weights.sum(0).clamp(min=1e-12)
        means = (weights * values[:, None]).sum(0) / counts
        variances = (weights * (values[:, None] - means) ** 2).sum(0) / counts + floor
        shares = counts / share.sum().clamp(min=1)
        odds = shares.log() - variances.log() / 2 - (values[:, None] - means) ** 2 / variances / 2
        weights = odds.softmax(1) * share
    order = means.argsort()
    return means[order], variances[order].sqrt(), shares[order]
