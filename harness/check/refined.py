"""Checks of a refiner."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from harness.backbones import Weights, build_backbone
from harness.check.case import BACKBONES, Case
from harness.check.suite import BrokenContractError, NotApplicableError, check, must
from harness.check.watch import disturbed, watched
from harness.data.base import open_rgb
from harness.method import Refiner
from harness.spec import refiner_config

_TOLERANCE = 1e-3


def _settings(case: Case) -> dict[str, Any]:
    """Return settings with which the refiner runs: its defaults, or those of its first preset."""
    return dict((refiner_config(case.registry, case.rule) or {})["params"])


def _refiner(case: Case, channels: int = 3, **changes: Any) -> Refiner:
    """Return a new refiner, with a model where it has one; `changes` of its settings."""
    refiner: Refiner = case.plugin(case.plugin.Params.model_validate(_settings(case) | changes))
    refiner.classes = range(1, channels + (case.plugin.refines == "maps"))
    if lacks := refiner.missing(case.data.ids):
        raise NotApplicableError(lacks)
    if refiner.trained:
        torch.manual_seed(0)
        backbone = build_backbone(BACKBONES[refiner.families[-1]], Weights("random"))
        refiner.model = refiner.build(backbone, len(case.toy.classes)).eval()
    return refiner


def _refine(case: Case, image: np.ndarray, probabilities: np.ndarray, **changes: Any) -> Any:
    """Return what a new refiner makes of probabilities; `changes` of its settings."""
    return _refiner(case, len(probabilities), **changes).refine(image, probabilities)


def _must_not_learn(case: Case) -> None:
    if case.plugin.trained:
        raise NotApplicableError("it learns first; `refines_on_toy` trains it")


def _example(case: Case, channels: int = 3) -> tuple[np.ndarray, np.ndarray]:
    """Return a toy image and smooth probabilities (C, H, W) that favour another channel in every stripe of it."""
    image = np.ascontiguousarray(open_rgb(case.toy.image_path(case.toy.ids("val")[0]))[:64, :80])
    height, width = image.shape[:2]
    place = np.linspace(0, channels, width, endpoint=False)[None, None] - np.arange(channels)[:, None, None] - 0.5
    weights = np.exp(-2 * np.broadcast_to(place, (channels, height, width)) ** 2).astype(np.float32) + 0.1
    return image, weights / weights.sum(0)


@check("refiner", needs=("has_defaults",))
def keeps_shape(case: Case) -> None:
    """A refined map is read like the one before: the same channels, the same pixels.

    Return a float array of the shape of `probabilities`.
    """
    for channels in (3, 2):
        image, given = _example(case, channels)
        refined = _refine(case, image, given.copy())
        count = channels + (case.plugin.background_rule == "model")
        kept = isinstance(refined, np.ndarray) and refined.dtype.kind == "f" and len(refined) == count
        kept = kept and (case.plugin.refines == "maps" or refined.shape == given.shape)
        must(kept, f"{given.shape} become {getattr(refined, 'shape', type(refined).__name__)}")


@check("refiner", needs=("keeps_shape",))
def stays_probable(case: Case) -> None:
    """What is refined is probabilities, and another refiner or a reader may take them for that.

    Normalise what you return over the channels.
    """
    _must_not_learn(case)
    _must_be_probable(_refine(case, *_example(case)))


def _must_be_probable(refined: np.ndarray) -> None:
    low, high, sums = refined.min(), refined.max(), refined.sum(0)  # of values that are no numbers, no number
    must(low >= -_TOLERANCE and high <= 1 + _TOLERANCE, f"values from {low:g} to {high:g}")
    must(np.abs(sums - 1).max() <= _TOLERANCE, f"they sum to {sums.min():g} to {sums.max():g} over the channels")


@check("refiner", needs=("keeps_shape",))
def refines_the_same(case: Case) -> None:
    """The same scores give the same masks, whichever worker refines them.

    Draw no random numbers.
    """
    one, other = (_refine(case, *_example(case)) for _ in range(2))
    must(np.array_equal(one, other), "two refinements of one image differ")


@check("refiner", needs=("keeps_shape",))
def refiner_input_unmodified(case: Case) -> None:
    """The harness goes on using what it handed over.

    Work on copies: probabilities.copy().
    """
    (image, given), (same, kept) = _example(case), _example(case)
    _refine(case, image, given)
    must(np.array_equal(image, same) and np.array_equal(given, kept), "`refine` changes its input")


@check("refiner", needs=("keeps_shape",))
def uses_its_settings(case: Case) -> None:
    """A setting stands in the key and in the record; one that changes nothing tells a reader something untrue.

    Read self.params in `refine`.
    """
    _must_not_learn(case)
    image, given = _example(case)
    tried = {name: other for name, value in _settings(case).items() if (other := _other(value)) is not None}
    if not tried:
        raise NotApplicableError("it has no numbers among its settings")
    refined = _refine(case, image, given.copy())
    for name, value in tried.items():
        try:
            other = _refine(case, image, given.copy(), **{name: value})
        except ValueError:
            continue  # out of its range
        if not np.array_equal(refined, other):
            return
    raise BrokenContractError(f"none of {', '.join(tried)} changes what comes out")


def _other(value: Any) -> Any:
    """Return another value of a setting, or None."""
    if isinstance(value, bool):
        return not value
    if isinstance(value, int):
        return value + 1
    if isinstance(value, float):
        return value / 2
    return value[1:] if isinstance(value, list) and len(value) > 1 else None


@check("refiner", needs=("keeps_shape",))
def constant_image(case: Case) -> None:
    """An image without any contrast has nothing to say: the likeliest class stays the likeliest.

    Clamp the denominator of every division by a distance or a deviation.
    """
    _must_not_learn(case)
    image = np.full((32, 40, 3), 128, np.uint8)
    given = np.broadcast_to(np.array([0.2, 0.5, 0.3], np.float32)[:, None, None], (3, 32, 40)).copy()
    refined = _refine(case, image, given)
    _must_be_probable(refined)
    must((refined.argmax(0) == 1).all(), "on an image of one colour another class becomes the likeliest")


@check("refiner", needs=("keeps_shape",))
def background_alone(case: Case) -> None:
    """Where the protocol opens no class, the background is the only channel.

    Return a single channel as it is.
    """
    _must_not_learn(case)
    image, alone = _example(case, 1)
    refined = _refine(case, image, alone.copy())
    must(refined.shape == alone.shape and np.isfinite(refined).all(), f"of one channel it makes {refined.shape}")


@check("refiner", needs=("keeps_shape",))
def refiner_leaves_no_trace(case: Case) -> None:
    """Masks of several cells are refined in one process, one after the other.

    Draw and seed no random numbers, write no files; set no cwd, environment, threads or dtype.
    """
    image, given = _example(case)
    refiner = _refiner(case)
    found = disturbed(lambda: refiner.refine(image, given.copy()))
    must(not found, f"`refine` sets the {', the '.join(found)}")
    with watched() as deeds:
        refiner.refine(image, given.copy())
    must(not deeds.written, f"`refine` writes {', '.join(path.name for path in deeds.written)}")
