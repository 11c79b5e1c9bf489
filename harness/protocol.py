"""The protocol: everything beside the method that moves a score."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field, SerializerFunctionWrapHandler, model_serializer

from harness.rules import LATER, Background, Checkpoint, Gating, Rule
from harness.strict import Frozen


def _size(value: Any) -> int | str | None:
    if value in (None, "native") or (type(value) is int and value >= 16):
        return value
    raise ValueError("expected a number of pixels from 16 up, or native")


def _verifier(value: str) -> str:
    """Return the verifier with its recipe, the default one where none is named."""
    name, _, recipe = value.partition(":")
    if value != "none" and name != VERIFIER:
        raise ValueError(f"expected none, {VERIFIER} or {VERIFIER}:RECIPE")
    return value if name == "none" else f"{VERIFIER}:{recipe or RECIPE}"


def as_tuple(value: Any) -> Any:
    """Return a comma-separated string, or a number, as a tuple."""
    if isinstance(value, str):
        return tuple(part.strip() for part in value.split(",") if part.strip())
    return (value,) if isinstance(value, int | float) else value


VERIFIER, RECIPE = "deeplabv2", "kazuto-imagenet"  # the recipe of most papers, from weights that have seen no masks
Size = Annotated[Any, AfterValidator(_size)]
Names = Annotated[tuple[str, ...], BeforeValidator(as_tuple)]
VERIFICATION = ("verify", "verify_init", "mask_split")  # fields that say nothing where there is no verification
Verify = Annotated[str, AfterValidator(_verifier)]


class ClassGating(Frozen):
    """Which classes may appear in an image's mask, on training splits and on held-out ones.

    `gt`: those of its image labels; `predicted:p`: those that the method predicts with at least probability p; `none`:
    all.
    """

    training: Gating = Rule("gt")
    held_out: Gating = Rule("predicted", 0.5)


class Protocol(Frozen):
    """Everything beside the method that moves a score.

    Attributes
    ----------
    name, summary, source : str
        What it is called, what it does, and where its settings come from.
    version : int
        Incremented when what a protocol of that name says is changed.
    label_source : {"masks", "xml", "file"} or None
        Where image-level labels come from; None takes the dataset's own.
    background_label : {"always", "masks"}
        Whether every image counts as showing background, or only those whose mask has some.
    classes : tuple of str
        A subset of the dataset's classes, without the background; empty means all. Pixels of others are ignored.
    fit_split : str or None
        The split that is trained on; None takes the dataset's own.
    eval_splits : tuple of str
        The splits that are scored; empty takes the dataset's own.
    class_gating : ClassGating
        Which classes may appear in an image's mask: on `training` splits and on `held_out` ones, `gt` (those of its
        image labels), `predicted:p` (those that the method predicts with at least probability p) or `none` (all).
    normalisation : {"none", "max", "minmax", "vitpcm"}
        How each class's activation map is scaled to [0, 1]: divided by its maximum, or stretched from its minimum too.
        Probabilities are left alone, except under `vitpcm`, which stretches them and makes them sum to one again.
    background : str
        For methods without a background of their own: `method`, the rule that the method's source fixes (`fixed:0.4`
        where it fixes none); `fixed:x`; `power:a` for (1 - max)^a; `swept_on:SPLIT` for the
        fixed value, in steps of 0.01, with the best mIoU on the ground-truth pixels of that split. `model` admits only
        methods that have one.
    size : int, "native" or None
        Side in pixels to which images are squashed for scoring; `native` keeps each image's own, rounded to whole
        patches; None takes the method's own.
    scales : tuple of float
        Of that size; maps are averaged before anything else is done to them.
    merge : {"grid", "image"}
        Where maps of several scales are averaged: at the grid of the first, or enlarged to the image as it is scored.
    flip : {"none", "mean", "max"}
        How maps are merged with those of the mirrored image.
    align_corners : bool
        Whether resizing score maps to image size maps corner pixels onto corner pixels.
    gated_background : bool
        Whether gating by `gt` closes the background too: an image whose labels do not name it gets none. It takes
        `background_label: masks` for images to be without one.
    upsampling : {"bilinear", "nearest"}
        How score maps come to image size; `nearest` decides at the maps' own grid and enlarges the masks.
    refine : str
        `none`, or a refiner, as `crf:vitpcm`.
    checkpoint : str
        Which epoch's weights are scored: the `last`, or the best on the first held-out split by its image labels
        (`val_image_labels`, mean average precision) or by its pixels (`val_pixels`, mIoU), at the size of the training.
        `val_pixels:60` looks no further once 60 epochs brought nothing better, as an early stop does.
    metric : {"pooled", "present", "zero", "per_image", "drop255"}
        What is called mIoU; see `harness.metrics.DEFINITIONS`.
    precision : {"fp32", "tf32", "bf16"}
        Of the arithmetic inside the network, in training and scoring.
    verify : str
        `none`, or a segmentation network that is trained on the pseudo-masks and scored beside them, with its recipe:
        `deeplabv2:kazuto-imagenet`.
    verify_init : {"imagenet", "coco", "random", "file"} or None
        What that network starts from; None takes the recipe's own.
    mask_split : str or None
        The split whose pseudo-masks train it; None takes `fit_split`.
    """

    name: str
    summary: str = ""
    source: str = ""
    version: int = 1
    label_source: Literal["masks", "xml", "file"] | None = None
    background_label: Literal["always", "masks"] = "always"
    classes: Names = ()
    fit_split: str | None = None
    eval_splits: Names = ()
    class_gating: ClassGating = ClassGating()
    normalisation: Literal["none", "max", "minmax", "vitpcm"] = "max"
    background: Background = Rule("fixed", 0.4)
    size: Size = None
    scales: Annotated[tuple[Annotated[float, Field(gt=0)], ...], Field(min_length=1)] = (1.0,)
    merge: Literal["grid", "image"] = "grid"
    flip: Literal["none", "mean", "max"] = "none"
    align_corners: bool = False
    gated_background: bool = False
    upsampling: Literal["bilinear", "nearest"] = "bilinear"
    refine: str = "none"
    checkpoint: Checkpoint = Rule("last")
    metric: Literal["pooled", "present", "zero", "per_image", "drop255"] = "pooled"
    precision: Literal["fp32", "tf32", "bf16"] = "fp32"
    verify: Verify = "none"
    verify_init: Literal["imagenet", "coco", "random", "file"] | None = None
    mask_split: str | None = None

    @model_serializer(mode="wrap")
    def _without_verification(self, dump: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Leave out a verification where there is none, a first version, and later fields that are as it was before."""
        left_out = () if self.verify != "none" else VERIFICATION
        first = ("version",) if self.version == 1 else ()
        later = [key for key, value in LATER.items() if getattr(self, key) == value]
        return {key: value for key, value in dump(self).items() if key not in (*left_out, *first, *later)}

    def gating(self, split: str, training_splits: Sequence[str]) -> Rule:
        """Return the gating rule of a split."""
        return self.class_gating.training if split in training_splits else self.class_gating.held_out
