"""Rules of a protocol, as `fixed:0.4`, parsed once: a kind, and what it is used with."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass as plain_dataclass
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, ConfigDict, PlainSerializer, SerializerFunctionWrapHandler, model_serializer
from pydantic.dataclasses import dataclass

# fields that older keys do not hold, as they were
LATER = {"gated_background": False, "upsampling": "bilinear", "merge": "grid"}
_RANGES = {  # of the number of a rule, by its kind
    "predicted": (0, 1), "fixed": (0, 1), "power": (0, 100), "val_image_labels": (1, 10000), "val_pixels": (1, 10000),
}  # fmt: skip


@plain_dataclass(frozen=True)
class Rule:
    """A rule, written `kind` or `kind:value`.

    Attributes
    ----------
    kind : str
        Of a gating `gt`, `none`, `predicted`; of a background `method`, `model`, `fixed`, `power`, `swept_on`, `given`;
        of a checkpoint `last`, `val_image_labels`, `val_pixels`.
    value : float, str or None
        A number; of `swept_on` a split; None where the kind stands alone.
    """

    kind: str
    value: Any = None

    def __str__(self) -> str:
        if self.value is None:
            return self.kind
        return f"{self.kind}:{self.value:g}" if isinstance(self.value, float) else f"{self.kind}:{self.value}"

    @classmethod
    def parse(cls, text: Any) -> Rule:
        """Return the rule that a text stands for.

        Raises
        ------
        ValueError
            If it is no text, or its number is none.
        """
        if isinstance(text, cls):
            return text
        if not isinstance(text, str):
            raise ValueError("expected a text")
        kind, _, value = text.partition(":")
        return cls(kind, (float(value) if kind in _RANGES else value) if value else None)


_AS_TEXT = PlainSerializer(str, return_type=str)
AnyRule = Annotated[Rule, BeforeValidator(Rule.parse), _AS_TEXT]


def _one_of(*alone: str, numeric: Sequence[str], named: Sequence[str] = ()) -> BeforeValidator:
    """Return what parses a rule and checks it: of a kind that stands alone, with a number in range, or with a name."""
    ranges = {kind: _RANGES[kind] for kind in numeric}
    forms = [*alone, *(f"{kind}:{low:g}..{high:g}" for kind, (low, high) in ranges.items()), *(f"{n}:…" for n in named)]

    def parse(text: Any) -> Rule:
        with contextlib.suppress(ValueError):
            rule = Rule.parse(text)
            if rule.kind in (alone if rule.value is None else named):
                return rule
            if rule.kind in ranges and rule.value is not None:
                low, high = ranges[rule.kind]
                if low <= rule.value <= high:
                    return rule
        raise ValueError(f"expected {' or '.join(forms)}")

    return BeforeValidator(parse)


CHOICES = ("val_image_labels", "val_pixels")
Gating = Annotated[Rule, _one_of("gt", "none", numeric=("predicted",)), _AS_TEXT]
Background = Annotated[Rule, _one_of("method", "model", numeric=("fixed", "power"), named=("swept_on",)), _AS_TEXT]
Checkpoint = Annotated[Rule, _one_of("last", *CHOICES, numeric=CHOICES), _AS_TEXT]


@dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class Rules:
    """What a protocol says of the way from score maps to masks, for one method and split.

    Attributes
    ----------
    gating : Rule
        `gt`, `predicted:p` or `none`.
    normalisation : str
        `none`, `max`, `minmax` or `vitpcm`.
    background : Rule
        `model`, `fixed:x`, `power:a`; `swept_on:SPLIT`, which the stage `mask` turns into `fixed:x`; or `given`, of
        finished masks.
    align_corners : bool
        Whether resizing maps corner pixels onto corner pixels.
    gated_background : bool
        Whether `gt` closes the background too, of an image that shows none.
    upsampling : {"bilinear", "nearest"}
        How maps come to image size.
    """

    gating: AnyRule
    normalisation: str
    background: AnyRule
    align_corners: bool = False
    gated_background: bool = False
    upsampling: Literal["bilinear", "nearest"] = "bilinear"

    @model_serializer(mode="wrap")
    def _without_later_fields(self, dump: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Leave out what is as it was before there was a choice: keys are those of then."""
        return {key: value for key, value in dump(self).items() if value != LATER.get(key)}
