"""What the training loop and a method exchange: batches, steps and phases."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Batch:
    """What a training step sees. Never a mask.

    Attributes
    ----------
    images : Tensor
        (B, 3, H, W) float RGB in [0, 1], not normalised, at the size that the method asked for.
    labels : Tensor
        (B, num_classes) multi-hot float; column 0 is the background.
    ids : list of str
    """

    images: Tensor
    labels: Tensor
    ids: list[str]


@dataclass(frozen=True)
class Step:
    """Where training stands: `epoch` of `epochs`, `iteration` of `total` over the whole training."""

    epoch: int
    epochs: int
    iteration: int
    total: int


def constant(progress: float) -> float:
    """Learning-rate factor that never changes."""
    return 1.0


@dataclass(frozen=True)
class Phase:
    """A stretch of training with a fresh optimiser; parameters in no group are frozen.

    Attributes
    ----------
    epochs : int
    groups : list of dict
        Parameter groups as torch takes them: `params`, `lr`, and what else the optimiser knows.
    optimizer : str
        Name in `torch.optim`.
    options : dict
        Further arguments of the optimiser.
    schedule : callable
        Maps the progress through the phase, in [0, 1), to a factor on every learning rate.
    """

    epochs: int
    groups: list[dict[str, Any]]
    optimizer: str = "Adam"
    options: dict[str, Any] = field(default_factory=dict)
    schedule: Callable[[float], float] = constant
