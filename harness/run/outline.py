"""What cells would take, said without their data and weights: for a look before anything is fetched."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from harness.cell import Cell, distinct_titles
from harness.errors import UserError
from harness.inputs import open_dataset
from harness.method import Method, Refiner
from harness.registry import Registry


def outline(cells: Sequence[Cell], registry: Registry, root: Path | None) -> list[dict[str, Any]]:
    """Return for each cell `cell`, `state`, `why` if it cannot run, its `stages`, and what it `needs` and from where.

    Parameters
    ----------
    cells : sequence of Cell
    registry : Registry
    root : Path or None
        The folder of datasets that need one.
    """
    rows: list[dict[str, Any]] = []
    for cell, title in zip(cells, distinct_titles([cell.spec for cell in cells]), strict=True):
        stages, needs = ([], []) if cell.barred else (_stages(cell, registry), _needs(cell, registry, root))
        state = cell.barred or ("needs files" if needs else "to run")
        rows.append({"cell": title, "state": state, "why": cell.why_barred, "stages": stages, "needs": needs})
    return rows


def _stages(cell: Cell, registry: Registry) -> list[str]:
    """Return the stages of a cell in the order in which they run."""
    method: type[Method] = registry.load("method", cell.spec.method)
    protocol = cell.spec.protocol
    refiner: type[Refiner] | None = None
    if protocol.refine != "none":
        refiner = registry.load("refiner", protocol.refine.partition(":")[0])
    made = {
        "labels": True,
        "fit": bool(method.families),
        "select": bool(method.families) and protocol.checkpoint.kind != "last",
        "score": True,
        "fit_refiner": refiner is not None and refiner.trained,
        "mask": True,
        "evaluate": True,
        "curve": method.output != "labels",
        "verify": protocol.verify != "none",
        "segment": protocol.verify != "none",
    }
    return [stage for stage, runs in made.items() if runs]


def _needs(cell: Cell, registry: Registry, root: Path | None) -> list[str]:
    from harness.timm_models import hub_file, timm_id

    needs = []
    try:
        open_dataset(registry.load("dataset", cell.spec.dataset), root)
    except UserError as error:
        needs.append(str(error).replace("\n", "; "))
    if cell.weights == "hub":
        needs.append(f"weights of {cell.spec.backbone}: {hub_file(timm_id(cell.spec.backbone, registry))}")
    elif cell.weights not in ("random", "none") and not Path(cell.weights).is_file():
        needs.append(f"weights of {cell.spec.backbone}: no file {cell.weights}")
    if cell.spec.verifier and cell.spec.verifier["init"] != "random" and not cell.verify_weights:
        verifier = cell.spec.verifier
        needs.append(f"weights of the verifier, {verifier['init']}, of {verifier['backbone']}: --verify-weights FILE")
    return needs
