"""The configuration of each stage: all that can change what it makes, beside the artefacts that it reads.

A key is a hash of it, so a field that is added needs a default that says "as before": it is left out of the key then.
"""

from __future__ import annotations

from typing import Any

from pydantic import SerializerFunctionWrapHandler, model_serializer

from harness.rules import Rules
from harness.strict import Frozen

Content = dict[str, Any]


class Config(Frozen):
    """What a stage's key is a hash of; an optional field counts only where it is not its default."""

    @model_serializer(mode="wrap")
    def _keyed(self, dump: SerializerFunctionWrapHandler) -> Content:
        fields = type(self).model_fields
        return {
            name: value
            for name, value in dump(self).items()
            if fields[name].is_required() or getattr(self, name) != fields[name].default
        }


class LabelsConfig(Config):
    """Of `labels`: which images, whose labels; `content` is a digest of what the check pass found."""

    dataset: str
    split: str
    limit: int | None
    masks: bool
    class_ids: list[int]
    label_source: str
    background_label: str
    content: str


class Ancestor(Config):
    """A method whose trained model another one starts from."""

    method: str
    version: str
    params: Content
    parent: Ancestor | None = None


class MethodConfig(Config):
    """What the stages that run a method's code share; `version` is that of its source."""

    dataset: str
    method: str
    version: str
    precision: str
    params: Content
    timm: str
    num_classes: int
    seed: int
    parent: Ancestor | None = None


class FitConfig(MethodConfig):
    """Of `fit`: `weights` and `checkpoint` by their hash."""

    weights: str
    keep_epochs: bool = False
    checkpoint: str = ""


class _Scoring(Config):
    """How images go through a model, and what it is given with them."""

    class_ids: list[int]
    size: int | str
    scales: tuple[float, ...]
    flip: str
    labels_given: bool
    oracle: bool
    merge: str = "grid"


class SelectConfig(MethodConfig, _Scoring):
    """Of `select`: by which `rule` an epoch is chosen, and on which split."""

    rule: str
    split: str
    rules: Rules
    patience: int | None = None


class ScoreConfig(_Scoring):
    """Of `score`, by a trained model."""

    dataset: str
    method: str
    version: str
    precision: str
    params: Content


class ExternalScoreConfig(Config):
    """Of `score`, from a folder of somebody's maps or masks: `external` is a digest of its content."""

    method: str
    params: Content
    external: str
    class_ids: list[int]


class CurveConfig(Config):
    """Of `curve`."""

    dataset: str
    class_ids: list[int]
    rules: Rules


class MaskConfig(Config):
    """Of `mask`, of a shard; `refine` is a refiner's name, version and settings."""

    class_ids: list[int]
    shard: int
    rules: Rules
    refine: Content | None


class FitRefinerConfig(Config):
    """Of `fit_refiner`: a refiner's name, version and settings, and the backbone that it learns on."""

    refiner: Content
    timm: str
    weights: str
    class_ids: list[int]
    seed: int
    precision: str


class VerifyConfig(Config):
    """Of `verify`: a recipe without its tests; weights by their hash."""

    recipe: Content
    weights: str
    class_ids: list[int]
    seed: int
    precision: str


class SegmentConfig(Config):
    """Of `segment`, of a shard: what a recipe says of its tests."""

    recipe: Content
    class_ids: list[int]
    shard: int
    refine: Content | None
    precision: str


class EvaluateConfig(Config):
    """Of `evaluate`, of a shard."""

    dataset: str
    class_ids: list[int]
    shard: int
