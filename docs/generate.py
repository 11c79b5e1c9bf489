"""Write the generated parts of README and docs: tables from the records in results/reference/, lists from the code.

A block between `<!-- KIND: ARGUMENT -->` and `<!-- /KIND -->` is replaced by what KIND makes of its argument.
`python docs/generate.py` rewrites; a test holds that there is nothing to rewrite.
"""

from __future__ import annotations

import json
import re
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import typer
from tabulate import tabulate

sys.path.insert(0, str(Path(__file__).parent.parent))  # `benchmarks` is not installed

from benchmarks.page import about, floor, table
from docs import of_records
from harness.check.suite import checks
from harness.cli import app
from harness.inputs import Inputs
from harness.registry import Registry
from harness.report.dataframe import load_results
from harness.report.published import published
from harness.run.plan import plan_cells
from harness.scaffold import scaffold
from harness.spec import Grid, expand
from harness.stages import Node
from harness.trainable import Trainable

ROOT = Path(__file__).parent.parent
RESULTS = "benchmarks/results"


def pages() -> list[Path]:
    """Return the pages that hold generated parts."""
    return [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md")), *sorted((ROOT / "methods").glob("*/README.md"))]


def rewritten(text: str) -> str:
    """Return a page with its generated parts made anew."""
    for kind, make in KINDS.items():
        block = re.compile(rf"(<!-- {kind}: ([^\n]+?) -->\n).*?(<!-- /{kind} -->)", re.DOTALL)
        text = block.sub(lambda found, make=make: f"{found[1]}{make(found[2])}{found[3]}", text)
    return text


def presets(kind: str) -> str:
    """Return the configurations of a kind with their sources."""
    registry = Registry()
    rows = [[f"`{name}`", (got := registry.load(kind, name)).get("summary", ""), got.get("source", "ours")]
            for name in registry.names(kind)]  # fmt: skip
    return tabulate(rows, ["name", "what", "source"], "pipe") + "\n"


def plugins(kind: str) -> str:
    """Return the built-in methods or refiners: what they do, on which backbones, and from what they learn.

    Methods have their scores too: as Tables A and B of the paper print them, and as they were measured here.
    """
    registry, rows = Registry(), []
    paper = published(registry, "vit-pcm") if kind == "method" else []
    own = load_results(ROOT / of_records.COMPARISON)
    for entry in registry.entries(kind):
        plugin = registry.load(kind, entry.name)
        page = next((page for page in _pages_of(entry.name) if (ROOT / "docs/methods" / page).exists()), None)
        year = re.search(r"\d{4}", plugin.cite)
        backbones = " and ".join(plugin.families) if getattr(plugin, "trained", True) and plugin.families else "none"
        parent = getattr(plugin, "parent", "")
        trains = plugin.training_step is not Trainable.training_step
        learns = f"{'goes on from' if trains else 'reads'} `{parent}`" if parent else "yes" if trains else "no"
        name = f"[`{entry.name}`]({page})" if page else f"`{entry.name}`"
        row = [name, entry.summary.rstrip("."), year[0] if year else "", backbones, learns]
        if kind == "method":
            seen = ", ".join(word.replace("_", " ") for word in plugin.supervision) or "nothing"
            row += [
                seen,
                of_records.printed(paper, entry.name, "A"),
                of_records.printed(paper, entry.name, "B"),
                *of_records.here(own, entry.name),
            ]
        rows.append(row)
    scores = ["looks at", "seed, train", "final, val", "here, val", "trained in"] if kind == "method" else []
    names = ["name", "what", "year", "backbones", "learns", *scores]
    return tabulate(rows, names, "pipe", disable_numparse=True) + "\n"


def _pages_of(name: str) -> tuple[str, str]:
    return f"{name}.md", f"../../methods/{name}/README.md"


def template(argument: str) -> str:
    """Return what `harness new` writes, for a kind and a name."""
    kind, name = argument.split(",")
    with tempfile.TemporaryDirectory() as folder:
        return f"```python\n{scaffold(kind, name, Path(folder))[0].read_text('utf-8')}```\n"


def contract(kind: str) -> str:
    """Return the checks of a kind of plugin."""
    return tabulate([[f"`{one.name}`", one.reason, one.remedy] for one in checks(kind)],
                    ["check", "why", "remedy"], "pipe") + "\n"  # fmt: skip


def commands(name: str) -> str:
    """Return every command with its arguments and options."""
    parts = []
    for command_name, command in sorted(typer.main.get_command(app).commands.items()):  # type: ignore[attr-defined]
        rows = []
        for parameter in command.params:
            default = parameter.default if parameter.default not in (None, False) else ""
            needed = "needed" if parameter.required else f"`{default}`" if default != "" else ""
            called = parameter.name.upper() if parameter.param_type_name == "argument" else ", ".join(parameter.opts)
            help_text = (parameter.help or "").replace("|", r"\|")
            rows.append([f"`{called}`", help_text, needed, f"`{parameter.envvar}`" if parameter.envvar else ""])
        table = tabulate(rows, ["", "what", "default", "environment"], "pipe")
        parts.append(f"## {name} {command_name}\n\n{command.help}\n\n{table}\n")
    return "\n".join(parts)


def stages(dataset: str) -> str:
    """Return the stages of a cell as a diagram, from a plan of it."""
    settings = {"protocol.checkpoint": "val_image_labels"}
    grid = Grid(methods=("cam",), backbones=("timm:test_vit",), datasets=(dataset,), limit=1, set=settings)
    with tempfile.TemporaryDirectory() as folder:
        nodes = plan_cells(expand([grid], Registry()), Inputs(Registry(), Path(folder), None)).nodes
    names = {key: f"{node.stage} {_split(node, nodes)}".strip() for key, node in nodes.items()}
    ids = {name: f"s{number}" for number, name in enumerate(dict.fromkeys(names.values()))}
    lines = [f'  {number}["{name}"]' for name, number in ids.items()]
    edges = {f"  {ids[names[parent]]} --> {ids[names[key]]}": None
             for key, node in nodes.items() for parent in node.parents.values()}  # fmt: skip
    return "\n".join(["```mermaid", "flowchart LR", *lines, *edges, "```", ""])


def benchmarks(folder: str) -> str:
    """Return the table of each device that was measured."""
    return "\n".join(f"{about(result)}\n{table(result['rows'])}" for result in _measured(folder)) or "Nothing yet.\n"


def measured(name: str) -> str:
    """Return what each device gave for a row on each set of images, beside its ratio."""
    found = [(result, row) for result in _measured(RESULTS) for row in result["rows"] if row["name"] == name]
    return "\n".join(f"{result['device']}, images: {result['pictures']}:\n\n{floor(row)}" for result, row in found)


def _measured(folder: str) -> list[dict[str, Any]]:
    return [json.loads(path.read_text("utf-8")) for path in sorted((ROOT / folder).glob("*.json"))]


def _split(node: Node, nodes: dict[str, Node]) -> str:
    """Return the split that a stage works on; a training has no need to say its own."""
    labels = nodes[node.parents["labels"]] if node.parents else node
    return "" if node.stage == "fit" else labels.config.split


KINDS: dict[str, Callable[[str], str]] = {
    "benchmarks": benchmarks,
    "measured": measured,
    "table": of_records.tables,
    "unrefined": of_records.unrefined,
    "left": of_records.left,
    "classes": of_records.classes,
    "precisions": of_records.precisions,
    "short": of_records.short,
    "sensitivity": of_records.sensitivities,
    "fields": of_records.fields,
    "presets": presets,
    "plugins": plugins,
    "steps": of_records.steps,
    "changes": of_records.changes,
    "gains": of_records.gains,
    "walks": of_records.walks,
    "orders": of_records.orders,
    "sizes": of_records.sizes,
    "template": template,
    "checks": contract,
    "cli": commands,
    "stages": stages,
}


if __name__ == "__main__":
    for page in pages():
        page.write_text(rewritten(page.read_text("utf-8")), "utf-8")
    of_records.draw()
