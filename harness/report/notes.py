"""What stands around the numbers of a table: footnotes, the protocol's name, and what all of them have in common."""

from __future__ import annotations

from collections.abc import Iterable
from string import ascii_lowercase
from typing import Any

import pandas as pd

from harness.data.base import Dataset
from harness.protocol import VERIFICATION
from harness.registry import Registry
from harness.results.record import Record


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
    images = ", ".join(f"{split} {record['pictures'][split]}" for split in splits)
    mirrored = "" if protocol["flip"] == "none" else f", mirrored too ({protocol['flip']})"
    merged = " merged at image size" if protocol.get("merge") == "image" else ""
    defined = "" if protocol["metric"] == "pooled" else f"defined as '{protocol['metric']}', "
    notes = [
        (
            f"protocol {protocol['name']}: trained on {protocol['fit_split']}, labels from {protocol['label_source']}; "
            f"classes gated by {gating['training']} on training splits, {gating['held_out']} on held-out ones; "
            f"normalisation {protocol['normalisation']}, background {protocol['background']}; "
            f"size {protocol['size'] or 'of the method'}, scales {as_text(protocol['scales'])}{merged}{mirrored}; "
            f"{protocol['checkpoint']} checkpoint; {protocol['precision']}"
        ),
        (
            f"mIoU: of the pseudo-masks before any refiner (baseline pseudo-masks, BPM), {defined}over "
            f"{_classes(group)} classes, background included; images: {images}"
        ),
        "of several seeds: mean ± standard deviation over seeds; [95 % interval over images, mean of the seeds']",
    ]
    for split, count in sorted({item for one in group.record for item in one.get("overlaps", {}).items()}):
        notes.append(f"{count} images of {split} are in {protocol['fit_split']} too: its scores are not held out")
    if dataset not in registry.names("dataset"):
        return [*notes, f"{dataset} is the dataset of a plugin: --plugins adds what it notes"]
    dataset_class: type[Dataset] = registry.load("dataset", dataset)
    for split in splits:
        whole, scored = dataset_class.official.get(split), record["pictures"][split]
        if whole and whole != scored:
            notes.append(f"{split}: {scored} of {whole} official images, so these are not {dataset} scores")
    return [*notes, dataset_class.note] if dataset_class.note else notes


class Marks:
    """Footnote marks, in order of appearance."""

    def __init__(self) -> None:
        self.notes: list[str] = []
        self.given: dict[str, str] = {}

    def of(self, notes: list[str]) -> str:
        """Return the marks of some notes, new ones for those that have none yet."""
        for note in notes:
            if note not in self.given:
                self.given[note] = mark(len(self.given))
                self.notes.append(f"[{self.given[note]}] {note}")
        return f" [{','.join(self.given[note] for note in notes)}]" if notes else ""


def mark(number: int) -> str:
    """Return the mark of a footnote, counted from 0: a to z, then aa, ab and so on."""
    before, last = divmod(number, len(ascii_lowercase))
    return (mark(before - 1) if before else "") + ascii_lowercase[last]


def refiner_words(names: Iterable[str]) -> dict[str, str]:
    """Return what refiners are called where they stand together: without the settings that all of one preset share."""
    parts = {name: _refiner_parts(name) for name in names}
    shared: dict[str, set[str]] = {}
    for preset, settings in parts.values():
        shared[preset] = shared.get(preset, set(settings)) & set(settings)
    words = {}
    for name, (preset, settings) in parts.items():
        own = ", ".join(setting for setting in settings if setting not in shared[preset])
        words[name] = f"{preset}({own})" if own else preset
    return words


def refiner_notes(name: str, word: str) -> list[str]:
    """Return the settings of a refiner that the word leaves out by which it is called, as footnotes."""
    preset, settings = _refiner_parts(name)
    silent = [setting for setting in settings if setting not in _refiner_parts(word)[1]]
    return [f"{preset} with {', '.join(silent)}"] if silent else []


def _refiner_parts(name: str) -> tuple[str, list[str]]:
    """Return preset and settings of a refiner's name, `NAME:PRESET(KEY=VALUE, KEY=VALUE)`."""
    preset, _, settings = name.removesuffix(")").partition("(")
    return preset, settings.split(", ") if settings else []


def seed_notes(seeds: Iterable[int], expected: Iterable[int]) -> list[str]:
    """Return the seeds of a score that stands beside scores of more of them, as footnotes."""
    own = set(seeds)
    if not own or own >= set(expected):
        return []
    return [f"of seed{'s' if len(own) > 1 else ''} {seeds_text(own)} only"]


def seeds_text(seeds: Iterable[int]) -> str:
    """Return seeds as a person writes them."""
    return ",".join(str(seed) for seed in sorted(set(seeds)))


def forbidden(record: Record) -> list[str]:
    """Return the uses of ground truth beyond the image labels of training splits, as footnotes."""
    uses: dict[tuple[str, str], list[str]] = {}
    for use in record["ground_truth"]:
        if not use["allowed"]:
            uses.setdefault((use["what"], use["for"]), []).append(use["split"])
    return [f"ground truth used: {what} of {' and '.join(splits)}, for {why}" for (what, why), splits in uses.items()]


def protocol_name(record: Record) -> str:
    """Return a protocol's name with what was changed of it."""
    version = record["spec"]["protocol"].get("version", 1)
    name = f"protocol {record['spec']['protocol']['name']}" + (f", version {version}" if version > 1 else "")
    changes = protocol_changes(record)
    return f"{name} with {', '.join(changes)}" if changes else name


def protocol_changes(record: Record) -> list[str]:
    """Return what was changed of a protocol, but for its verifier."""
    changes = []
    for key in sorted(record["origins"]):
        if key.startswith("protocol.") and key.split(".")[1] not in VERIFICATION:
            value: Any = record["spec"]["protocol"]
            for part in key.split(".")[1:]:
                value = value[part]
            changes.append(f"{key.removeprefix('protocol.')}={as_text(value)}")
    return changes


def as_text(value: Any) -> str:
    """Return a value of a setting as a person writes it."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, dict):
        return ", ".join(f"{key}={as_text(inner)}" for key, inner in value.items())
    return "+".join(map(as_text, value)) if isinstance(value, list) else str(value)
