"""What a table says of verifiers: what to call them, what they start from, what they are trained on."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pandas as pd

from harness.report.dataframe import variant, varying
from harness.results.record import Record


def verifier_names(records: Sequence[Record]) -> list[str]:
    """Return what to call the verifier of each record: its recipe, with and settings that differ.

    `none` for a record without verification.
    """
    facts = [_verifier_facts(record) for record in records]
    names = [record["spec"]["protocol"].get("verify", "none") for record in records]
    apart = {
        name: varying(own for own, called in zip(facts, names, strict=True) if called == name) for name in set(names)
    }
    settings = [variant(own, apart[name]) for own, name in zip(facts, names, strict=True)]
    return [f"{name} {settings}".strip() for name, settings in zip(names, settings, strict=True)]


def _verifier_facts(record: Record) -> dict[str, Any]:
    """Return all that was decided of a verifier; nothing for a record without one."""
    if "verifier" not in record:
        return {}
    started = {"mask_split": record["verifier"]["mask_split"], "weights": record["verifier"]["sha256"][:12]}
    return record["spec"]["verifier"] | started


def start_notes(rows: pd.DataFrame, name: str) -> list[str]:
    """Say from what a verifier starts, and on which masks it is trained; nothing for `none`."""
    if name == "none":
        return []
    verifier = rows[rows.verify == name].record.iloc[0]["verifier"]
    file = f" ({verifier['file']}, sha256 {verifier['sha256'][:12]})" if verifier["sha256"] else ""
    start = {"random": "random weights", "file": "weights of a file"}.get(
        verifier["init"], f"{verifier['init']} weights"
    )
    return [f"{name}: from {start}{file}, trained on the masks of {verifier['mask_split']}"]


def ignored_notes(rows: pd.DataFrame, name: str) -> list[str]:
    """Say how much of its masks a verifier did not learn from; nothing where that is nothing."""
    if name == "none":
        return []
    share = max((record["verifier"]["ignored"] for record in rows[rows.verify == name].record), default=0.0)
    return [f"{100 * share:.1f} % of the pixels that train it are ignored (255)"] if share else []
