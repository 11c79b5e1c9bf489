"""What a plugin does beside its work: the state of the process that it changes, the files and hosts that it touches."""

from __future__ import annotations

import os
import random
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

_CHANGES = ("os.mkdir", "os.rename", "os.remove", "os.rmdir", "os.link", "os.symlink", "os.truncate")
_CONNECTS = ("socket.connect", "socket.getaddrinfo")
_HARMLESS = ("/dev/", "/proc/", "__pycache__")


@dataclass(frozen=True)
class State:
    """The state that all code of a process shares, by name."""

    parts: dict[str, Any]

    @classmethod
    def now(cls) -> State:
        """Return the state as it is."""
        return cls(
            {
                "working directory": os.getcwd(),
                "environment": dict(os.environ),
                "torch threads": torch.get_num_threads(),
                "torch default dtype": torch.get_default_dtype(),
                "torch gradient mode": torch.is_grad_enabled(),
                "torch deterministic mode": torch.are_deterministic_algorithms_enabled(),
                "numpy error handling": np.geterr(),
                **_randomness(),
            }
        )

    def changed(self, before: State) -> list[str]:
        """Return the names of what is not as it was; drawn random numbers are a change too."""
        return [name for name, value in self.parts.items() if value != before.parts[name]]


def _randomness() -> dict[str, Any]:
    name, keys, *rest = np.random.get_state()  # noqa: NPY002
    return {
        "random seed": random.getstate(),
        "numpy random seed": (name, np.asarray(keys).tobytes(), *rest),
        "torch random seed": torch.get_rng_state().numpy().tobytes(),
    }


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
        before = State.now()
        action()
        after = State.now()
        found.update(dict.fromkeys(name for name in after.changed(before) if not name.endswith("seed")))
        ends.append(after.parts)
    seeded = [name for name in ends[0] if name.endswith("seed") and ends[0][name] == ends[1][name]]
    return [*found, *seeded]


@contextmanager
def restored() -> Iterator[None]:
    """Put the shared state back as it was, whatever is done to it."""
    before = State.now().parts
    numpy_state, torch_state = np.random.get_state(), torch.get_rng_state()  # noqa: NPY002
    try:
        yield
    finally:
        os.chdir(before["working directory"])
        if dict(os.environ) != before["environment"]:
            os.environ.clear()
            os.environ.update(before["environment"])
        torch.set_num_threads(before["torch threads"])
        torch.set_default_dtype(before["torch default dtype"])
        torch.set_grad_enabled(before["torch gradient mode"])
        torch.use_deterministic_algorithms(before["torch deterministic mode"])
        np.seterr(**before["numpy error handling"])
        random.setstate(before["random seed"])
        np.random.set_state(numpy_state)  # noqa: NPY002
        torch.set_rng_state(torch_state)


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


def _hear(event: str, arguments: tuple[Any, ...]) -> None:
    for deeds in _watching:
        deeds.note(event, arguments)


@contextmanager
def watched() -> Iterator[Deeds]:
    """Take down what is done to files and hosts. The hook stays in the process, as Python has it, and is idle after."""
    global _hooked
    if not _hooked:
        sys.addaudithook(_hear)
        _hooked = True
    deeds = Deeds()
    _watching.append(deeds)
    try:
        yield deeds
    finally:
        _watching.remove(deeds)


_hooked = False
