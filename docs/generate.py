"""Write the generated parts of README and docs: tables from the records in results/reference/, lists from configs/.

A block between `<!-- KIND: ARGUMENT -->` and `<!-- /KIND -->` is replaced by what KIND makes of its argument.
`python docs/generate.py` rewrites; a test holds that there is nothing to rewrite.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

from tabulate import tabulate

from harness.protocol import Protocol
from harness.registry import Registry
from harness.report.figures import draw_sensitivity
from harness.report.formats import markdown
from harness.report.frame import load_results
from harness.report.sensitivity import sensitivity, shared
from harness.report.tables import comparison

ROOT = Path(__file__).parent.parent


def pages() -> list[Path]:
    """Return the pages that hold generated parts."""
    return [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")), *sorted((ROOT / "methods").glob("*/README.md"))]


def rewritten(text: str) -> str:
    """Return a page with its generated parts made anew."""
    for kind, make in KINDS.items():
        block = re.compile(rf"(<!-- {kind}: (\S+) -->\n).*?(<!-- /{kind} -->)", re.DOTALL)
        text = block.sub(lambda found, make=make: f"{found[1]}{make(found[2])}{found[3]}", text)
    return text


def tables(folder: str) -> str:
    """Return the comparison tables of a results folder."""
    return "\n".join(markdown(table) for table in comparison(load_results(ROOT / folder)))


def sensitivities(folder: str) -> str:
    """Return the table of what the protocol is worth."""
    return "\n".join(markdown(table) for table in sensitivity(load_results(ROOT / folder)))


def fields(folder: str) -> str:
    """Return each field of a protocol, what it means, and by how much it moved the held-out score."""
    rows = shared(load_results(ROOT / folder))
    rows = rows[rows.split == rows.split.iloc[-1]]
    base = rows[rows.change == ""].set_index(["model", "seed"]).miou
    rows = rows.assign(points=[100 * (row.miou - base[row.model, row.seed]) for row in rows.itertuples()])
    models = sorted(set(rows.model))
    lines = []
    for name, meaning in _meanings().items():
        own = rows[[change.partition("=")[0].partition(".")[0] == name for change in rows.change]]
        moved = [_range(own[own.model == model].points.tolist()) for model in models]
        lines.append([f"`{name}`", meaning, *moved])
    return tabulate(lines, ["field", "meaning", *models], "pipe") + "\n"


def presets(kind: str) -> str:
    """Return the configurations of a kind with their sources."""
    registry = Registry()
    rows = [[f"`{name}`", (got := registry.load(kind, name)).get("summary", ""), got.get("source", "ours")]
            for name in registry.names(kind)]  # fmt: skip
    return tabulate(rows, ["name", "what", "source"], "pipe") + "\n"


def _meanings() -> dict[str, str]:
    """Return the meaning of each field, from the docstring of `Protocol`."""
    text = (Protocol.__doc__ or "").partition("----------\n")[2]
    found = re.findall(r"^    (\w+) : .*\n((?:        .*\n?)*)", text, re.MULTILINE)
    return {name: " ".join(meaning.split()) for name, meaning in found}


def _range(shifts: list[float]) -> str:
    if not shifts:
        return "not varied"
    return f"{min(shifts):+.1f} to {max(shifts):+.1f}" if len(shifts) > 1 else f"{shifts[0]:+.1f}"


KINDS: dict[str, Callable[[str], str]] = {
    "table": tables,
    "sensitivity": sensitivities,
    "fields": fields,
    "presets": presets,
}


if __name__ == "__main__":
    for page in pages():
        page.write_text(rewritten(page.read_text("utf-8")), "utf-8")
    draw_sensitivity(shared(load_results(ROOT / "results/reference/sensitivity")), ROOT / "docs" / "sensitivity.png")
