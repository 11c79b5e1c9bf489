"""Checks of a method's model: built, saved, trained."""

from __future__ import annotations

import copy
from contextlib import suppress
from itertools import accumulate
from typing import Any

import torch
from torch import Tensor, nn

from harness.check.case import Case
from harness.check.suite import NotApplicableError, check, must
from harness.check.watch import reseed
from harness.contract import checked_losses, checked_phases
from harness.method import Method
from harness.phases import Batch, Step
from harness.stages.fit import load_checkpoint
from harness.training import save_model

_PER_EPOCH = 2  # steps


@check("method", needs=("skips_with_a_reason",))
def builds(case: Case) -> None:
    """Every backbone of a declared family must do: tables set them side by side.

    Return an nn.Module; use `backbone.dim` and `backbone.stride`, not numbers.
    """
    case.build()


@check("method", needs=("builds",))
def counts_parameters(case: Case) -> None:
    """Tables say how many parameters are the backbone's and how many the method adds; both are counted there.

    Keep the backbone as the attribute `backbone` of the model.
    """
    kept = not case.family or isinstance(getattr(case.build(), "backbone", None), nn.Module)
    must(kept, "the model has no `backbone`")


@check("method", needs=("trains",))
def survives_saving(case: Case) -> None:
    """Scores come from another process, which builds the model again and loads its state.

    Register weights as parameters or buffers, and share none under two names.
    """
    path = case.place() / "model.safetensors"
    save_model(case.fitted, path)
    again = case.build(seed=1)
    load_checkpoint(again, path)
    images, labels = case.images(2), case.labels(2)[0]
    same = torch.equal(case.maps(images, labels)[0], case.maps(images, labels, again.eval())[0])
    must(same, "a model that is saved and loaded gives other scores")


@check("method", needs=("builds",))
def losses_named(case: Case) -> None:
    """The losses are summed, and their curves are kept by name.

    Return {'name': loss} with each loss of shape ().
    """
    if case.plugin.training_step is Method.training_step:
        if case.plugin.parent and not case.method().phases(case.build()):
            raise NotApplicableError("it takes its parent's model as it is")
        must(case.plugin.fit is not Method.fit, "there is neither a `training_step` nor a `fit`")
        raise NotApplicableError("it has a `fit` of its own, without training steps")
    losses = checked_losses(case.method(), case.step(case.method(), case.build(), case.batch()))
    for name, loss in losses.items():
        must(torch.isfinite(loss), f"the loss '{name}' is {loss.item():g}")


@check("method", needs=("losses_named", "trains"))
def gradients_arrive(case: Case) -> None:
    """A part that is said to be trained, and that no gradient reaches, stays at its start: the score is of less than
    the paper says.

    Look for detach(), no_grad(), argmax or a part that no loss uses; or leave it out of `phases`.
    """
    method, model = case.method(), copy.deepcopy(case.fitted)
    phases = checked_phases(method, method.phases(model))
    *starts, epochs = accumulate([phase.epochs for phase in phases], initial=0)
    for number, (phase, first) in enumerate(zip(phases, starts, strict=True)):
        middle = first + phase.epochs // 2
        step = Step(middle, epochs, middle * _PER_EPOCH, epochs * _PER_EPOCH, number)
        trained = {id(parameter) for group in phase.groups for parameter in group["params"]}
        if not phase.epochs or not trained:
            continue
        model.zero_grad()
        for parameter in model.parameters():
            parameter.requires_grad_(id(parameter) in trained)
        torch.stack(list(case.step(method, model, case.batch(), step).values())).sum().backward()
        norms: dict[str, float] = {}  # by part of the model
        for name, parameter in model.named_parameters():
            if id(parameter) in trained:
                part, arrived = name.partition(".")[0], parameter.grad
                norms[part] = norms.get(part, 0.0) + (0.0 if arrived is None else arrived.norm().item())
        for part, norm in norms.items():
            must(0 < norm < float("inf"), f"the gradient of `{part}` is {norm:g}")


@check("method", needs=("builds",))
def trains(case: Case) -> None:
    """A training that changes nothing is a random start under the name of a method.

    See `phases`: its learning rates, and the parameters in its groups.
    """
    method = case.method()
    model, session = case.fit(method)
    changed = not learns(method) or _difference(case.build(), model)
    must(changed, f"two epochs changed no weight; losses: {session.curves}")


@check("method", needs=("trains",))
def training_is_deterministic(case: Case) -> None:
    """The same seed gives the same weights, on the same machine: else a better method cannot be told from luck.

    Draw random numbers from torch alone; the harness seeds it. numpy and `random` are not seeded.
    """
    reseed(3)  # the first training began from other generators
    name = _difference(case.fitted, case.fit()[0])
    must(not name, f"two trainings from one seed end with other weights: {name}")


@check("method", needs=("losses_named", "training_is_deterministic"))
def training_is_resumable(case: Case) -> None:
    """A training that was killed goes on from its last epoch, and must end where it would have ended.

    Keep what lasts from step to step in the model's buffers, not in the method.
    """
    folder, killed = case.place(), case.method()
    whole = killed.training_step

    def until_half(model: Any, batch: Batch, step: Step) -> dict[str, Tensor]:
        if step.iteration > step.total // 2:
            raise _KilledError
        return whole(model, batch, step)

    vars(killed)["training_step"] = until_half
    with suppress(_KilledError):
        case.fit(killed, folder)
    name = _difference(case.fitted, case.fit(folder=folder)[0])
    must(not name, f"a training that was killed and resumed ends with other weights: {name}")


class _KilledError(BaseException):
    """What ends a training in the middle."""


def learns(method: Method) -> bool:
    """Return whether a method has training steps of its own."""
    return type(method).training_step is not Method.training_step


def _difference(one: nn.Module, other: nn.Module) -> str:
    """Return the name of a weight or buffer in which two models differ; empty if there is none."""
    theirs = other.state_dict()
    return next((name for name, value in one.state_dict().items() if not torch.equal(value, theirs[name])), "")
