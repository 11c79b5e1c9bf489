"""Checks of a method's training."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from harness.check.case import Case
from harness.check.suite import BrokenContractError, NotApplicableError, check
from harness.check.watch import reseed
from harness.method import Method


@check("method", needs=("builds",))
def losses_named(case: Case) -> None:
    """The losses are summed, and their curves are kept by name.

    Return {'name': loss} with each loss of shape ().
    """
    _must_learn(case)
    for family in case.families:
        losses = case.step(case.method(family), case.build(family), case.batch())
        if not isinstance(losses, dict) or not losses:
            raise BrokenContractError(f"`training_step` returns a {type(losses).__name__}, not a dict of losses")
        for name, loss in losses.items():
            if not isinstance(loss, Tensor) or loss.shape != ():
                raise BrokenContractError(f"the loss '{name}' is no scalar")
            if not torch.isfinite(loss):
                raise BrokenContractError(f"the loss '{name}' is {loss.item():g}")


@check("method", needs=("losses_named", "trains"))
def gradients_arrive(case: Case) -> None:
    """A part that is said to be trained, and that no gradient reaches, stays at its start: the score is of less than
    the paper says.

    Look for detach(), no_grad(), argmax or a part that no loss uses; or leave it out of `phases`.
    """
    for family in case.families:
        method, model = case.method(family), copy.deepcopy(case.fitted(family))
        names = {parameter: name for name, parameter in model.named_parameters()}
        for phase in method.phases(model):
            trained = [parameter for group in phase.groups for parameter in list(group["params"])]
            if phase.epochs and trained:
                model.zero_grad()
                for parameter in model.parameters():
                    parameter.requires_grad_(any(parameter is one for one in trained))
                torch.stack(list(case.step(method, model, case.batch()).values())).sum().backward()
                parts: dict[str, float] = {}
                for parameter in trained:
                    part = names[parameter].partition(".")[0]
                    norm = 0.0 if parameter.grad is None else parameter.grad.norm().item()
                    parts[part] = parts.get(part, 0.0) + norm
                for part, norm in parts.items():
                    if not 0 < norm < float("inf"):
                        raise BrokenContractError(f"the gradient of `{part}` is {norm:g}")


@check("method", needs=("builds",))
def trains(case: Case) -> None:
    """A training that changes nothing is a random start under the name of a method.

    See `phases`: its learning rates, and the parameters in its groups.
    """
    for family in case.families:
        method = case.method(family)
        model, session = case.fit(family, method, case.place())
        start = case.build(family).state_dict()
        if learns(method) and all(torch.equal(value, start[name]) for name, value in model.state_dict().items()):
            raise BrokenContractError(f"two epochs changed no weight; losses: {session.curves}")


@check("method", needs=("trains",))
def training_is_deterministic(case: Case) -> None:
    """The same seed gives the same weights, on the same machine: else nobody can tell a better method from luck.

    Draw random numbers from torch alone; the harness seeds it. numpy and `random` are not seeded.
    """
    for family in case.families:
        reseed(3)  # the first training began from other generators
        again = case.fit(family, case.method(family), case.place())[0]
        _must_equal(case.fitted(family), again, "two trainings from one seed end with other weights")


@check("method", needs=("losses_named", "training_is_deterministic"))
def training_is_resumable(case: Case) -> None:
    """A training that was killed goes on from its last epoch, and must end where it would have ended.

    Keep what lasts from step to step in the model's buffers, not in the method.
    """
    for family in case.families:
        counted, whole = _Counted(case.method(family)), case.fitted(family)
        case.fit(family, counted.method, case.place())
        folder, killed = case.place(), _Counted(case.method(family), counted.calls // 2 + 1)
        try:
            case.fit(family, killed.method, folder)
        except _KilledError:
            resumed = case.fit(family, case.method(family), folder)[0]
            _must_equal(whole, resumed, "a training that was killed and resumed ends with other weights")


class _KilledError(BaseException):
    """What ends a training in the middle."""


class _Counted:
    """A method whose training steps are counted, and that is killed at the last of them."""

    def __init__(self, method: Method, last: int | None = None) -> None:
        self.method, self.last, self.calls = method, last, 0
        self._step: Callable[..., Any] = method.training_step
        vars(method)["training_step"] = self._count

    def _count(self, *arguments: Any) -> Any:
        self.calls += 1
        if self.calls == self.last:
            raise _KilledError
        return self._step(*arguments)


def learns(method: Method) -> bool:
    """Return whether a method has training steps of its own."""
    return type(method).training_step is not Method.training_step


def _must_learn(case: Case) -> None:
    if case.plugin.training_step is not Method.training_step:
        return
    if case.plugin.fit is Method.fit:
        raise BrokenContractError("there is neither a `training_step` nor a `fit`")
    raise NotApplicableError("it has a `fit` of its own, without training steps")


def _must_equal(one: nn.Module, other: nn.Module, otherwise: str) -> None:
    theirs = other.state_dict()
    for name, value in one.state_dict().items():
        if not torch.equal(value, theirs[name]):
            raise BrokenContractError(f"{otherwise}: {name}")
