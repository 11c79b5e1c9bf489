"""The records of an experiment, and what it calls its rows."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pandas as pd

from harness.errors import UserError
from harness.protocol import VERIFICATION
from harness.registry import Registry
from harness.spec import Experiment, Grid, expand, settings_of
from harness.strict import canonical


def only(found: pd.DataFrame, experiments: Sequence[Experiment], registry: Registry) -> pd.DataFrame:
    """Return the records of the cells of some experiments, whatever they started from and with whatever seeds.

    What a protocol says counts, not what it is called: `strict-1` is what older records call `strict`.
    """
    wanted = {_content(spec) for experiment in experiments for spec in _specs(experiment.grids, registry)}
    own = [_content(_whole(record["spec"], registry)) in wanted for record in found.record]
    return found[pd.Series(own, found.index, dtype=bool)]  # a plain list that is empty would choose columns


def named(found: pd.DataFrame, experiments: Sequence[Experiment], registry: Registry) -> pd.DataFrame:
    """Return records with the names that experiments give their rows; none where several names fit a row."""
    names: dict[str, set[str]] = {}
    for grid in (grid for experiment in experiments for grid in experiment.grids if grid.name):
        for spec in _specs([grid], registry):
            names.setdefault(_masks(spec), set()).add(grid.name)
    fitting = [names.get(_masks(_whole(record["spec"], registry)), set()) for record in found.record]
    return found.assign(name=[next(iter(own)) if len(own) == 1 else "" for own in fitting])


def _specs(grids: Sequence[Grid], registry: Registry) -> list[dict[str, Any]]:
    return [cell.spec.model_dump(mode="json") for cell in expand(grids, registry, {})]


def _whole(spec: dict[str, Any], registry: Registry) -> dict[str, Any]:
    """Return the spec of a record with the defaults of settings that its method has got since."""
    try:
        method, dataset = registry.load("method", spec["method"]), registry.load("dataset", spec["dataset"])
        return spec | {"params": settings_of(method, dataset, {})[0] | spec["params"]}
    except UserError:  # of a plugin that is not given, or without a default
        return spec


def _content(spec: dict[str, Any], *besides: str) -> str:
    """Return what distinguishes the cells of an experiment, but some fields of the protocol."""
    left_out = ("weights", "checkpoint", "seed", "limit")
    kept = {key: value for key, value in spec.items() if key not in left_out and value is not None}
    apart = ("name", "summary", "source", "version", *besides)
    return canonical(kept | {"protocol": {key: value for key, value in spec["protocol"].items() if key not in apart}})


def _masks(spec: dict[str, Any]) -> str:
    """Return what distinguishes the rows of a table: refiners and verifiers are columns."""
    rows = {key: value for key, value in spec.items() if key not in ("refiner", "verifier")}
    return _content(rows, "refine", *VERIFICATION)
