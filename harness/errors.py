"""Errors that a person sees: one or two lines that say what to do, and the exit status that goes with them."""

from __future__ import annotations

import signal
from collections.abc import Iterable
from difflib import get_close_matches


class HarnessError(Exception):
    """A failure with a message for people; ends a command with `exit_code`.

    `at_once` leaves without what Python and libraries do at their exit: they would wait for what is no longer there.
    """

    exit_code = 1
    at_once = False


class UserError(HarnessError):
    """The user's mistake: a wrong name, value, file or folder."""

    exit_code = 2


class EnvironmentUnfitError(HarnessError):
    """The environment cannot do it: a package, a device or the network is missing."""

    exit_code = 3


class MissingWeightsError(EnvironmentUnfitError):
    """Weights that cannot be had here; other cells need not wait for them."""


class LostRayError(EnvironmentUnfitError):
    """Ray's own processes have died under a run."""

    at_once = True


class InterruptedRunError(HarnessError):
    """A signal ended the command; what was finished is kept.

    Parameters
    ----------
    number : int
        The signal: 2 of Ctrl-C, 15 of a scheduler, 1 of a terminal that was closed.
    """

    at_once = True

    def __init__(self, number: int = signal.SIGINT) -> None:
        self.exit_code = 128 + number
        how = "interrupted" if number == signal.SIGINT else f"stopped by {signal.Signals(number).name}"
        super().__init__(f"{how}: what was finished is kept; the same command goes on from there")


SHOWN = 20  # names of an error message, at most


def closest(name: str, known: Iterable[str]) -> str:
    """Return the end of an error message about an unknown name: the closest one, or those that there are.

    Examples
    --------
    >>> closest("vitpmc", ["cam", "vitpcm"])
    "did you mean 'vitpcm'?"
    >>> closest("zzz", ["vitpcm", "cam"])
    'known: cam, vitpcm'
    """
    known = sorted(known)
    match = get_close_matches(name, known, n=1, cutoff=0.6)
    if match:
        return f"did you mean '{match[0]}'?"
    more = f", and {len(known) - SHOWN} more" if len(known) > SHOWN else ""
    return f"known: {', '.join(known[:SHOWN]) or 'none'}{more}"
