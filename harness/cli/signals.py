"""What a signal does to a command: one line, the signal's exit status, and nothing left running."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from harness.errors import InterruptedRunError

_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_PATIENCE = 3.0  # seconds for an orderly end
_received: list[int] = []  # Ray raises an interrupt of its own that does not say which it was


def listen() -> None:
    """Let signals end the command in good order; SIGHUP is ignored where `nohup` asks for that."""
    for number in _SIGNALS:
        if number != signal.SIGHUP or signal.getsignal(number) != signal.SIG_IGN:
            signal.signal(number, _stop)


@contextmanager
def stoppable() -> Iterator[None]:
    """Turn a signal into an error that says that nothing is lost.

    Raises
    ------
    InterruptedRunError
    """
    try:
        yield
    except KeyboardInterrupt:
        raise InterruptedRunError(_received[0] if _received else signal.SIGINT) from None


def leave(error: InterruptedRunError) -> None:
    """Say what happened and end the process, whatever else it would still wait for."""
    print(f"error: {error}", file=sys.stderr, flush=True)
    os._exit(error.exit_code)


def _stop(number: int, frame: FrameType | None) -> None:
    """Stop in good order at the first signal, at once at the second or when that takes too long."""
    for again in _SIGNALS:
        signal.signal(again, lambda *_: os._exit(128 + number))
    timer = threading.Timer(_PATIENCE, leave, [InterruptedRunError(number)])
    timer.daemon = True
    timer.start()
    _received.append(number)
    raise KeyboardInterrupt
