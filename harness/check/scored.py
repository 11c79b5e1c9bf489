"""Checks of a method's score maps."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from harness.check.case import SIDE, Case
from harness.check.suite import BrokenContractError, NotApplicableError, check

_HALF = 65504.0  # the largest number of half precision
_TOLERANCE = 1e-3  # of the largest score


def _scored(
    case: Case, count: int = 3, sides: tuple[int, int] = (SIDE, SIDE)
) -> Iterator[tuple[Tensor, Tensor | None]]:
    """Yield maps and presence of toy pictures, for each family and each thing that may be given as labels."""
    for family in case.families:
        for labels in case.labels(count, sides):
            yield case.maps(family, case.pictures(count, sides), labels)


@check("method", needs=("trains",))
def scores_on_a_grid(case: Case) -> None:
    """Maps are kept at the model's own grid, and the harness resizes every method's in the same way.

    Return a float tensor (B, C, h, w) at the grid of the features; do not resize to the picture.
    """
    for maps, _ in _scored(case):
        if not isinstance(maps, Tensor) or maps.ndim != 4 or len(maps) != 3 or not maps.is_floating_point():
            raise BrokenContractError(f"`score` returns {_shape(maps)}, not a float tensor (3, C, h, w)")
        if not all(1 <= side <= SIDE for side in maps.shape[2:]):
            raise BrokenContractError(
                f"the grid of {tuple(maps.shape[2:])} is larger than the picture of {(SIDE, SIDE)}"
            )


def _shape(value: object) -> str:
    return f"{value.dtype} {tuple(value.shape)}" if isinstance(value, Tensor) else f"a {type(value).__name__}"


@check("method", needs=("scores_on_a_grid",))
def channels_as_declared(case: Case) -> None:
    """A background that is taken for the first class shifts every class by one.

    Set `background = True` if channel 0 is the background; else return the foreground classes only.
    """
    expected = len(case.toy.classes) - (not case.method(case.families[0]).background)
    for maps, _ in _scored(case):
        if maps.shape[1] != expected:
            own = "with" if expected == len(case.toy.classes) else "without"
            raise BrokenContractError(f"{maps.shape[1]} channels; {own} a background of its own it has {expected}")


@check("method", needs=("scores_on_a_grid",))
def scores_are_sound(case: Case) -> None:
    """Maps are divided by their maximum and kept in half precision: below zero, infinite or too large means nothing.

    Take relu() for activations, softmax or sigmoid for probabilities; clamp the denominator of a division.
    """
    for maps, _ in _scored(case):
        if not torch.isfinite(maps).all() or maps.min() < 0 or maps.max() > _HALF:
            low, high = maps.min().item(), maps.max().item()
            raise BrokenContractError(f"scores from {low:g} to {high:g}; they must be in [0, {_HALF:g}]")


@check("method", needs=("scores_are_sound", "channels_as_declared"))
def probabilities_add_up(case: Case) -> None:
    """Probabilities are not normalised again: they compete with the background as they are.

    Declare `output = 'activation'`, or take a softmax over the channels.
    """
    method = case.method(case.families[0])
    if method.output != "probability":
        raise NotApplicableError("its scores are activations")
    for maps, _ in _scored(case):
        if maps.max() > 1 + _TOLERANCE:
            raise BrokenContractError(f"a probability of {maps.max().item():g}")
        sums = maps.sum(1)
        if method.background and (sums - 1).abs().max() > _TOLERANCE:
            raise BrokenContractError(f"they sum to {sums.min().item():g} to {sums.max().item():g} over the channels")


@check("method", needs=("scores_on_a_grid",))
def presence_as_declared(case: Case) -> None:
    """On held-out pictures a class may appear only if the method says so itself; without presence all of them may.

    Return (maps, presence) with presence (B, num_classes - 1) in [0, 1], and predicts_presence = True.
    """
    for _, presence in _scored(case):
        if (presence is not None) != case.plugin.predicts_presence:
            raise BrokenContractError(f"predicts_presence is {case.plugin.predicts_presence}, `score` says otherwise")
        if presence is None:
            continue
        expected = (3, len(case.toy.classes) - 1)
        if tuple(presence.shape) != expected:
            raise BrokenContractError(f"presence of {tuple(presence.shape)}, expected {expected}: no background")
        if not torch.isfinite(presence).all() or presence.min() < 0 or presence.max() > 1:
            raise BrokenContractError(f"presence from {presence.min().item():g} to {presence.max().item():g}")


@check("method", needs=("scores_on_a_grid",))
def labels_unused(case: Case) -> None:
    """Image labels of held-out pictures are an oracle; only the protocol may hand them out, and only where declared.

    Do without, or declare conditions_on_labels = True, which stands in the record.
    """
    if case.plugin.conditions_on_labels or "masks" in case.plugin.supervision:
        raise NotApplicableError("it declares that it uses them")
    for family in case.families:
        images = case.pictures(2)
        with torch.random.fork_rng():
            torch.manual_seed(0)
            without = case.maps(family, images, None)[0]
            torch.manual_seed(0)
            given = case.maps(family, images, case.data.labels[:2].clone())[0]
        if not torch.equal(without, given):
            raise BrokenContractError("scores change when image labels are given")


@check("method", needs=("scores_on_a_grid",))
def batch_is_no_matter(case: Case) -> None:
    """How many pictures are scored at once follows from memory; the score must not.

    Take maxima, means and normalisation over one picture at a time, never over the batch.
    """
    for family in case.families:
        for labels in case.labels(3):
            images = case.pictures(3)
            together, presence = case.maps(family, images, labels)
            for index in range(3):
                own = None if labels is None else labels[index : index + 1]
                alone, said = case.maps(family, images[index : index + 1], own)
                pairs = [(together[index], alone[0])]
                if presence is not None and said is not None:
                    pairs.append((presence[index], said[0]))
                for one, other in pairs:
                    if (one - other).abs().max() > _TOLERANCE * max(one.abs().max().item(), 1e-6):
                        raise BrokenContractError("a picture scores otherwise alone than among others")


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
    """The size `native` keeps each picture's own proportions.

    Keep height and width apart: features are (B, dim, h, w).
    """
    for maps, _ in _scored(case, 2, (48, 96)):
        if maps.shape[2] > maps.shape[3]:
            raise BrokenContractError(f"a wide picture gives a tall grid, {tuple(maps.shape[2:])}")
