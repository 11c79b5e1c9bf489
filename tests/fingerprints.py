"""Hashes of the sources that decide what each stage computes.

`python -m tests.fingerprints` acknowledges a change: run it after bumping a stage's version, or when no number changes.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

from harness.source_hash import code_of
from harness.stages import STAGES

ROOT = Path(__file__).parent.parent
ACCEPTED = Path(__file__).with_suffix(".json")

_VERIFIER = [f"deeplab/{name}.py" for name in ("head", "model", "networks", "recipe", "segmentor")]
_TRAINING = ["training.py", "loader.py", "augment.py"]
_BACKBONE = ["backbones.py", "timm_models.py", "features.py"]
SOURCES = {
    "labels": ["stages/labels.py", "data/index.py", "data/voc.py", "data/base.py"],
    "fit": ["stages/fit.py", *_TRAINING, *_BACKBONE, "kmeans.py", "data/base.py"],
    "select": ["stages/select.py", "stages/score.py", "pseudomask.py", "metrics.py", "data/base.py"],
    "score": ["stages/score.py", "stages/fit.py", "loader.py", *_BACKBONE, "external.py", "data/base.py"],
    "curve": ["stages/curve.py", "pseudomask.py", "metrics.py", "data/base.py"],
    "fit_refiner": ["stages/fit_refiner.py", *_TRAINING, *_BACKBONE, "data/base.py"],
    "mask": ["stages/mask.py", "pseudomask.py", "crf.py", "data/base.py"],
    "verify": [
        "stages/verify.py",
        *_VERIFIER,
        "deeplab/data.py",
        "deeplab/trainer.py",
        "deeplab/weights.py",
        "training.py",
        *_BACKBONE,
        "features.py",
        "data/base.py",
    ],
    "segment": ["stages/segment.py", "stages/mask.py", *_VERIFIER, "crf.py", "data/base.py"],
    "evaluate": ["stages/evaluate.py", "metrics.py", "data/base.py"],
}


def fingerprints() -> dict[str, dict[str, object]]:
    """Return version and source hashes of every stage."""
    assert SOURCES.keys() == STAGES.keys()
    return {
        stage: {"version": STAGES[stage].version, "sources": {name: _hash(ROOT / "harness" / name) for name in names}}
        for stage, names in SOURCES.items()
    }


def _hash(path: Path) -> str:
    """Hash what a module does, whatever Python does it."""
    return hashlib.sha256(code_of(path.read_bytes())).hexdigest()[:16]


if __name__ == "__main__":
    ACCEPTED.write_text(json.dumps(fingerprints(), indent=1) + "\n")
