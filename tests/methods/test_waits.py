"""No training step makes the host wait for a GPU, whoever's it is; counted on a CPU."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from harness.backbones import Weights, build_backbone
from harness.check.case import BACKBONES, SIDE, Case
from harness.phases import Batch, Step
from harness.registry import Registry
from harness.trainable import Trainable
from tests.operations import operations

REGISTRY = Registry()
ASKED_ON_A_CPU_ALONE = {
    "occse": 2,
    "onestage": 2,
    "sipe": 2,
    "bes": 2,
    "cian": 2,
}  # by torch's one_hot, whether its classes are below the last
ONCE = {"afa": 1, "toco": 1, "dupl": 1, "conta": 1}  # how many classes the fullest image of the batch shows
WITHOUT_FILES = {"clims", "wood"}  # need what cannot be fetched here, to be built or to take a step


def trained(kind: str) -> list[tuple[str, str]]:
    """Return the plugins of a kind that train, each with every family of backbones."""
    found = []
    for name in REGISTRY.names(kind):
        plugin = REGISTRY.load(kind, name)
        if plugin.training_step is not Trainable.training_step and name not in WITHOUT_FILES:
            found += [(name, family) for family in plugin.families or [""]]
    return found


def waits(trainee: Trainable, model: torch.nn.Module, phase: int, batch: Batch) -> int:
    """Return how often the host waits in a step of the last tenth of a phase, the backward pass included."""

    def step() -> None:
        losses = trainee.training_step(model.train(), batch, Step(9, 10, 95, 100, phase))
        torch.stack(list(losses.values())).sum().backward()

    step()  # what is made once
    return operations(step).waited.total()


@pytest.mark.parametrize(("name", "family"), trained("method"))
def test_a_step_of_a_method_waits_for_nothing(toy: object, name: str, family: str) -> None:
    case = Case(REGISTRY, REGISTRY.entry("method", name), [], {}, None, family)
    method, model = case.method(), case.build()
    batch = replace(case.batch(), valid=torch.ones(4, 1, SIDE, SIDE, dtype=torch.bool))
    for phase in range(len(method.phases(model))):
        method.start_phase(model, case.data, phase)
        expected = (ASKED_ON_A_CPU_ALONE | ONCE).get(name, 0) if phase == 0 else 0
        assert waits(method, model, phase, batch) == expected, phase


@pytest.mark.parametrize("name", sorted({name for name, _ in trained("refiner")}))
def test_a_step_of_a_refiner_waits_for_nothing(toy: object, name: str) -> None:
    case = Case(REGISTRY, REGISTRY.entry("refiner", name), [], {}, None)
    refiner = case.plugin(case.plugin.Params())
    model = refiner.build(build_backbone(BACKBONES[refiner.families[-1]], Weights("random")), len(case.toy.classes))
    labels = torch.randint(0, 3, (4, len(refiner.learns_from()), SIDE, SIDE))
    batch = replace(case.batch(), valid=torch.ones(4, 1, SIDE, SIDE, dtype=torch.bool), pseudo=labels)
    for phase in range(len(refiner.phases(model))):
        expected = ASKED_ON_A_CPU_ALONE.get(name, 0)
        assert waits(refiner, model, phase, batch) == expected, phase
