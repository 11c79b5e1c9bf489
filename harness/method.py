"""The contracts that a plugin author keeps: `Method` and `Refiner`, their parameters, and what they are handed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field

from harness.phases import Phase
from harness.strict import Frozen
from harness.trainable import Trainable

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor, nn

    from harness.cell import RunSpec
    from harness.loader import TrainingData
    from harness.training import Session


class Params(Frozen):
    """Hyper-parameters of a method; subclass it and add fields with defaults.

    A field that training does not depend on is marked `json_schema_extra={"stage": "score"}`: changing it scores again
    but does not train again.

    Attributes
    ----------
    inference_size : int
        Side in pixels to which an image is squashed for scoring, unless the protocol says otherwise.
    """

    inference_size: int = Field(384, ge=16, json_schema_extra={"stage": "score"})


class TrainParams(Params):
    """Hyper-parameters of a method that trains with the shared loop.

    Attributes
    ----------
    image_size : int
        Side in pixels to which an image is squashed for training.
    epochs, batch_size : int
    stride : int
        Pixels per feature of a convolutional backbone, by dilation, so that its weights stay usable; a ViT's is its
        patch. 16 is ours: the paper names none.
    accumulate : int
        Batches whose gradients are averaged for one step of the optimiser.
    lr : float
        Learning rate of the default phase.
    """

    image_size: int = Field(384, ge=16)
    epochs: int = Field(10, ge=0)
    batch_size: int = Field(16, ge=1)
    accumulate: int = Field(1, ge=1)
    stride: Literal[8, 16, 32] = 16
    lr: float = Field(1e-4, gt=0)


class Method(Trainable):
    """Turns image-level labels into score maps.

    A minimal method has a `name`, `build`, `training_step` and `score`. The harness does the rest: it runs scales and
    flips, gates classes, normalises, resizes and thresholds, the same way for every method.

    Attributes
    ----------
    name, cite, resources, version, expected_failures
        See `Trainable`.
    families : tuple of str
        Which backbones it takes: `vit`, `cnn`; empty when it needs none.
    parent : str
        The method whose trained model it starts from, `cam`; its training is a stage of its own, shared with that
        method's cells. Such a method has `build_from` instead of `build`.
    supervision : tuple of str
        What it looks at: `image_labels`; `masks` marks an oracle. Printed in every table.
    output : {"activation", "probability", "labels"}
        What `score` returns: non-negative maps of no fixed scale, or probabilities over the channels. `labels` are
        finished masks, of an external method or an oracle; of an oracle they are the ground truth as it is.
    background : bool
        Whether channel 0 of `score` is the method's own background.
    predicts_presence : bool
        Whether `score` also says which classes an image shows: needed for `class_gating: predicted`.
    conditions_on_labels : bool
        Whether `score` wants the image labels where the protocol allows them.
    needs_grad : bool
        Whether `score` needs gradients.
    external : bool
        Whether its scores lie in a folder, `params.folder`, instead of coming from a model.
    """

    families: ClassVar[tuple[str, ...]] = ("vit", "cnn")
    parent: ClassVar[str] = ""
    supervision: tuple[str, ...] = ("image_labels",)
    output: Literal["activation", "probability", "labels"] = "activation"
    background: bool = False
    predicts_presence: ClassVar[bool] = False
    conditions_on_labels: ClassVar[bool] = False
    needs_grad: ClassVar[bool] = False
    external: ClassVar[bool] = False
    Params: ClassVar[type[Params]] = TrainParams

    @classmethod
    def skip(cls, spec: RunSpec) -> str | None:
        """Return why a cell makes no sense for this method, or None."""
        return None

    def backbone_options(self, family: str) -> dict[str, Any]:
        """Return further arguments of `timm.create_model` for a backbone of a family, such as drop rates."""
        return {}

    def background_rule(self, family: str) -> str:
        """Return the background that the method's source fixes on a family of backbones, `fixed:0.15`; "" for none."""
        return ""

    def build(self, backbone: Any, num_classes: int) -> nn.Module:
        """Return the model; `num_classes` counts the background (VOC: 21)."""
        raise NotImplementedError

    def build_from(self, parent: Any, backbone: Any, num_classes: int) -> nn.Module:
        """Return the model of a method with a `parent`, from that method's trained model and a backbone as it starts.

        The parent is this cell's own: it may be changed, or become the model itself.
        """
        raise NotImplementedError

    def phases(self, model: Any) -> list[Phase]:
        """Return the phases of training; by default one, over all parameters, with Adam."""
        return [Phase(self.params.epochs, [{"params": list(model.parameters()), "lr": self.params.lr}])]

    def fit(self, model: Any, data: TrainingData, session: Session) -> None:
        """Train the model in place; by default the shared loop over `phases` with `training_step`."""
        from harness.training import train

        train(self, model, data, session)

    def score(self, model: Any, images: Tensor, labels: Tensor | None) -> Tensor | tuple[Tensor, Tensor]:
        """Return raw, non-negative score maps at the model's own grid.

        Parameters
        ----------
        model : Module
            What `build` returned.
        images : Tensor
            (B, 3, H, W) float RGB in [0, 1].
        labels : Tensor or None
            (B, num_classes) for methods with `conditions_on_labels`, where the protocol allows it;
            (B, num_classes, H, W) ground truth for an oracle, a method whose `supervision` names `masks`.

        Returns
        -------
        Tensor, or a pair of Tensors
            (B, C, h, w) maps; C is `num_classes` with a background channel, one less without. A method that
            `predicts_presence` returns with them (B, num_classes - 1) image-level probabilities.
        """
        raise NotImplementedError


