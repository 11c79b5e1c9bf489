"""What a run will take, from what the same stages took before in the same results folder."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

from rich.filesize import decimal

from harness.results.store import MANIFEST, Store
from harness.run.progress import length_of_time
from harness.stages import Node

GIB = 2**30
_ALIKE = ("method", "timm", "dataset", "precision")  # of a configuration, and of its parameters:
_SIZES = ("epochs", "image_size", "inference_size")


@dataclass(frozen=True)
class Estimate:
    """What some stages will take together.

    Attributes
    ----------
    hours : float
        One stage after the other; two at once take half of it.
    gpu_hours : float
        Of these, on a GPU.
    gib : float
        Of artefacts, GiB.
    known, unknown : int
        How many stages have run like this before, and how many have not.
    """

    hours: float
    gpu_hours: float
    gib: float
    known: int
    unknown: int

    def __str__(self) -> str:
        if not self.known:
            return "no stage like these has run in this results folder: no estimate"
        gpu = f", {length_of_time(3600 * self.gpu_hours)} of them on a GPU" if self.gpu_hours else ""
        size = decimal(round(self.gib * GIB))
        text = f"about {length_of_time(3600 * self.hours)} of stages{gpu}, and {size}, as such stages took before"
        return text + (f"; without {self.unknown} stages that have no like" if self.unknown else "")


def estimate(store: Store, nodes: Iterable[Node]) -> Estimate:
    """Estimate what stages will take: the mean of the stages most like each."""
    seen: dict[tuple[str, ...], list[dict[str, Any]]] = {}
    for path in (store.root / "artefacts").glob(f"*/*/{MANIFEST}"):
        manifest = _read(path)
        if manifest:
            for likeness in _likenesses(manifest["stage"], manifest["config"]):
                seen.setdefault(likeness, []).append(manifest)
    hours = gpu_hours = gib = 0.0
    known = unknown = 0
    for node in nodes:
        alike = next(
            (seen[key] for key in _likenesses(node.stage, node.config.model_dump(mode="json")) if key in seen), None
        )
        if alike is None:
            unknown += 1
            continue
        known += 1
        hours += fmean(manifest["seconds"] for manifest in alike) / 3600
        gpu_hours += fmean(manifest["seconds"] * ("gpu" in manifest["memory_mb"]) for manifest in alike) / 3600
        gib += fmean(manifest["bytes"] for manifest in alike) / GIB
    return Estimate(hours, gpu_hours, gib, known, unknown)


def _likenesses(stage: str, config: dict[str, Any]) -> list[tuple[str, ...]]:
    """Return how a stage can be like another, the closest first."""
    same = [str(config.get(name)) for name in _ALIKE]
    size = [str(config.get("params", {}).get(name)) for name in _SIZES]
    refiner = json.dumps(config.get("refine"), sort_keys=True)
    return [(stage, *same, *size, refiner), (stage, *same, refiner), (stage, *same[:2], refiner)]


def _read(path: Path) -> dict[str, Any] | None:
    try:
        return json.loads(path.read_text("utf-8"))
    except (OSError, ValueError):
        return None  # a run is going on, or the artefact is damaged
