"""What a plugin does beside its work: the state of the process that it changes, the files and hosts that it touches."""

from __future__ import annotations

import os
import random
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch

_CHANGES = ("os.mkdir", "os.rename", "os.remove", "os.rmdir", "os.link", "os.symlink", "os.truncate")
_CONNECTS = ("socket.connect", "socket.getaddrinfo")
_HARMLESS = ("/dev/", "/proc/", "__pycache__")


def _set_environment(kept: dict[str, str]) -> None:
    if dict(os.environ) != kept:
        os.environ.clear()
        os.environ.update(kept)


def _numpy_randomness() -> tuple[Any, ...]:
    name, keys, *rest = np.random.get_state()  # noqa: NPY002
    return name, np.asarray(keys).tolist(), *rest


# The state that all code of a process shares: how it is read, and how it is set.
_STATE: dict[str, tuple[Callable[[], Any], Callable[[Any], object]]] = {
    "working directory": (os.getcwd, os.chdir),
    "environment": (lambda: dict(os.environ), _set_environment),
    "torch threads": (torch.get_num_threads, torch.set_num_threads),
    "torch default dtype": (torch.get_default_dtype, torch.set_default_dtype),
    "torch gradient mode": (torch.is_grad_enabled, torch.set_grad_enabled),
    "torch deterministic mode": (torch.are_deterministic_algorithms_enabled, torch.use_deterministic_algorithms),
    "numpy error handling": (np.geterr, lambda kept: np.seterr(**kept)),
    "random seed": (random.getstate, random.setstate),
    "numpy random seed": (_numpy_randomness, np.random.set_state),
    "torch random seed": (
        lambda: torch.get_rng_state().tolist(),
        lambda kept: torch.set_rng_state(torch.tensor(kept, dtype=torch.uint8)),
    ),
}


def state() -> dict[str, Any]:
    """Return the shared state as it is, by name."""
    return {name: read() for name, (read, _) in _STATE.items()}


def changed(before: dict[str, Any]) -> list[str]:
    """Return the names of what is not as it was; drawn random numbers are a change too."""
    return [name for name, value in state().items() if value != before[name]]


def reseed(seed: int) -> None:
    """Seed every generator that a plugin may draw from."""
    random.seed(seed)
    np.random.seed(seed)  # noqa: NPY002
    torch.manual_seed(seed)


def disturbed(action: Callable[[], object]) -> list[str]:
    """Return the names of the shared state that an action changes; random numbers may be drawn, not seeded.

    It runs twice, from two seeds: if a generator then stands at the same place both times, it was seeded in between.
    """
    found: dict[str, None] = {}
    ends = []
    for seed in (1, 2):
        reseed(seed)
        before = state()
        action()
        found.update(dict.fromkeys(name for name in changed(before) if not name.endswith("seed")))
        ends.append(state())
    seeded = [name for name in _STATE if name.endswith("seed") and ends[0][name] == ends[1][name]]
    return [*found, *seeded]


@contextmanager
def restored() -> Iterator[None]:
    """Put the shared state back as it was, whatever is done to it."""
    before = state()
    try:
        yield
    finally:
        for name, (_, write) in _STATE.items():
            write(before[name])


@dataclass
class Deeds:
    """What Python code opened, changed and called while it was watched; compiled code is not seen.

    Attributes
    ----------
    read, written : list of Path
    called : list of str
        Hosts.
    """

    read: list[Path] = field(default_factory=list)
    written: list[Path] = field(default_factory=list)
    called: list[str] = field(default_factory=list)

    def note(self, event: str, arguments: tuple[Any, ...]) -> None:
        """Take down an audit event."""
        if event == "open" and isinstance(arguments[0], str | bytes | os.PathLike):
            mode, flags = arguments[1] or "", arguments[2] or 0
            writes = set(mode) & set("wax+") or flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)
            self._file(arguments[0], self.written if writes else self.read)
        elif event in _CHANGES:
            self._file(arguments[0], self.written)
        elif event in _CONNECTS:
            address = arguments[1] if event == "socket.connect" else arguments[0]
            if not isinstance(address, str) or event != "socket.connect":  # a string is a socket of this machine
                self.called.append(str(address[0] if isinstance(address, tuple) else address))

    def _file(self, path: Any, place: list[Path]) -> None:
        name = os.path.abspath(os.fsdecode(path))
        if not any(part in name for part in _HARMLESS):
            place.append(Path(name))


_watching: list[Deeds] = []


@cache
def _listen() -> None:
    """Hook into Python's audit events; the hook stays in the process, as Python has it, and is idle after."""

    def hear(event: str, arguments: tuple[Any, ...]) -> None:
        for deeds in _watching:
            deeds.note(event, arguments)

    sys.addaudithook(hear)


@contextmanager
def watched() -> Iterator[Deeds]:
    """Take down what is done to files and hosts."""
    _listen()
    deeds = Deeds()
    _watching.append(deeds)
    try:
        yield deeds
    finally:
        _watching.remove(deeds)
