"""What the training loop and a method exchange: batches, steps and phases."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Augment:
    """How an image becomes a training image: as data, so that it stands in the record. Drawn by `harness.augment`.

    Attributes
    ----------
    size : int
        Side in pixels of the square that is cut out or squashed to.
    resize : {"squash", "long_side", "scale", "area"}
        What happens before: the aspect is lost; the long side is drawn from `range`, in pixels; or a scale is; both
        are then cropped at a random place, with padding where the image is smaller. `area`: a crop with a share of the
        area that is drawn from `range`, resized to the square.
    range : tuple of float
    flip : float
        How often an image is mirrored.
    jitter : tuple of float
        Brightness, contrast, saturation and hue, as of torchvision's `ColorJitter`.
    """

    size: int
    resize: Literal["squash", "long_side", "scale", "area"] = "squash"
    range: tuple[float, float] = (1.0, 1.0)
    flip: float = 0.0
    jitter: tuple[float, float, float, float] = (0.0, 0.0, 0.0, 0.0)

    @property
    def fixed(self) -> bool:
        """Whether every draw of an image is the same."""
        return self.resize == "squash" and not self.flip and not any(self.jitter)


@dataclass(frozen=True)
class Batch:
    """What a training step sees. Never ground truth.

    Attributes
    ----------
    images : Tensor
        (B, 3, H, W) float RGB in [0, 1], not normalised, at the size that the phase asks for; 0 on padding.
    labels : Tensor
        (B, num_classes) multi-hot float; column 0 is the background.
    ids : list of str
    valid : Tensor
        (B, 1, H, W) bool; false on padding. The training loop always gives it.
    pseudo : Tensor or None
        (B, n, H, W) int64 class positions of the pseudo-masks that `learns_from` names, in its order; 255 where
        nothing is known. None where it names none.
    """

    images: Tensor
    labels: Tensor
    ids: list[str]
    valid: Any = None
    pseudo: Any = None

    def to(self, device: str) -> Batch:
        """Return the batch on a device, where those of the training loop are already."""
        valid, pseudo = (None if part is None else part.to(device) for part in (self.valid, self.pseudo))
        return Batch(self.images.to(device), self.labels.to(device), self.ids, valid, pseudo)

    def parts(self, count: int) -> list[Batch]:
        """Return the batch in some equal parts, in order."""
        size = len(self.ids) // count
        fields = {name: kept for name, kept in vars(self).items() if kept is not None}
        starts = range(0, count * size, size)
        return [replace(self, **{name: kept[n : n + size] for name, kept in fields.items()}) for n in starts]


@dataclass(frozen=True)
class Step:
    """Where training stands: `epoch` of `epochs`, `iteration` of `total` over the whole training; `phase` from 0."""

    epoch: int
    epochs: int
    iteration: int
    total: int
    phase: int = 0


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
        Maps the progress through the phase, in [0, 1), by iterations, to a factor on every learning rate.
    augment : Augment or None
        How images are drawn; None squashes them to `params.image_size`.
    batch_size : int or None
        None takes `params.batch_size`.
    odds : callable or None
        Turns (N, num_classes) labels into (N,) odds with which images are drawn; None draws each once an epoch.
    clip_norm : float or None
        The largest norm of the gradient of all parameters together.
    pairs : bool
        The second half of every batch are partners of the first: each shows a class that its image shows too.
    """

    epochs: int
    groups: list[dict[str, Any]]
    optimizer: str = "Adam"
    options: dict[str, Any] = field(default_factory=dict)
    schedule: Callable[[float], float] = constant
    augment: Augment | None = None
    batch_size: int | None = None
    odds: Callable[[Tensor], Tensor] | None = None
    clip_norm: float | None = None
    pairs: bool = False

    def facts(self) -> dict[str, Any]:
        """Return what a record says of the phase."""
        return {
            "epochs": self.epochs,
            "optimizer": self.optimizer,
            "options": self.options,
            "lr": [group.get("lr") for group in self.groups],
            "augment": asdict(self.augment) if self.augment else None,
            "batch_size": self.batch_size,
            "clip_norm": self.clip_norm,
            **({"pairs": True} if self.pairs else {}),
        }
