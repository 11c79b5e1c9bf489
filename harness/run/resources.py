"""What a stage asks of a machine: cores, GPUs, memory. Said by defaults, the method, the experiment and the command."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import yaml

from harness.errors import UserError, closest
from harness.stages import STAGES, Node

QUANTITIES = ("cpus", "gpus", "memory_gb")


def known(resources: Mapping[str, float]) -> dict[str, float]:
    """Return some resources, by `stage.quantity`, after checking names and amounts.

    Raises
    ------
    UserError
    """
    names = [f"{stage}.{quantity}" for stage in STAGES for quantity in QUANTITIES]
    for name, amount in resources.items():
        if name not in names:
            raise UserError(f"unknown resource '{name}': {closest(name, names)}")
        if amount < 0 or (name.endswith("gpus") and amount > 1):
            raise UserError(f"{name} {amount:g}: a stage runs on one GPU, expected 0 to 1; cells share out the others")
    return dict(resources)


@dataclass(frozen=True)
class Request:
    """What a stage takes while it runs.

    Attributes
    ----------
    cpus, gpus : float
    memory_gb : float
        GiB; 0 leaves it open.
    """

    cpus: float
    gpus: float = 0.0
    memory_gb: float = 0.0


def parse_resources(assignments: Sequence[str]) -> dict[str, float]:
    """Turn `--resources` options, `STAGE.QUANTITY=NUMBER`, into a mapping.

    Raises
    ------
    UserError
    """
    found = {}
    for assignment in assignments:
        name, equals, number = assignment.partition("=")
        try:
            amount = yaml.safe_load(number) if equals else None
        except yaml.YAMLError:
            amount = None
        if not isinstance(amount, int | float):
            raise UserError(f"--resources {assignment}: expected STAGE.QUANTITY=NUMBER, as fit.gpus=0.5")
        found[name.strip()] = float(amount)
    return known(found)


def request(node: Node, given: Mapping[str, float], threads: int, gpus: float) -> Request:
    """Return what a stage takes.

    Parameters
    ----------
    node : Node
        With what its method and its experiment say.
    given : mapping
        What the command says, by `stage.quantity`; it wins.
    threads : int
        Cores of a stage that runs a model, where nobody says otherwise.
    gpus : float
        How many there are; such a stage takes one of them, where nobody says otherwise.
    """
    model = STAGES[node.stage].runs_model
    asked = {"cpus": float(threads if model else 1), "gpus": min(1.0, gpus) if model else 0.0}
    for name, amount in (*node.resources.items(), *given.items()):
        stage, _, quantity = name.partition(".")
        if stage == node.stage:
            asked[quantity] = amount
    return Request(**asked | {"gpus": asked["gpus"] if gpus else 0.0})
