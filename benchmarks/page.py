"""Tables of what was measured, for the terminal and for docs/performance.md."""

from __future__ import annotations

from collections.abc import Iterable
from statistics import median
from typing import Any

from tabulate import tabulate

COLUMNS = ("what", "harness", "against", "ratio", "spread", "aim", "met", "equal")


def table(rows: Iterable[dict[str, Any]]) -> str:
    """Return the table of some rows: medians over the repeats, and the range of the ratio."""
    return tabulate([_line(row) for row in rows], COLUMNS, "pipe", disable_numparse=True) + "\n"


def about(result: dict[str, Any]) -> str:
    """Return a sentence on where and when a result was measured."""
    packages = result["environment"]["packages"]
    versions = ", ".join(f"{name} {packages[name]}" for name in ("torch", "timm", "numpy", "ray") if name in packages)
    return (
        f"{result['device']}; {result['threads']} threads a side; images: {result['pictures']}; {versions}; "
        f"{result['started'][:10]}, {result['seconds'] / 60:.0f} minutes.\n"
    )


def floor(row: dict[str, Any]) -> str:
    """Return what was measured beside the ratio: the sides, the floor and where the rest goes."""
    sides = {f"{name}, {row['unit']}": f"{_number(median(values))} ({_range(values)})"
             for name, values in row["values"].items()}  # fmt: skip
    versions = ", ".join(f"{name} {version}" for name, version in row["opponents"].items())
    lines = sides | row["facts"] | ({"versions": versions} if versions else {})
    return tabulate(lines.items(), ("measured", ""), "pipe", disable_numparse=True) + "\n"


def _line(row: dict[str, Any]) -> list[str]:
    first = next(iter(row["values"].values()))
    return [
        row["what"], f"{_number(median(first))} {row['unit']}", row["against"], _number(row["median"]),
        f"{_range(row['ratios'])} ({len(row['ratios'])})", row["aim"], "yes" if row["met"] else "**no**", row["equal"],
    ]  # fmt: skip


def _range(values: list[float]) -> str:
    return f"{_number(min(values))} to {_number(max(values))}"


def _number(value: float) -> str:
    """Return three digits of a number, or all before the point."""
    return f"{value:.0f}" if value >= 100 else f"{value:.3g}"
