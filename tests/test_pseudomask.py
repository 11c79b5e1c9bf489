from __future__ import annotations

import numpy as np
import pytest

from harness.pseudomask import open_classes, probabilities
from harness.rules import Rules

LABELS = np.array([1, 0, 1])
PRESENCE = np.array([0.9, 0.2])


@pytest.mark.parametrize(
    ("gating", "expected"), [("gt", [2]), ("predicted:0.5", [1]), ("none", [1, 2]), ("predicted:0", [1, 2])]
)
def test_gating(gating: str, expected: list[int]) -> None:
    assert open_classes(Rules(gating, "none", "model"), LABELS, PRESENCE).tolist() == expected


def test_predicted_gating_without_presence_is_an_error() -> None:
    with pytest.raises(ValueError, match="no presence"):
        open_classes(Rules("predicted:0.5", "none", "model"), LABELS, None)


def test_activations_are_divided_by_their_maximum_and_meet_a_fixed_background() -> None:
    scores = np.array([[[4.0, 1.0]], [[0.0, 8.0]]], np.float16)
    found = probabilities(scores, np.array([1, 2]), (1, 2), Rules("none", "max", "fixed:0.4"), "activation")
    assert found.numpy() == pytest.approx(np.array([[[0.4, 0.4]], [[1.0, 0.25]], [[0.0, 1.0]]]))


def test_minmax_starts_at_the_minimum() -> None:
    scores = np.array([[[2.0, 4.0]]], np.float16)
    found = probabilities(scores, np.array([1]), (1, 2), Rules("none", "minmax", "fixed:0.4"), "activation")
    assert found[1].numpy() == pytest.approx(np.array([[0.0, 1.0]]))


def test_power_background() -> None:
    scores = np.array([[[1.0, 0.5]]], np.float16)
    found = probabilities(scores, np.array([1]), (1, 2), Rules("none", "max", "power:2"), "activation")
    assert found[0].numpy() == pytest.approx(np.array([[0.0, 0.25]]))


def test_probabilities_are_left_alone_but_under_vitpcm() -> None:
    scores = np.array([[[0.8, 0.5]], [[0.1, 0.3]], [[0.1, 0.2]]], np.float16)
    plain = probabilities(scores, np.array([1]), (1, 2), Rules("gt", "max", "model"), "probability")
    assert plain.numpy() == pytest.approx(scores[:2].astype(np.float32))
    stretched = probabilities(scores, np.array([1]), (1, 2), Rules("gt", "vitpcm", "model"), "probability")
    first = np.array([1.0, 1 / 3]) / (1 + 1 / 3)
    second = np.array([0.625, 1.0]) / 1.625
    assert stretched[:, 0, 0].numpy() == pytest.approx(first, abs=2e-3)
    assert stretched[:, 0, 1].numpy() == pytest.approx(second, abs=2e-3)


def test_no_open_class_is_all_background() -> None:
    scores = np.ones((2, 1, 1), np.float16)
    nothing = np.array([], int)
    found = probabilities(scores, nothing, (2, 3), Rules("gt", "max", "fixed:0.4"), "activation")
    assert found.shape == (1, 2, 3)
    assert found.min() > 0


def test_resizing_keeps_corners_only_when_asked() -> None:
    scores = np.array([[[0.0, 1.0]]], np.float16)
    corners = probabilities(scores, np.array([1]), (1, 4), Rules("none", "max", "fixed:0", True), "activation")[1]
    centres = probabilities(scores, np.array([1]), (1, 4), Rules("none", "max", "fixed:0", False), "activation")[1]
    assert corners[0].tolist() == pytest.approx([0, 1 / 3, 2 / 3, 1])
    assert centres[0].tolist() == pytest.approx([0, 0.25, 0.75, 1])
