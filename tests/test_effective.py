from __future__ import annotations

import pytest

from harness.effective import effective_background, ground_truth
from harness.registry import Registry
from harness.rules import Rule
from harness.spec import Grid, expand

REGISTRY = Registry()


@pytest.mark.parametrize(
    ("method", "family", "protocol", "expected"),
    [
        ("cam", "cnn", "strict", "fixed:0.15"),
        ("cam", "vit", "strict", "fixed:0.4"),
        ("recam", "cnn", "strict", "fixed:0.21"),
        ("cam", "cnn", "strict-1", "fixed:0.4"),
        ("cam", "cnn", "psa", "fixed:0.2"),
        ("vitpcm", "vit", "strict", "model"),
        ("sanity-oracle", "", "strict", "given"),
    ],
)
def test_the_background_is_the_methods_where_the_protocol_leaves_it_to_it(
    method: str, family: str, protocol: str, expected: str
) -> None:
    grid = Grid(methods=method, backbones="timm:test_vit", weights="random", protocols=protocol)
    (cell,) = expand([grid], REGISTRY)
    method_class = REGISTRY.load("method", method)
    own = method_class(method_class.Params(**cell.spec.params))
    assert str(effective_background(own, cell.spec.protocol, family)) == expected


def uses(method: str, protocol: str, **settings: str) -> list[tuple[str, str, str, bool]]:
    """What a cell uses of ground truth before it is evaluated."""
    changes = {f"protocol.{key}": value for key, value in settings.items()}
    (cell,) = expand([Grid(methods=method, weights="random", protocols=protocol, set=changes)], REGISTRY)
    method_class = REGISTRY.load("method", method)
    gating = {"train": Rule("gt"), "val": cell.spec.protocol.class_gating.held_out}
    own = method_class(method_class.Params(**cell.spec.params))
    found = ground_truth(own, cell.spec.protocol, ("train",), gating)
    return [(use["what"], use["split"], use["for"], use["allowed"]) for use in found]


TRAINED = [("image labels from masks", "train", "training", True), ("image labels", "train", "class gating", True)]


@pytest.mark.parametrize(
    ("settings", "more"),
    [
        ({}, []),
        ({"checkpoint": "val_pixels"}, [("pixels", "val", "the choice of the epoch", False)]),
        ({"checkpoint": "val_image_labels"}, [("image labels", "val", "the choice of the epoch", False)]),
        ({"background": "swept_on:val"}, [("pixels", "val", "the background threshold", False)]),
        ({"class_gating.held_out": "gt"}, [("image labels", "val", "class gating", False)]),
    ],
)
def test_every_use_of_ground_truth_beyond_labels_of_training_splits_is_named_and_not_allowed(
    settings: dict[str, str], more: list[tuple[str, str, str, bool]]
) -> None:
    assert uses("cam", "strict", **settings) == [*TRAINED, *more]


def test_an_oracle_that_trains_a_verifier_says_so_twice() -> None:
    found = uses("sanity-oracle", "strict", verify="deeplabv2:toy")
    assert ("pixels", "train", "the verifier's training", False) in found
    assert ("pixels", "val", "the scores themselves", False) in found
