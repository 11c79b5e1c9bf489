"""What the numbers of a table have in common: protocol, classes, images, and what a dataset says of itself."""

from __future__ import annotations

import pandas as pd

from harness.data.base import Dataset
from harness.registry import Registry


def _classes(group: pd.DataFrame) -> str:
    """Return how many classes there are, and how many of them occur, where some do not."""
    whole = len(group.record.iloc[0]["classes"])
    occurring = [sum(value is not None for value in row.iou.values()) for row in group.itertuples()]
    return str(whole) if min(occurring) == whole else f"{min(occurring)} of {whole} that occur,"


def protocol_notes(dataset: str, group: pd.DataFrame, splits: list[str], registry: Registry) -> list[str]:
    """Say what the numbers of a table have in common."""
    record = group.record.iloc[0]
    protocol = record["spec"]["protocol"]
    gating = protocol["class_gating"]
    pictures = ", ".join(f"{split} {record['pictures'][split]}" for split in splits)
    mirrored = "" if protocol["flip"] == "none" else f", mirrored too ({protocol['flip']})"
    defined = "" if protocol["metric"] == "pooled" else f"defined as '{protocol['metric']}', "
    notes = [
        (
            f"protocol {protocol['name']}: trained on {protocol['fit_split']}, labels from {protocol['label_source']}; "
            f"classes gated by {gating['training']} on training splits, {gating['held_out']} on held-out ones; "
            f"normalisation {protocol['normalisation']}, background {protocol['background']}; "
            f"size {protocol['size'] or 'of the method'}, scales {protocol['scales']}{mirrored}; "
            f"{protocol['checkpoint']} checkpoint; {protocol['precision']}"
        ),
        f"mIoU {defined}over {_classes(group)} classes, background included; pictures: {pictures}",
        "of several seeds: mean ± standard deviation over seeds; [95 % interval over pictures, mean of the seeds']",
    ]
    for split, count in sorted({item for one in group.record for item in one.get("overlaps", {}).items()}):
        notes.append(f"{count} images of {split} are in {protocol['fit_split']} too: its scores are not held out")
    if dataset not in registry.names("dataset"):
        return [*notes, f"{dataset} is the dataset of a plugin: --plugins adds what it notes"]
    dataset_class: type[Dataset] = registry.load("dataset", dataset)
    for split in splits:
        whole, scored = dataset_class.official.get(split), record["pictures"][split]
        if whole and whole != scored:
            notes.append(f"{split}: {scored} of {whole} official pictures, so these are not {dataset} scores")
    return [*notes, dataset_class.note] if dataset_class.note else notes
