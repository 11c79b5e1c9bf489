"""The public names: what a plugin author imports, and what a notebook needs. Each is loaded when it is first used."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from harness.backbones import build_tower as build_tower
    from harness.cell import RunSpec as RunSpec
    from harness.data.base import Dataset as Dataset
    from harness.file_setting import File as File
    from harness.file_setting import Folder as Folder
    from harness.loader import TrainingData as TrainingData
    from harness.method import Method as Method
    from harness.method import Params as Params
    from harness.method import Refiner as Refiner
    from harness.method import RefinerParams as RefinerParams
    from harness.method import TrainedRefinerParams as TrainedRefinerParams
    from harness.method import TrainParams as TrainParams
    from harness.phases import Augment as Augment
    from harness.phases import Batch as Batch
    from harness.phases import Phase as Phase
    from harness.phases import Step as Step
    from harness.report.dataframe import load_results as load_results
    from harness.training import Session as Session

_HOMES = {
    "Augment": "harness.phases",
    "Batch": "harness.phases",
    "Dataset": "harness.data.base",
    "File": "harness.file_setting",
    "Folder": "harness.file_setting",
    "Method": "harness.method",
    "Params": "harness.method",
    "Phase": "harness.phases",
    "Refiner": "harness.method",
    "RefinerParams": "harness.method",
    "RunSpec": "harness.cell",
    "Session": "harness.training",
    "Step": "harness.phases",
    "TrainParams": "harness.method",
    "TrainedRefinerParams": "harness.method",
    "TrainingData": "harness.loader",
    "build_tower": "harness.backbones",
    "load_results": "harness.report.dataframe",
}
__all__ = sorted(_HOMES)


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'harness' has no attribute '{name}'")
    return getattr(importlib.import_module(_HOMES[name]), name)
