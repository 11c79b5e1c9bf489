"""What a benchmark is: two sides or more that make the same thing, and a number that compares them."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

Side = Callable[[], tuple[float, Any]]
Values = Mapping[str, float]


@dataclass(frozen=True)
class Aim:
    """A bound on the ratio.

    Attributes
    ----------
    sign : {">=", "<="}
    bound : float
    """

    sign: str
    bound: float

    def met(self, ratio: float) -> bool:
        """Return whether a ratio is good enough."""
        return ratio >= self.bound if self.sign == ">=" else ratio <= self.bound

    def __str__(self) -> str:
        return f"{'≥' if self.sign == '>=' else '≤'} {self.bound:.3g}"


@dataclass(frozen=True)
class Row:
    """A line of the table.

    Attributes
    ----------
    name : str
    what, against : str
        What is measured, and what it is compared with.
    unit : str
        Of what the sides return.
    sides : dict
        By name, each a callable that returns its number and what it has made; the harness is the first.
    ratio : callable
        Makes the number of the table from those of all sides.
    aim : Aim
    agree : callable
        Called with what each side has made; returns what was equal.

        Raises
        ------
        AssertionError
            If they did not make the same.
    facts : callable
        Returns measured facts by what they are called: the floor, and where the rest goes. Asked after the repeats.
    repeats : int
    warm : bool
        Whether a first go of each side does not count.
    opponents : tuple of str
        The distributions whose versions are recorded.
    """

    name: str
    what: str
    against: str
    unit: str
    sides: dict[str, Side]
    ratio: Callable[[Values], float]
    aim: Aim
    agree: Callable[[Mapping[str, Any]], str]
    facts: Callable[[], dict[str, str]] = dict
    repeats: int = 5
    warm: bool = True
    opponents: tuple[str, ...] = ()


@dataclass
class Setting:
    """Where and how a benchmark runs.

    Attributes
    ----------
    folder : Path
        Scratch.
    dataset : str
        With VOC's classes, splits and layout.
    root : Path
        Where it is.
    device : {"cpu", "cuda"}
    threads : int
        For each side.
    tiny : bool
        Whether only to see that the sides agree, with as little work as possible.
    stack : ExitStack
        What is to be ended with the benchmark.
    ray_seconds : float or None
        How long Ray took to start, once a row has needed it.
    """

    folder: Path
    dataset: str
    root: Path
    device: str
    threads: int
    tiny: bool = False
    stack: ExitStack = field(default_factory=ExitStack)
    ray_seconds: float | None = None

    def pick(self, full: Any, tiny: Any) -> Any:
        """Return the one or the other, as the run is tiny or not."""
        return tiny if self.tiny else full


def best_of_others(values: Values) -> float:
    """Return how many times more the first side does than the best of the others."""
    first, *others = values.values()
    return first / max(others)


def share_of_other(values: Values) -> float:
    """Return how much of the second side's amount the first takes."""
    first, second = values.values()
    return first / second


def seconds(work: Callable[[], Any], device: str = "cpu") -> tuple[float, Any]:
    """Return how long some work took, until the device had done it, and what it returned."""
    _wait(device)
    started = time.perf_counter()
    made = work()
    _wait(device)
    return time.perf_counter() - started, made


def rate(amount: int, work: Callable[[], Any], device: str = "cpu") -> tuple[float, Any]:
    """Return how much of an amount was done per second, and what the work returned."""
    taken, made = seconds(work, device)
    return amount / taken, made


def _wait(device: str) -> None:
    if device == "cuda":
        import torch

        torch.cuda.synchronize()
