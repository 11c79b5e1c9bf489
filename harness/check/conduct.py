"""Checks that a method leaves alone what is not its own."""

from __future__ import annotations

from collections.abc import Callable

import torch

from harness.check.case import Case
from harness.check.suite import BrokenContractError, NotApplicableError, check
from harness.check.trained import learns
from harness.check.watch import disturbed


@check("method", needs=("trains",))
def input_unmodified(case: Case) -> None:
    """The same pictures and labels are used again: for the mirrored view, for the next scale, for the next step.

    Work on a copy, as images.clone(); functions whose names end in _ change in place.
    """
    for family in case.families:
        method, model, batch = case.method(family), case.build(family), case.batch()
        images, labels = batch.images.clone(), batch.labels.clone()
        if learns(method):
            case.step(method, model, batch)
        if not torch.equal(batch.images, images) or not torch.equal(batch.labels, labels):
            raise BrokenContractError("`training_step` changes its batch")
        for given in case.labels(4):
            kept = torch.zeros(0) if given is None else given.clone()
            case.score(method, case.fitted(family), batch.images, given)
            if not torch.equal(batch.images, images) or (given is not None and not torch.equal(given, kept)):
                raise BrokenContractError("`score` changes its input")


@check("method", needs=("trains",))
def model_unmodified(case: Case) -> None:
    """Scores must not depend on what was scored before, and a model in the wrong mode drops out where none is meant.

    Leave model.train() and model.eval() as they are when you are done; change no buffer in `score`.
    """
    for family in case.families:
        method, model = case.method(family), case.fitted(family)
        before = {name: value.clone() for name, value in model.state_dict().items()}
        case.score(method, model, case.pictures(2), case.labels(2)[0])
        if any(module.training for module in model.modules()):
            raise BrokenContractError("`score` leaves the model in training mode")
        changed = [name for name, value in model.state_dict().items() if not torch.equal(value, before[name])]
        if changed:
            raise BrokenContractError(f"`score` changes {changed[0]}")
        if learns(method):
            model = case.build(family)
            case.step(method, model, case.batch())
            if not model.training:
                raise BrokenContractError("`training_step` leaves the model in evaluation mode")


@check("method", needs=("trains",))
def global_state_unchanged(case: Case) -> None:
    """A stage shares its process with the harness: a seed that is set repeats the same noise in every step.

    Draw random numbers without seeding; set no cwd, environment, threads or default dtype.
    """
    for family in case.families:
        for name, action in _actions(case, family).items():
            if found := disturbed(action):
                raise BrokenContractError(f"`{name}` sets the {', the '.join(found)}")


def _actions(case: Case, family: str) -> dict[str, Callable[[], object]]:
    method, model, fitted = case.method(family), case.build(family), case.fitted(family)
    images, labels, classes = case.pictures(2), case.labels(2)[0], len(case.toy.classes)
    actions: dict[str, Callable[[], object]] = {
        "build": lambda: method.build(case.backbone(family), classes),
        "score": lambda: case.score(method, fitted, images, labels),
    }
    if learns(method):
        actions["training_step"] = lambda: case.step(method, model, case.batch())
    return actions


@check("method", needs=("trains",))
def writes_nothing(case: Case) -> None:
    """Hundreds of workers share a folder, and a file that lasts is a score that depends on what ran before.

    Keep it in the model, or write to session.folder in `fit`.
    """
    if case.deeds.written:
        raise BrokenContractError(f"it writes {case.deeds.written[0].name}")


@check("method", needs=("trains",))
def stays_offline(case: Case) -> None:
    """Workers of a cluster reach no network, and what is fetched today may be another file tomorrow.

    Let --weights fetch weights before the run, and ship small files with the package.
    """
    if case.deeds.called:
        raise BrokenContractError(f"it calls {case.deeds.called[0]}")


@check("method", needs=("trains",))
def masks_unseen(case: Case) -> None:
    """Image labels are the supervision. A mask, or a box in an annotation file, is another task.

    Use batch.labels; or declare supervision = ('masks',), which marks an oracle.
    """
    if "masks" in case.plugin.supervision:
        raise NotApplicableError("it declares that it uses them")
    pictures = case.toy.image_path(case.data.ids[0]).parent
    forbidden = [path for path in case.deeds.read if path.is_relative_to(case.toy.root) and path.parent != pictures]
    if forbidden:
        raise BrokenContractError(f"it opens {forbidden[0].relative_to(case.toy.root)}")
