"""BES (Chen et al., ECCV 2020) as a refiner that learns: `--refine bes`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from pydantic import Field
from torch import Tensor
from torch.nn import functional
from wsss_methods.irn import IRN
from wsss_methods.learned import LearnedParams, OfUse, confident

from harness import Batch, Step

IGNORED, GROUND_BACKGROUND, GROUND_OBJECT, BOUNDARY = 0, 1, 2, 3  # what a pixel teaches


class BESParams(LearnedParams):
    """Settings of BES; the defaults are those of the authors' code, mt-cly/BES.

    Attributes
    ----------
    window : int
        Side in pixels of the square around a pixel in which shares of classes are counted.
    share, difference : float
        Two labels meet where both have more than this share, and differ by less than that. Inside is where one has
        twice the share, and twice that difference over the other.
    walk_radius : int
        How far the walk goes in a step.
    beta : float
        Sharpens its affinities.
    squarings : int
        It takes 2 to the power of it steps.
    """

    window: int = Field(13, ge=3)
    share: float = Field(0.3, gt=0, lt=0.5)
    difference: float = Field(0.1, gt=0, lt=0.5)
    walk_radius: int = Field(5, ge=2, json_schema_extra=OfUse)
    beta: float = Field(5.0, gt=0, json_schema_extra=OfUse)
    squarings: int = Field(8, ge=0, le=12, json_schema_extra=OfUse)


class BES(IRN):
    """IRN's boundary network, taught where boundaries are instead of which pairs of pixels are alike.

    A pixel is a boundary where two labels have nearly equal shares of the window around it, and inside where one has
    most of it; the rest teaches nothing. Maps are walked as IRN's are, over softer affinities.
    """

    name = "bes"
    cite = "chen2020bes"
    check_settings: ClassVar[Mapping[str, Any]] = {"epochs": 1, "crop": 64, "batch_size": 4, "labels": "none"}
    Params = BESParams

    params: Any

    def training_step(self, model: Any, batch: Batch, step: Step) -> dict[str, Tensor]:
        p = self.params
        edges = model(batch.images).float().sigmoid()
        labels = confident(batch.pseudo[:, 0], batch.pseudo[:, 1])
        taught = lessons(labels, batch.labels.shape[1], p.window, p.share, p.difference)
        there = functional.interpolate(taught[:, None].float(), edges.shape[-2:]).long()[:, 0]
        return losses(edges, there)


def lessons(labels: Tensor, count: int, window: int, share: float, difference: float) -> Tensor:
    """Return what each pixel teaches: that it is background, inside an object, a boundary, or nothing.

    Parameters
    ----------
    labels : Tensor
        (B, H, W) class positions; 255 is unknown, and has a part in the window.
    count : int
        Of classes, background included.
    window : int
    share, difference : float
    """
    planes = functional.one_hot(labels.where(labels < 255, count), count + 1).permute(0, 3, 1, 2).float()
    shares = functional.avg_pool2d(planes, window, 1, window // 2, count_include_pad=False)[:, :-1]
    background, classes = shares[:, 0], shares[:, 1:]
    classes = functional.pad(classes, (0, 0, 0, 0, 0, max(0, 2 - classes.shape[1])))
    first, second = classes.topk(2, 1).values.unbind(1)
    outside = (background > 2 * share) & (background - first >= 2 * difference)
    inside = (first > 2 * share) & (first - background >= 2 * difference)
    outline = (torch.minimum(first, background) > share) & ((first - background).abs() < difference)
    between = (second > share) & (first - second < difference)
    found = torch.full_like(labels, IGNORED).masked_fill(outside, GROUND_BACKGROUND).masked_fill(inside, GROUND_OBJECT)
    return found.masked_fill(outline | between, BOUNDARY)


def losses(edges: Tensor, taught: Tensor) -> dict[str, Tensor]:
    """Return the loss of what is inside, and of boundaries: there, what is a boundary already counts most.

    Parameters
    ----------
    edges : Tensor
        (B, h, w) in [0, 1].
    taught : Tensor
        (B, h, w) of `lessons`.
    """
    chance = edges.clamp(1e-4, 1 - 1e-4)

    def mean(costs: Tensor, lesson: int) -> Tensor:
        chosen = taught == lesson
        return (costs * chosen).sum() / (chosen.sum() + 1)

    inside = -(1 - chance).log()
    ground = (mean(inside, GROUND_BACKGROUND) + mean(inside, GROUND_OBJECT)) / 2
    return {"ground": ground, "boundary": mean(-chance.log() * chance.detach().sqrt(), BOUNDARY)}
