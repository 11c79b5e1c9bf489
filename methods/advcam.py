"""AdvCAM (Lee et al., CVPR 2021): a trained CAM, read while the image climbs towards a class."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from pydantic import Field
from torch import Tensor, nn

from harness import Method, Params, Phase

OfScore: dict[str, Any] = {"stage": "score"}


class AdvCAMParams(Params):
    """Settings of AdvCAM; the defaults are those of the authors' code, jbeomlee93/AdvCAM.

    Attributes
    ----------
    steps : int
        Maps that are summed; 1 is CAM itself.
    step_size : float
        How far the image goes at each, where its largest gradient is; in standard deviations of the weights' images.
    weight : float
        Of the penalty for maps that change where they are strong already.
    strong : float
        A share of a map's maximum: above it the penalty holds.
    stride : int
        Pixels per feature of a convolutional backbone, as CAM has it.
    """

    steps: int = Field(27, ge=1, json_schema_extra=OfScore)
    step_size: float = Field(0.08, gt=0, json_schema_extra=OfScore)
    weight: float = Field(7.0, ge=0, json_schema_extra=OfScore)
    strong: float = Field(0.5, ge=0, le=1, json_schema_extra=OfScore)
    stride: int = 16


class AdvCAM(Method):
    """CAM's model as it is. For each class that an image may show, the sum of the class's maps along an ascent.

    At each step the image moves up the gradient of  y_c - sum of the other y_k - weight * sum |A_t - A_0| where A_t is
    strong, with y the mean of a class's positive logits and A_t its map. A class is climbed to where the image labels
    name it, or, without labels, where CAM's logit is positive.
    """

    name = "advcam"
    cite = "lee2021advcam"
    parent = "cam"
    predicts_presence = True
    conditions_on_labels = True
    needs_grad = True
    check_settings: ClassVar[Mapping[str, Any]] = {"steps": 2}
    Params = AdvCAMParams

    params: AdvCAMParams

    def background_rule(self, family: str) -> str:
        return "fixed:0.15" if family == "cnn" else ""

    def build_from(self, parent: Any, backbone: Any, num_classes: int) -> nn.Module:
        return parent

    def phases(self, model: Any) -> list[Phase]:
        return []

    def score(self, model: Any, images: Tensor, labels: Tensor | None) -> tuple[Tensor, Tensor]:
        model.requires_grad_(False)
        mean, std = model.backbone.mean, model.backbone.std
        with torch.no_grad():
            start = model(images)
        logits = start.mean((2, 3))
        wanted = logits > 0 if labels is None else labels[:, 1:] > 0
        found = torch.zeros_like(start)
        for number in range(start.shape[1]):
            rows = wanted[:, number].nonzero()[:, 0]
            if len(rows):
                found[rows, number] = self._climb(model, (images[rows] - mean) / std, number, mean, std)
        return found, logits.sigmoid()

    def _climb(self, model: Any, images: Tensor, number: int, mean: Tensor, std: Tensor) -> Tensor:
        """Return (B, h, w) the sum of a class's maps while normalised images climb towards it."""
        total: Tensor | None = None
        first = images.new_zeros(())
        for step in range(self.params.steps):
            images = images.detach().requires_grad_()
            maps = model(images * std + mean).relu()
            current = maps[:, number]
            first = current.detach() if step == 0 else first
            total = current.detach() if total is None else total + current.detach()
            if step + 1 < self.params.steps:
                strong = current.detach() > self.params.strong * current.detach().amax((1, 2), keepdim=True)
                levels = maps.mean((2, 3))
                gain = 2 * levels[:, number] - levels.sum(1)
                penalty = ((current - first).abs() * strong).sum((1, 2))
                (gradient,) = torch.autograd.grad((gain - self.params.weight * penalty).sum(), images)
                images = climbed(images.detach(), gradient, self.params.step_size)
        assert total is not None
        return total


def climbed(images: Tensor, gradient: Tensor, step_size: float) -> Tensor:
    """Return (B, ...) images after a step up their gradients, which moves no value by more, nor out of their range."""
    each = tuple(range(1, images.ndim))
    moved = images + step_size * gradient / gradient.abs().amax(each, keepdim=True).clamp(min=1e-12)
    return torch.minimum(torch.maximum(moved, images.amin(each, keepdim=True)), images.amax(each, keepdim=True))