class RefinerParams(Frozen):
    """Settings of a refiner; subclass it and add fields. `NAME` alone needs a default for each, `NAME:PRESET` is YAML.

    Attributes
    ----------
    summary, source : str
        What a preset is and where its numbers come from.
    align_corners : bool or None
        Whether the maps that it refines come to image size corner pixel on corner pixel; None as the protocol says.
    """

    summary: str = ""
    source: str = ""
    align_corners: bool | None = Field(None, json_schema_extra={"stage": "mask"})


class TrainedRefinerParams(RefinerParams):
    """Settings of a refiner that learns.

    A field that its training does not depend on is marked `json_schema_extra={"stage": "mask"}`: changing it refines
    again but does not train again.

    Attributes
    ----------
    backbone : str
        The backbone that it learns on; empty takes that of the cell.
    """

    backbone: str = ""


class Refiner(Trainable):
    """A step between score maps and masks, image by image.

    A refiner with `trained = True` learns first: it has `build`, `phases` and `training_step` as a method has, and
    `learns_from`.

    Attributes
    ----------
    name, cite, resources, version, expected_failures
        See `Trainable`. `{"mask.gpus": 1}` asks for a GPU for the stage that refines.
    refines : {"probabilities", "maps"}
        What `refine` is given: probabilities at image size with the background blended in, or maps at the method's own
        grid, before there is a background.
    background_rule : str
        Of a refiner of maps: the background that its source fixes for what it returns, as `fixed:0.25`; empty takes
        the protocol's. With `model` it is given no background and returns one, before the classes; a channel behind
        them is for pixels that get no label.
    supervision : tuple of str
        What it looks at beyond an image and its probabilities, as `saliency`; the cells that it refines name it.
    trained : bool
    families : tuple of str
        Which backbones it learns on.
    model : Module or None
        What `build` returned, trained, in evaluation mode and on its device, whenever `refine` is called.
    classes : sequence of int
        Which classes of the dataset the channels stand for that `refine` is given, the background aside; 1 is the
        first. It is set whenever `refine` is called.
    """

    kind: ClassVar[str] = "refiner"
    refines: ClassVar[Literal["probabilities", "maps"]] = "probabilities"
    background_rule: ClassVar[str] = ""
    supervision: ClassVar[tuple[str, ...]] = ()
    trained: ClassVar[bool] = False
    families: ClassVar[tuple[str, ...]] = ("vit", "cnn")
    Params: ClassVar[type[RefinerParams]] = RefinerParams

    model: Any = None
    classes: Sequence[int] = ()

    def learns_from(self) -> tuple[str, ...]:
        """Return which pseudo-masks of the fit split stand in `batch.pseudo`: BACKGROUND or BACKGROUND+REFINER, each.

        `fixed:0.3+crf:irn` are the masks of the score maps that are refined, with a background of 0.3,
        after that refiner, gated by image labels.
        """
        return ()

    def missing(self, image_ids: Sequence[str]) -> str:
        """Return what its inputs lack for images that it is to refine; empty if nothing. Asked before anything runs."""
        return ""

    def build(self, backbone: Any, num_classes: int) -> nn.Module:
        """Return the model of a refiner that learns."""
        raise NotImplementedError

    def refine(self, image: np.ndarray, probabilities: np.ndarray) -> np.ndarray:
        """Return refined probabilities, or refined maps.

        Parameters
        ----------
        image : ndarray
            (H, W, 3) uint8 RGB.
        probabilities : ndarray
            (C, H, W) float32, summing to one over the channels; channel 0 is the background. Only the channels that
            the protocol left open are here. A refiner of `maps` is given (C, h, w) in [0, 1] at the method's own grid,
            of the open classes, with a background first only where the method has one; it may return them at any
            grid.
        """
        raise NotImplementedError

    def refine_by_id(self, image_id: str, image: np.ndarray, probabilities: np.ndarray) -> np.ndarray:
        """Refine as `refine` does, knowing which image it is; to be overridden where an input belongs to each image."""
        return self.refine(image, probabilities)
