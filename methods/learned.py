"""What refiners share that learn from the sure pixels of the masks that they refine: IRN, PSA, BES and CIAN."""

from __future__ import annotations

from typing import Any

import torch
from pydantic import Field
from torch import Tensor

from harness import Refiner, TrainedRefinerParams

OfUse: dict[str, Any] = {"stage": "mask"}  # marks a setting on which training does not depend


class LearnedParams(TrainedRefinerParams):
    """Settings of a refiner that learns from two masks of each image.

    Attributes
    ----------
    epochs, batch_size : int
    crop : int
        Side in pixels of what is cut out of an image.
    lr, weight_decay : float
    high, low : float
        Backgrounds of the maps that are learned from: a pixel is a class where it is one under the high one, and
        background where it is that under both.
    labels : str
        The refiner of these masks; `none` takes them as they are.
    """

    epochs: int = Field(3, ge=0)
    batch_size: int = Field(16, ge=1)
    crop: int = Field(512, ge=32)
    lr: float = Field(0.1, gt=0)
    weight_decay: float = Field(1e-4, ge=0)
    high: float = Field(0.3, ge=0, le=1)
    low: float = Field(0.07, ge=0, le=1)
    labels: str = "crf:irn"


class Learned(Refiner):
    """A refiner of maps that learns from their masks at two fixed backgrounds."""

    trained = True
    refines = "maps"

    params: Any

    def learns_from(self) -> tuple[str, ...]:
        p = self.params
        return tuple(f"fixed:{background:g}+{p.labels}" for background in (p.high, p.low))


def confident(high: Tensor, low: Tensor) -> Tensor:
    """Return class positions where two masks are sure: a class of the first, background of both, else 255."""
    foreground = (high > 0) & (high < 255)
    background = (high == 0) & (low == 0)
    return torch.where(foreground, high, torch.where(background, torch.zeros_like(high), torch.full_like(high, 255)))
