"""Checks of a method's score maps."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from harness.check.case import SIDE, Case, Scored
from harness.check.suite import NotApplicableError, check, must

_HALF = 65504.0  # the largest number of half precision
_TOLERANCE = 1e-3  # of the largest score


def _scored(case: Case, count: int = 3, sides: tuple[int, int] = (SIDE, SIDE)) -> Iterator[Scored]:
    """Yield maps and presence of toy images, for each thing that may be given as labels."""
    for labels in case.labels(count, sides):
        yield case.maps(case.images(count, sides), labels)


@check("method", needs=("trains",))
def scores_on_a_grid(case: Case) -> None:
    """Maps are kept at the model's own grid, and the harness resizes every method's in the same way.

    Return a float tensor (B, C, h, w) at the grid of the features; do not resize to the image.
    """
    for maps, _ in _scored(case):
        shape = tuple(maps.shape)
        sound = len(shape) == 4 and shape[0] == 3 and maps.is_floating_point()
        must(sound, f"`score` returns {maps.dtype} {shape}, not a float tensor (3, C, h, w)")
        must(max(shape[2:]) <= SIDE, f"the grid of {shape[2:]} is larger than the image of {(SIDE, SIDE)}")


@check("method", needs=("scores_on_a_grid",))
def channels_as_declared(case: Case) -> None:
    """A background that is taken for the first class shifts every class by one.

    Set `background = True` if channel 0 is the background; else return the foreground classes only.
    """
    background = case.method().background
    own, expected = "with" if background else "without", len(case.toy.classes) - (not background)
    for maps, _ in _scored(case):
        must(maps.shape[1] == expected, f"{maps.shape[1]} channels; {own} a background of its own it has {expected}")


@check("method", needs=("scores_on_a_grid",))
def scores_are_sound(case: Case) -> None:
    """Maps are divided by their maximum and kept in half precision: below zero, infinite or too large means nothing.

    Take relu() for activations, softmax or sigmoid for probabilities; clamp the denominator of a division.
    """
    for maps, _ in _scored(case):
        _must_lie_within(_HALF, maps, "scores")


@check("method", needs=("scores_are_sound", "channels_as_declared"))
def probabilities_add_up(case: Case) -> None:
    """Probabilities are not normalised again: they compete with the background as they are.

    Declare `output = 'activation'`, or take a softmax over the channels.
    """
    method = case.method()
    if method.output != "probability":
        raise NotApplicableError("its scores are activations")
    for maps, _ in _scored(case):
        _must_lie_within(1 + _TOLERANCE, maps, "probabilities")
        sums = maps.sum(1)
        whole = not method.background or (sums - 1).abs().max() <= _TOLERANCE
        must(whole, f"they sum to {sums.min().item():g} to {sums.max().item():g} over the channels")


@check("method", needs=("scores_on_a_grid",))
def presence_as_declared(case: Case) -> None:
    """On held-out images a class may appear only if the method says so itself; without presence all of them may.

    Return (maps, presence) with presence (B, num_classes - 1) in [0, 1], and predicts_presence = True.
    """
    for _, presence in _scored(case):
        declared, expected = case.plugin.predicts_presence, (3, len(case.toy.classes) - 1)
        must(declared == (presence is not None), f"predicts_presence is {declared}, `score` says otherwise")
        if presence is not None:
            shape = tuple(presence.shape)
            must(shape == expected, f"presence of {shape}, expected {expected}: no background")
            _must_lie_within(1, presence, "presence")


def _must_lie_within(highest: float, values: Tensor, what: str) -> None:
    low, high = values.min().item(), values.max().item()  # of values that are no numbers, no number
    must(low >= 0 and high <= highest, f"{what} from {low:g} to {high:g}; they must be in [0, {highest:g}]")


@check("method", needs=("scores_on_a_grid",))
def labels_unused(case: Case) -> None:
    """Image labels of held-out images are an oracle; only the protocol may hand them out, and only where declared.

    Do without, or declare conditions_on_labels = True, which stands in the record.
    """
    if case.plugin.conditions_on_labels or "masks" in case.plugin.supervision:
        raise NotApplicableError("it declares that it uses them")
    images = case.images(2)
    without, given = case.maps(images, None)[0], case.maps(images, case.data.labels[:2].clone())[0]
    must(torch.equal(without, given), "scores change when image labels are given")


@check("method", needs=("scores_on_a_grid",))
def batch_is_no_matter(case: Case) -> None:
    """How many images are scored at once follows from memory; the score must not.

    Take maxima, means and normalisation over one image at a time, never over the batch.
    """
    images = case.images(3)
    for labels in case.labels(3):
        together = case.maps(images, labels)
        for index in range(3):
            own = None if labels is None else labels[index : index + 1]
            for among, alone in zip(together, case.maps(images[index : index + 1], own), strict=True):
                if among is not None and alone is not None:
                    scale = alone.abs().max().clamp(min=1e-6)
                    same = (among[index] - alone[0]).abs().max() <= _TOLERANCE * scale
                    must(same, "an image scores otherwise alone than among others")


@check("method", needs=("scores_on_a_grid",))
def other_sizes(case: Case) -> None:
    """Protocols score at other sizes and at several scales.

    Derive the grid from the features, not from the settings.
    """
    for side in (96, 48):
        for _ in _scored(case, 2, (side, side)):
            pass


@check("method", needs=("scores_on_a_grid",))
def native_sizes(case: Case) -> None:
    """The size `native` keeps each image's own proportions.

    Keep height and width apart: features are (B, dim, h, w).
    """
    for maps, _ in _scored(case, 2, (48, 96)):
        must(maps.shape[2] <= maps.shape[3], f"a wide image gives a tall grid, {tuple(maps.shape[2:])}")
