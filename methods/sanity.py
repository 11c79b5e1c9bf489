"""Floor and ceiling of every table: what a score means when nothing, or everything, is known."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional

from harness import Method, Params, Session, TrainingData


class _Untrained(Method):
    """A method without backbone and training; its model remembers how many classes there are."""

    families = ()
    output: Literal["probability", "labels"] = "probability"
    background = True
    supervision: tuple[str, ...] = ()
    expected_failures: ClassVar[dict[str, str]] = {"cited": "a baseline of ours"}
    Params: ClassVar[type[Params]] = Params

    def build(self, backbone: Any, num_classes: int) -> nn.Module:
        model = nn.Module()
        model.register_buffer("frequency", torch.zeros(num_classes))
        return model

    def fit(self, model: Any, data: TrainingData, session: Session) -> None:
        """There is nothing to train."""


class Background(_Untrained):
    """Every pixel is background."""

    name = "sanity-background"

    def score(self, model: Any, images: Tensor, labels: Tensor | None) -> Tensor:
        maps = images.new_zeros(len(images), len(model.frequency), 1, 1)
        maps[:, 0] = 1.0
        return maps


class RandomParams(Params):
    """Settings of the random baseline.

    Attributes
    ----------
    stride : int
        Pixels per random decision.
    """

    stride: int = Field(16, ge=1, json_schema_extra={"stage": "score"})


class Random(_Untrained):
    """Every patch is a random class, background included, of those that the protocol leaves open."""

    name = "sanity-random"
    expected_failures = _Untrained.expected_failures | {"batch_is_no_matter": "its scores are noise"}
    Params = RandomParams

    params: RandomParams

    def score(self, model: Any, images: Tensor, labels: Tensor | None) -> Tensor:
        height, width = (max(1, side // self.params.stride) for side in images.shape[-2:])
        shape = (len(images), len(model.frequency), height, width)
        return torch.rand(shape, device=images.device).softmax(1)


class LabelPrior(_Untrained):
    """Every pixel is the open class that is most frequent among the training labels; never background."""

    name = "sanity-labels"
    expected_failures = _Untrained.expected_failures | {
        "probabilities_add_up": "frequencies of labels, of which an image may have several"
    }
    supervision = ("image_labels",)

    def fit(self, model: Any, data: TrainingData, session: Session) -> None:
        model.frequency.copy_(data.labels.mean(0))

    def score(self, model: Any, images: Tensor, labels: Tensor | None) -> Tensor:
        frequency: Tensor = model.frequency
        maps = frequency.clamp(min=1e-3).repeat(len(images), 1)[:, :, None, None]
        maps[:, 0] = 0.0
        return maps


class OracleParams(Params):
    """Settings of the oracle.

    Attributes
    ----------
    stride : int
        Pixels per cell of the grid through which the truth passes: 16 gives the ceiling of a ViT/16 without refinement.
        0 is no grid: the masks are those of the dataset as they are, with 255 where nothing is labelled.
    """

    stride: int = Field(0, ge=0, json_schema_extra={"stage": "score"})


class Oracle(_Untrained):
    """The ground truth, at the resolution of a grid: no method on that grid can do better."""

    name = "sanity-oracle"
    supervision = ("masks",)
    Params = OracleParams

    params: OracleParams

    def __init__(self, params: OracleParams) -> None:
        super().__init__(params)
        self.output = "probability" if params.stride else "labels"

    def score(self, model: Any, images: Tensor, labels: Tensor | None) -> Tensor:
        assert labels is not None
        return functional.avg_pool2d(labels, self.params.stride or 1)
