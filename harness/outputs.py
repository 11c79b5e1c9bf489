"""What `score` and `refine` give back, held against their contract; see `harness.contract`."""

from __future__ import annotations

from typing import Any

import numpy as np
from torch import Tensor

from harness.contract import describe, must
from harness.method import Method, Refiner

TOLERANCE = 1e-3  # by which a probability may exceed 1


def checked_scores(method: Method, scored: Any, count: int) -> tuple[Tensor, Tensor | None]:
    """Return score maps and presence of `count` images; how many classes they have, see `check_classes`."""
    if method.predicts_presence:
        paired = isinstance(scored, tuple) and len(scored) == 2
        must(paired, method, "score", describe(scored), "a pair, maps and presence (predicts_presence is True)")
        maps, presence = scored
        sound = _floats(presence, 2) and len(presence) == count
        must(sound, method, "score", f"presence as {describe(presence)}", f"a float tensor ({count}, num_classes - 1)")
    else:
        maps, presence = scored, None
    sound = _floats(maps, 4) and len(maps) == count and maps.numel()
    expected = "maps" if method.predicts_presence else "maps alone (predicts_presence is False)"
    must(sound, method, "score", describe(maps), f"{expected}: a float tensor ({count}, C, h, w)")
    return maps, presence


def check_classes(method: Method, maps: Tensor, presence: Tensor | None, classes: int) -> None:
    """See that maps have a channel for each class, and presence a column for each but the background."""
    expected = classes - (not method.background)
    own = "with" if method.background else "without"
    sound = maps.shape[1] == expected
    must(sound, method, "score", f"{maps.shape[1]} channels", f"{expected}: {classes} classes {own} the background")
    if presence is not None:
        columns = presence.shape[1]
        must(columns == classes - 1, method, "score", f"presence of {columns} classes", f"{classes - 1}: no background")


def check_range(method: Method, spread: Tensor, what: str, highest: float = float("inf")) -> None:
    """See that scores or presence, of which these are the lowest and the highest, are finite and in their range."""
    low, high = spread.tolist()
    sound = low >= 0 and high <= highest + TOLERANCE and high < float("inf")
    expected = "finite and non-negative ones" if highest == float("inf") else f"finite ones in [0, {highest:g}]"
    must(sound, method, "score", f"{what} from {low:g} to {high:g}", expected)


def checked_refined(refiner: Refiner, refined: Any, given: np.ndarray) -> np.ndarray:
    """Return what `refine` made of some probabilities, or of maps, which may come back at another grid."""
    sound = isinstance(refined, np.ndarray) and refined.dtype.kind == "f" and refined.ndim == 3
    if refiner.refines == "maps":
        counts = [len(given) + more for more in ((1, 2) if refiner.background_rule == "model" else (0,))]
        sound = sound and len(refined) in counts and refined.size > 0
        expected = f"a float array ({' or '.join(map(str, counts))}, h, w)"
    else:
        sound, expected = sound and refined.shape == given.shape, f"a float array {given.shape}"
    must(sound, refiner, "refine", describe(refined), expected)
    must(np.isfinite(refined).all(), refiner, "refine", "NaN or infinity", "finite numbers")
    return refined


def _floats(value: Any, dimensions: int) -> bool:
    return isinstance(value, Tensor) and value.ndim == dimensions and value.is_floating_point()
