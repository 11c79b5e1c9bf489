"""Checks that a method leaves alone what is not its own."""

from __future__ import annotations

import copy
from collections.abc import Callable

import torch

from harness.check.case import Case
from harness.check.model import learns
from harness.check.suite import NotApplicableError, check, must
from harness.check.watch import disturbed


@check("method", needs=("trains",))
def input_unmodified(case: Case) -> None:
    """The same images and labels are used again: for the mirrored view, for the next scale, for the next step.

    Work on a copy, as images.clone(); functions whose names end in _ change in place.
    """
    method, batch = case.method(), case.batch()
    if learns(method):
        given = copy.deepcopy(batch)
        case.step(method, case.build(), given)
        same = torch.equal(given.images, batch.images) and torch.equal(given.labels, batch.labels)
        must(same, "`training_step` changes its batch")
    for labels in case.labels(4):
        images, handed = batch.images.clone(), copy.deepcopy(labels)
        case.score(method, case.fitted, images, handed)
        same = labels is None or handed is None or torch.equal(handed, labels)
        must(same and torch.equal(images, batch.images), "`score` changes its input")


@check("method", needs=("trains",))
def model_unmodified(case: Case) -> None:
    """Scores must not depend on what was scored before, and a model in the wrong mode drops out where none is meant.

    Leave model.train() and model.eval() as they are when you are done; change no buffer in `score`.
    """
    method, model = case.method(), case.fitted
    before = {name: value.clone() for name, value in model.state_dict().items()}
    case.score(method, model, case.images(2), case.labels(2)[0])
    must(not any(module.training for module in model.modules()), "`score` leaves the model in training mode")
    for name, value in model.state_dict().items():
        must(torch.equal(value, before[name]), f"`score` changes {name}")
    if learns(method):
        model = case.build()
        case.step(method, model, case.batch())
        must(model.training, "`training_step` leaves the model in evaluation mode")


@check("method", needs=("trains",))
def global_state_unchanged(case: Case) -> None:
    """A stage shares its process with the harness: a seed that is set repeats the same noise in every step.

    Draw random numbers without seeding; set no cwd, environment, threads or default dtype.
    """
    method, model = case.method(), case.build()
    images, labels, classes = case.images(2), case.labels(2)[0], len(case.toy.classes)
    parent = case.parent()
    actions: dict[str, Callable[[], object]] = {
        "build": lambda: (
            method.build(case.backbone(), classes)
            if parent is None
            else method.build_from(parent, case.backbone(), classes)
        ),
        "score": lambda: case.score(method, case.fitted, images, labels),
    }
    if learns(method):
        actions["training_step"] = lambda: case.step(method, model, case.batch())
    for name, action in actions.items():
        found = disturbed(action)
        must(not found, f"`{name}` sets the {', the '.join(found)}")


@check("method", needs=("trains",))
def writes_nothing(case: Case) -> None:
    """Hundreds of workers share a folder, and a file that lasts is a score that depends on what ran before.

    Keep it in the model, or write to session.folder in `fit`.
    """
    names = [path.name for path in case.deeds.written]
    must(not names, f"it writes {', '.join(names[:3])}")


@check("method", needs=("trains",))
def stays_offline(case: Case) -> None:
    """Workers of a cluster reach no network, and what is fetched today may be another file tomorrow.

    Let --weights fetch weights before the run, and ship small files with the package.
    """
    must(not case.deeds.called, f"it calls {', '.join(case.deeds.called[:3])}")


@check("method", needs=("trains",))
def masks_unseen(case: Case) -> None:
    """Image labels are the supervision. A mask, or a box in an annotation file, is another task.

    Use batch.labels; or declare supervision = ('masks',), which marks an oracle.
    """
    if "masks" in case.plugin.supervision:
        raise NotApplicableError("it declares that it uses them")
    images = case.toy.image_path(case.data.ids[0]).parent
    for path in case.deeds.read:
        allowed = path.parent == images or not path.is_relative_to(case.toy.root)
        must(allowed, f"it opens {path.name} in {path.parent.name}")
