"""Recipes of the verification: everything about a DeepLabV2 and its training that moves its score, as data."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, model_validator

from harness.errors import UserError
from harness.registry import Registry
from harness.strict import Frozen, parse

OUTPUT_STRIDE = 8  # of every backbone of a DeepLabV2
TIMM = "timm:"

Positive = Annotated[float, Field(gt=0)]
Count = Annotated[int, Field(gt=0)]
Scales = Annotated[tuple[Positive, ...], Field(min_length=1)]
Triple = tuple[float, float, float]


class Pixels(Frozen):
    """What a backbone's weights expect of an image: (image - mean) / std, in the given order of channels.

    Attributes
    ----------
    order : {"rgb", "bgr"}
    mean, std : tuple of float
        In that order, on the scale of 0 to 255.
    """

    order: Literal["rgb", "bgr"]
    mean: Triple
    std: Triple = (1.0, 1.0, 1.0)


class Multipliers(Frozen):
    """Factors on the learning rate.

    Attributes
    ----------
    backbone, head_weight, head_bias : float
    """

    backbone: Positive = 1.0
    head_weight: Positive = 10.0
    head_bias: Positive = 20.0


class Recipe(Frozen):
    """How a DeepLabV2 is built, initialised, trained and tested.

    Attributes
    ----------
    summary, source : str
        What it is, and where its values come from.
    backbone : str
        `resnet18`, `resnet50`, `resnet101`, or `timm:<id>` of a convolutional network that can be built at stride 8.
    style : {"caffe", "torchvision", "v1c"} or None
        Which ResNet: `caffe` strides in a block's first 1x1 convolution, and its stem's pool rounds up; `torchvision`
        strides in the 3x3; `v1c` has three 3x3 convolutions for a stem. Weights of one are no weights of another.
        None for timm's networks.
    first_block : {"dilated", "halved", "plain"}
        How the first block of a dilated stage of a ResNet is dilated: as the stage's others, half as much, or not.
    init : {"imagenet", "coco", "random", "file"}
        What the backbone starts from. The head always starts from N(0, 0.01).
    pixels : Pixels or None
        None takes what timm says of its weights.
    msc : tuple of float
        Scales that share the weights; the prediction is the maximum of their logits. The first is 1.
    losses : {"msc", "single"}
        `msc`: the sum of the cross-entropies of each scale's logits, and of their maximum where there are several, each
        at its own size with labels downsampled to the nearest. `single`: that of the maximum, upsampled to the labels.
    crop : int
        Side of a training crop in pixels; smaller images are padded with the mean, their labels with 255.
    train_scales : tuple of float
        An image is resized by one of them, drawn anew each time.
    flip : bool
        Whether every second image is mirrored in training.
    batch_size, accumulate : int
        Images of a batch, and batches whose gradients are averaged for one step of the optimiser.
    iterations : int
        Steps of the optimiser.
    lr, momentum, weight_decay : float
        Of SGD.
    multipliers : Multipliers
        Of the learning rate. The head's biases have no weight decay.
    power : float
        The learning rate falls as (1 - iteration / iterations) ** power.
    lr_every : int
        It is set anew every so many iterations.
    bn : {"frozen", "statistics", "trained"}
        Batch normalisation: all of it stays as initialised; or its statistics follow the training, its scale and shift
        stay; or both are trained.
    stem : {"frozen", "trained"}
        Whether a ResNet's convolutions before its first stage are trained.
    test_scales : tuple of float
        Whole images are tested at their native size times each; probabilities are averaged at native size.
    test_flip : bool
        Whether mirrored images are averaged in too.
    refine : str
        `none`, or a refiner of the tested probabilities, as `crf:vitpcm`.
    """

    summary: str
    source: str
    backbone: str
    style: Literal["caffe", "torchvision", "v1c"] | None = None
    first_block: Literal["dilated", "halved", "plain"] = "dilated"
    init: Literal["imagenet", "coco", "random", "file"]
    pixels: Pixels | None = None
    msc: Scales = (1.0, 0.75, 0.5)
    losses: Literal["msc", "single"] = "msc"
    crop: Annotated[int, Field(ge=32)]
    train_scales: Scales = (0.5, 0.75, 1.0, 1.25, 1.5)
    flip: bool = True
    batch_size: Count
    accumulate: Count = 1
    iterations: Count
    lr: Positive
    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.9
    weight_decay: Annotated[float, Field(ge=0)] = 5e-4
    multipliers: Multipliers = Multipliers()
    power: Positive = 0.9
    lr_every: Count = 10
    bn: Literal["frozen", "statistics", "trained"]
    stem: Literal["frozen", "trained"] = "trained"
    test_scales: Scales = (1.0,)
    test_flip: bool = False
    refine: str = "none"

    @property
    def timm(self) -> str:
        """The timm id of the backbone; empty for a ResNet of ours."""
        return self.backbone.removeprefix(TIMM) if self.backbone.startswith(TIMM) else ""

    @model_validator(mode="after")
    def _fits_together(self) -> Recipe:
        if self.timm:
            if self.style or self.first_block != "dilated" or self.stem != "trained":
                raise ValueError("style, first_block and stem are of resnets, not of timm's networks")
        elif self.backbone not in ("resnet18", "resnet50", "resnet101"):
            raise ValueError(f"backbone: expected resnet18, resnet50, resnet101 or timm:<id> (got '{self.backbone}')")
        elif self.style is None or self.pixels is None:
            raise ValueError("a resnet needs its style and its pixels")
        elif self.backbone == "resnet18" and self.style != "torchvision":
            raise ValueError("resnet18 has no 1x1 convolutions and no deep stem: its style is torchvision")
        if self.msc[0] != 1:
            raise ValueError("msc: the first scale is 1")
        return self


def load_recipe(name: str, registry: Registry) -> Recipe:
    """Return a recipe by its name.

    Raises
    ------
    UserError
        If there is none of that name, with the closest; or if its file is wrong, with the line.
    """
    entry = registry.entry("deeplab", name)
    return parse(Recipe, registry.load("deeplab", name), f"recipe '{name}'", Path(entry.source))


def learning_rate(recipe: Recipe, iteration: int) -> float:
    """Return the factor on every learning rate at an iteration, counted from 0.

    Raises
    ------
    UserError
        If the recipe has no such iteration.
    """
    if not 0 <= iteration < recipe.iterations:
        raise UserError(f"iteration {iteration} is outside of the recipe's {recipe.iterations}")
    since = iteration - iteration % recipe.lr_every
    return (1 - since / recipe.iterations) ** recipe.power
