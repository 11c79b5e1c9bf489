"""What a plugin's code gives back, held against its contract while a run goes on: a breach is one line with its name.

All of it looks at types and shapes on the host; nothing waits for a device.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from harness.errors import HarnessError
from harness.phases import Phase
from harness.trainable import Trainable


class BrokenContractError(HarnessError):
    """What a plugin gave, and what its contract expects."""


def must(holds: object, plugin: Trainable, function: str, gave: str, expected: str) -> None:
    """Raise unless something holds.

    Raises
    ------
    BrokenContractError
        With the plugin's name, what its function gave and what is expected.
    """
    if not holds:
        raise BrokenContractError(f"{plugin.kind} '{plugin.name}': `{function}` gave {gave}, expected {expected}")


@contextmanager
def exits_refused(method: Trainable) -> Iterator[None]:
    """Turn an exception by which code ends its process into a failure like any other.

    Raises
    ------
    BrokenContractError
    """
    try:
        yield
    except (KeyboardInterrupt, SystemExit) as error:
        message = f"{method.kind} '{method.name}' raised {type(error).__name__}, expected results or an Exception"
        raise BrokenContractError(message) from error


def checked_model(method: Trainable, model: Any) -> nn.Module:
    """Return what `build` gave."""
    must(isinstance(model, nn.Module), method, "build", describe(model), "a torch.nn.Module")
    return model


def checked_phases(method: Trainable, phases: Any) -> list[Phase]:
    """Return what `phases` gave, the parameters of each group as a list."""
    expected = "a list of harness.Phase"
    listed = isinstance(phases, list | tuple) and all(isinstance(phase, Phase) for phase in phases)
    must(listed, method, "phases", describe(phases), expected)
    for phase in phases:
        whole = isinstance(phase.epochs, int) and phase.epochs >= 0
        must(whole, method, "phases", f"{phase.epochs!r} epochs", "a whole number of epochs, 0 or more")
        known = isinstance(getattr(torch.optim, str(phase.optimizer), None), type)
        must(known, method, "phases", f"the optimizer {phase.optimizer!r}", "the name of one in torch.optim")
        must(callable(phase.schedule), method, "phases", f"a schedule {describe(phase.schedule)}", "a callable")
        listed = isinstance(phase.groups, list | tuple)
        must(listed, method, "phases", f"the groups {describe(phase.groups)}", "a list of dicts with `params`")
        for group in phase.groups:
            sound = isinstance(group, dict) and "params" in group and not isinstance(group["params"], Tensor)
            must(sound, method, "phases", f"the group {describe(group)}", "a dict with a list of `params`")
            group["params"] = list(group["params"])
            sound = all(isinstance(parameter, nn.Parameter) for parameter in group["params"])
            must(sound, method, "phases", "a group with other `params`", "parameters of the model")
    return list(phases)


def checked_losses(method: Trainable, losses: Any) -> dict[str, Tensor]:
    """Return what `training_step` gave."""
    expected = "a dict of losses by name, each a float tensor of shape ()"
    named = isinstance(losses, dict) and losses and all(isinstance(name, str) for name in losses)
    must(named, method, "training_step", describe(losses), expected)
    for name, loss in losses.items():
        sound = isinstance(loss, Tensor) and loss.shape == () and loss.is_floating_point()
        must(sound, method, "training_step", f"the loss '{name}' as {describe(loss)}", expected)
    trained = any(loss.requires_grad for loss in losses.values())
    must(trained, method, "training_step", "losses that no parameter takes part in", "losses with a gradient")
    return losses


def describe(value: Any) -> str:
    """Return what a value is, in a few words."""
    if isinstance(value, Tensor | np.ndarray):
        return f"a {type(value).__name__} {value.dtype} {tuple(value.shape)}"
    if value is None or isinstance(value, bool | int | float | str):
        return repr(value)[:60]
    size = f" of {len(value)}" if isinstance(value, list | tuple | dict) else ""
    return f"a {type(value).__name__}{size}"
