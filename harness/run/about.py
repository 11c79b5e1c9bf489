"""What a record says of a cell beside its spec: hashes, effective rules, uses of ground truth."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from harness.effective import ground_truth
from harness.run.graph import CellGraph


def about(cell: CellGraph) -> dict[str, Any]:
    """Return what the record of a cell says beside its spec, from its stages."""
    splits = cell.protocol.eval_splits
    gating = {split: cell.gating(split) for split in cell.splits}
    weights = cell.weights
    refined = cell.refiner_class.supervision if cell.refiner_class else ()
    nodes = [cell.graph.nodes[key] for key in cell.keys]
    return {
        "timm": cell.timm,
        "weights": {
            "source": weights.source,
            "sha256": weights.sha256,
            "file": weights.path.name if weights.path else "",
        },
        "checkpoint": {"file": Path(cell.cell.checkpoint).name, "sha256": cell.checkpoint.sha256}
        if cell.checkpoint
        else None,
        "method_version": cell.version,
        "supervision": list(dict.fromkeys([*cell.method.supervision, *refined])),
        "applied": {
            "background": str(cell.background),
            "gating": {split: str(rule) for split, rule in gating.items()},
        },
        "ground_truth": ground_truth(
            cell.method, cell.protocol, (*cell.dataset.training_splits, *cell.dataset.blind_splits), gating
        ),
        "classes": [cell.dataset.classes[class_id] for class_id in cell.class_ids],
        "data": {node.config.split: node.config.content for node in nodes if node.stage == "labels"},
        "masks": {
            "set": cell.dataset.mask_set(),
            "pixels": {split: cell.index(split).mask_digest for split in splits if cell.is_scored(split)},
        },
        "pictures": {split: len(cell.index(split).ids) for split in splits},
        **({"overlaps": cell.overlaps} if cell.overlaps else {}),
        **({"verifier": _verifier(cell)} if cell.spec.verifier else {}),
    }


def _verifier(cell: CellGraph) -> dict[str, Any]:
    """Return what the record says of the verifier before it is trained."""
    assert cell.spec.verifier
    start = cell.start
    return {
        "recipe": cell.protocol.verify, "init": cell.spec.verifier["init"], "sha256": start.sha256,
        "file": start.path.name if start.path else "", "mask_split": cell.protocol.mask_split,
    }  # fmt: skip
