"""What methods and refiners that learn have in common."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar

from harness.phases import Phase

if TYPE_CHECKING:
    from torch import Tensor

    from harness.loader import TrainingData
    from harness.phases import Batch, Step


class Trainable:
    """What the training loop trains, in phases, on the images and image labels of the fit split.

    Attributes
    ----------
    kind : {"method", "refiner"}
    name : str
        What it is called on the command line.
    cite : str
        BibTeX key.
    resources : mapping
        What its stages take, where it is not the default: `{"fit.gpus": 0.5, "score.cpus": 4, "fit.memory_gb": 24}`.
    splittable : bool
        Whether its losses are means over the images of a batch, so that the parts which `params.accumulate` names may
        be taken at once where there is memory for it.
    version : str or None
        Pins the version in the stage keys; None takes a hash of the source: of its module, or of its whole package.
    check_settings : mapping
        Settings with which `harness check` examines it, where the defaults would take minutes: `{"steps": 2}`.
    expected_failures : mapping
        Checks of `harness check` that it cannot pass, each with the reason: `{"cited": "a baseline of ours"}`.
    """

    kind: ClassVar[str] = "method"
    name: ClassVar[str]
    cite: ClassVar[str] = ""
    resources: ClassVar[Mapping[str, float]] = {}
    splittable: ClassVar[bool] = False
    version: ClassVar[str | None] = None
    check_settings: ClassVar[Mapping[str, Any]] = {}
    expected_failures: ClassVar[Mapping[str, str]] = {}

    def __init__(self, params: Any) -> None:
        self.params = params

    def phases(self, model: Any) -> list[Phase]:
        """Return the phases of training."""
        raise NotImplementedError

    def start_phase(self, model: Any, data: TrainingData, phase: int) -> None:
        """Look at the fit split before a phase begins; what is found belongs into buffers of the model."""

    def training_step(self, model: Any, batch: Batch, step: Step) -> dict[str, Tensor]:
        """Return the named losses of a batch; their sum is minimised."""
        raise NotImplementedError
