"""What the methods around PSA and IRN share: how they draw images, and how they train."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional

from harness import Augment, Batch, Method, Phase, TrainParams


class FieldParams(TrainParams):
    """Settings that these methods share.

    Attributes
    ----------
    image_size : int
        Side in pixels of what is cut out of an image.
    shortest, longest : int
        Pixels between which the long side of an image is drawn before that.
    jitter : float
        By which share brightness, contrast and saturation change; the hue by a third of it.
    head_lr_factor : float
        New layers learn this much faster than the backbone.
    weight_decay : float
        It is the optimiser's momentum too: the authors' optimisers take the one for the other.
    """

    shortest: int = Field(320, ge=16)
    longest: int = Field(640, ge=16)
    jitter: float = Field(0.0, ge=0, le=1)
    head_lr_factor: float = Field(10.0, gt=0)
    weight_decay: float = Field(1e-4, ge=0)


class FieldMethod(Method):
    """A method that trains as PSA and IRN do, on a backbone whose batch norms keep their statistics."""

    params: Any

    def sgd(
        self, epochs: int, slow: Iterable[nn.Parameter], fast: Iterable[nn.Parameter], clip_norm: float | None = None
    ) -> Phase:
        """Return a phase of SGD with a learning rate that falls as (1 - progress) to the power of 0.9.

        Parameters
        ----------
        epochs : int
        slow, fast : iterable of Parameter
            Of the backbone, and of new layers.
        clip_norm : float, optional
        """
        p = self.params
        groups = [{"params": list(slow), "lr": p.lr}, {"params": list(fast), "lr": p.lr * p.head_lr_factor}]
        options = {"momentum": p.weight_decay, "weight_decay": p.weight_decay}
        colours = (p.jitter, p.jitter, p.jitter, p.jitter / 3)
        drawn = Augment(p.image_size, "long_side", (p.shortest, max(p.shortest, p.longest)), 0.5, colours)
        return Phase(epochs, groups, "SGD", options, poly, drawn, clip_norm=clip_norm)


def poly(done: float) -> float:
    """Return the factor on a learning rate."""
    return (1 - done) ** 0.9


def mean_padded(batch: Batch, backbone: Any) -> Tensor:
    """Return the images of a batch with the mean colour on padding, which is 0 once it is normalised."""
    return batch.images if batch.valid is None else torch.where(batch.valid, batch.images, backbone.mean)


def classification(maps: Tensor, labels: Tensor) -> Tensor:
    """Return the multi-label soft margin of (B, K, h, w) maps, averaged over positions, and (B, K) labels."""
    return functional.binary_cross_entropy_with_logits(maps.mean((2, 3)).float(), labels)


def over_max(maps: Tensor) -> Tensor:
    """Return (B, C, h, w) maps without what is negative, each divided by its maximum."""
    positive = maps.relu()
    return positive / (positive.amax((2, 3), keepdim=True) + 1e-5)


def with_background(foreground: Tensor) -> Tensor:
    """Return (B, K, h, w) maps in [0, 1] with 1 minus their maximum before them."""
    return torch.cat([1 - foreground.amax(1, keepdim=True), foreground], 1)
