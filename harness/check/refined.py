"""Checks of a refiner."""

from __future__ import annotations

from typing import Any

import numpy as np

from harness.check.case import Case
from harness.check.suite import BrokenContractError, NotApplicableError, check
from harness.check.watch import disturbed, watched
from harness.data.base import open_rgb
from harness.method import Refiner
from harness.spec import refiner_config

_TOLERANCE = 1e-3


def _refiner(case: Case, **changes: Any) -> Refiner:
    """Return the refiner with its default settings, or with those of its first preset."""
    params = case.plugin.Params.model_validate(settings(case) | changes)
    return case.plugin(params)


def settings(case: Case) -> dict[str, Any]:
    """Return settings with which a refiner runs."""
    config = refiner_config(case.registry, rule(case))
    assert config is not None
    return config["params"]


def rule(case: Case) -> str:
    """Return how the refiner is asked for: by its name, or with its first preset where a setting has no default."""
    name = case.entry.name
    required = any(field.is_required() for field in case.plugin.Params.model_fields.values())
    return f"{name}:{case.registry.names(name)[0]}" if required else name


def _picture(case: Case) -> np.ndarray:
    """Return a toy picture, higher than wide or wider than high."""
    image = open_rgb(case.toy.image_path(case.toy.ids("val")[0]))
    return np.ascontiguousarray(image[:64, :80])


def _probabilities(image: np.ndarray, channels: int = 3) -> np.ndarray:
    """Return smooth probabilities (C, H, W) that favour another channel in every stripe of the picture."""
    height, width = image.shape[:2]
    place = np.linspace(0, channels, width, endpoint=False)[None, None] - np.arange(channels)[:, None, None] - 0.5
    weights = np.exp(-2 * np.broadcast_to(place, (channels, height, width)) ** 2).astype(np.float32) + 0.1
    return weights / weights.sum(0)


@check("refiner", needs=("has_defaults",))
def keeps_shape(case: Case) -> None:
    """A refined map is read like the one before: the same channels, the same pixels.

    Return a float array of the shape of `probabilities`.
    """
    image = _picture(case)
    for channels in (3, 2):
        given = _probabilities(image, channels)
        refined = _refiner(case).refine(image, given.copy())
        if not isinstance(refined, np.ndarray) or refined.shape != given.shape or refined.dtype.kind != "f":
            shape = getattr(refined, "shape", type(refined).__name__)
            raise BrokenContractError(f"{given.shape} become {shape}")


@check("refiner", needs=("keeps_shape",))
def stays_probable(case: Case) -> None:
    """What is refined is probabilities, and another refiner or a reader may take them for that.

    Normalise what you return over the channels.
    """
    image = _picture(case)
    refined = _refiner(case).refine(image, _probabilities(image))
    _must_be_probable(refined)


def _must_be_probable(refined: np.ndarray) -> None:
    if not np.isfinite(refined).all() or refined.min() < -_TOLERANCE or refined.max() > 1 + _TOLERANCE:
        raise BrokenContractError(f"values from {refined.min():g} to {refined.max():g}")
    sums = refined.sum(0)
    if np.abs(sums - 1).max() > _TOLERANCE:
        raise BrokenContractError(f"they sum to {sums.min():g} to {sums.max():g} over the channels")


@check("refiner", needs=("keeps_shape",))
def refines_the_same(case: Case) -> None:
    """The same scores give the same masks, whichever worker refines them.

    Draw no random numbers.
    """
    image = _picture(case)
    one, other = (_refiner(case).refine(image, _probabilities(image)) for _ in range(2))
    if not np.array_equal(one, other):
        raise BrokenContractError("two refinements of one picture differ")


@check("refiner", needs=("keeps_shape",))
def refiner_input_unmodified(case: Case) -> None:
    """The harness goes on using what it handed over.

    Work on copies: probabilities.copy().
    """
    image = _picture(case)
    given = _probabilities(image)
    picture, kept = image.copy(), given.copy()
    _refiner(case).refine(image, given)
    if not np.array_equal(image, picture) or not np.array_equal(given, kept):
        raise BrokenContractError("`refine` changes its input")


@check("refiner", needs=("keeps_shape",))
def uses_its_settings(case: Case) -> None:
    """A setting stands in the key and in the record; one that changes nothing tells a reader something untrue.

    Read self.params in `refine`.
    """
    image = _picture(case)
    given, base = _probabilities(image), settings(case)
    tried = {name: other for name, value in base.items() if (other := _other(value)) is not None}
    if not tried:
        raise NotApplicableError("it has no numbers among its settings")
    refined = _refiner(case).refine(image, given.copy())
    for name, value in tried.items():
        try:
            other = _refiner(case, **{name: value}).refine(image, given.copy())
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
def constant_picture(case: Case) -> None:
    """A picture without any contrast has nothing to say: the likeliest class stays the likeliest.

    Clamp the denominator of every division by a distance or a deviation.
    """
    image = np.full((32, 40, 3), 128, np.uint8)
    given = np.broadcast_to(np.array([0.2, 0.5, 0.3], np.float32)[:, None, None], (3, 32, 40)).copy()
    refined = _refiner(case).refine(image, given)
    _must_be_probable(refined)
    if (refined.argmax(0) != 1).any():
        raise BrokenContractError("on a picture of one colour another class becomes the likeliest")


@check("refiner", needs=("keeps_shape",))
def background_alone(case: Case) -> None:
    """Where the protocol opens no class, the background is the only channel.

    Return a single channel as it is.
    """
    image = _picture(case)
    refined = _refiner(case).refine(image, _probabilities(image, 1))
    if refined.shape != (1, *image.shape[:2]) or not np.isfinite(refined).all():
        raise BrokenContractError(f"of one channel it makes {refined.shape}")


@check("refiner", needs=("keeps_shape",))
def refiner_leaves_no_trace(case: Case) -> None:
    """Masks of several cells are refined in one process, one after the other.

    Draw and seed no random numbers, write no files; set no cwd, environment, threads or dtype.
    """
    image = _picture(case)
    given = _probabilities(image)
    found = disturbed(lambda: _refiner(case).refine(image, given.copy()))
    if found:
        raise BrokenContractError(f"`refine` sets the {', the '.join(found)}")
    with watched() as deeds:
        _refiner(case).refine(image, given.copy())
    if deeds.written:
        raise BrokenContractError(f"`refine` writes {deeds.written[0].name}")
