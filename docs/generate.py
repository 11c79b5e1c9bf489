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
from itertools import pairwise
from pathlib import Path
from typing import Any

import pandas as pd
import typer
from tabulate import tabulate

sys.path.insert(0, str(Path(__file__).parent.parent))  # `benchmarks` is not installed

from benchmarks.page import about, floor, table
from harness.check.suite import checks
from harness.cli import app
from harness.inputs import Inputs
from harness.protocol import Protocol
from harness.registry import Registry
from harness.report.dataframe import load_results
from harness.report.figures import draw_sensitivity
from harness.report.formats import markdown
from harness.report.of_experiment import named
from harness.report.published import Score, published
from harness.report.sensitivity import sensitivity, shared
from harness.report.tables import Table, comparison
from harness.run.plan import plan_cells
from harness.scaffold import scaffold
from harness.spec import Grid, expand, experiment
from harness.stages import Node
from harness.trainable import Trainable

ROOT = Path(__file__).parent.parent
RESULTS = "benchmarks/results"
COMPARISON = "results/reference/comparison-animals"


def pages() -> list[Path]:
    """Return the pages that hold generated parts."""
    return [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md")), *sorted((ROOT / "methods").glob("*/README.md"))]


def rewritten(text: str) -> str:
    """Return a page with its generated parts made anew."""
    for kind, make in KINDS.items():
        block = re.compile(rf"(<!-- {kind}: (\S+) -->\n).*?(<!-- /{kind} -->)", re.DOTALL)
        text = block.sub(lambda found, make=make: f"{found[1]}{make(found[2])}{found[3]}", text)
    return text


def tables(folders: str) -> str:
    """Return the comparison tables of results folders, with the names of the first one's experiment's rows."""
    registry, found, name = Registry(), _together(folders), _experiment_of(folders)
    if name in registry.names("experiment"):
        found = named(found, [experiment(registry, name)], registry)
    return "\n".join(map(markdown, comparison(found)))


def _together(folders: str) -> pd.DataFrame:
    """Return the results of folders that are joined by +."""
    return pd.concat([load_results(ROOT / folder) for folder in folders.split("+")], ignore_index=True)


def _experiment_of(folders: str) -> str:
    return Path(folders.partition("+")[0]).name


def left(folders: str) -> str:
    """Return the cells of the first folder's experiment that no folder has a score of, by method."""
    done = [record["spec"] for record in _together(folders).record]
    missing: dict[str, list[str]] = {}
    cells = [
        cell.spec.model_dump(mode="json")
        for cell in expand(experiment(Registry(), _experiment_of(folders)).grids, Registry())
    ]
    for spec in cells:
        if not any(_is_of(record, spec) for record in done):
            refined = "" if spec["protocol"]["refine"] == "none" else f", {spec['protocol']['refine']}"
            title = f"{spec['backbone'].removeprefix('timm:')}{refined}, seed {spec['seed']}"
            missing.setdefault(spec["method"], []).append(title)
    rows = [[f"`{method}`", "; ".join(titles)] for method, titles in missing.items()]
    count = sum(map(len, missing.values()))
    lines = (
        f"{len(cells) - count} of {len(cells)} cells are scored. The others, in the order in which a run takes methods:"
    )
    return f"{lines}\n\n{tabulate(rows, ['method', 'not run'], 'pipe')}\n"


def _is_of(recorded: dict[str, Any], spec: dict[str, Any]) -> bool:
    """Return whether a record is of a cell: settings that came later, and what start weights are called, aside."""
    own, other = (
        {key: value for key, value in one.items() if key not in ("weights", "params")} for one in (recorded, spec)
    )
    return own == other and recorded["params"].items() <= spec["params"].items()


def short(folder: str) -> str:
    """Return a results folder's first table with four columns, no oracle's, and the notes that are of all its rows."""
    table = comparison(load_results(ROOT / folder))[0]
    shown = [number for number, name in enumerate(table.columns) if "best threshold" not in name][:4]

    def plain(text: str) -> str:
        return re.sub(r" \[[a-z,]+\]$", "", text)

    rows = [[plain(row[number]) for number in shown] for row in table.rows]
    bold = {(row, shown.index(column)) for row, column in table.bold if column in shown}
    notes = [note for note in table.notes if not note.startswith(("[", "of several", "all methods"))]
    found = Table(table.title, [plain(table.columns[number]) for number in shown], rows, bold, notes)
    return markdown(found).partition("\n")[2].lstrip("\n")


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


def steps(folder: str) -> str:
    """Return by how many points each step of Table 1 moves the held-out score, in the paper and here, seed by seed."""
    rows = load_results(ROOT / folder)
    rows = rows[rows.split == "val"]
    printed = {score.label: score.value for score in published(Registry(), "vit-pcm") if _of_table_1(score)}
    printed["CAM"] = next(
        score.value for score in published(Registry(), "vit-pcm")
        if (score.table.name, score.label, score.network, score.metric) == ("3", "CAM", "ViT-S/16", "miou")
    )  # fmt: skip
    lines = []
    for before, after in pairwise(STEPS):
        line = [f"{before} → {after}", f"{printed[after] - printed[before]:+.1f}"]
        for _, own in rows.groupby("protocol"):
            scores = [own[_is(own, **STEPS[name])].set_index("seed").miou for name in (before, after)]
            moved = (100 * (scores[1] - scores[0])).sort_index()
            up = "each seed" if (moved > 0).all() else "in the mean" if moved.mean() > 0 else "no"
            line += [f"{moved.mean():+.1f} ({', '.join(f'{value:+.1f}' for value in moved)})", up]
        lines.append(line)
    names = [column for protocol in sorted(set(rows.protocol)) for column in (f"{protocol} (by seed)", "helps")]
    return tabulate(lines, ["step", "paper, ViT-S/16 val", *names], "pipe", disable_numparse=True) + "\n"


def _of_table_1(score: Score) -> bool:
    return (score.table.name, score.network, score.heading) == ("1", "ViT-S/16", "val")


def _is(rows: pd.DataFrame, method: str, refine: str = "none", **settings: bool) -> pd.Series:
    right = pd.Series([all(own.get(k) == v for k, v in settings.items()) for own in rows.settings], rows.index)
    return (rows.method == method) & (rows.refine == refine) & right


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
    own = load_results(ROOT / COMPARISON)
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
            row += [seen, _printed(paper, entry.name, "A"), _printed(paper, entry.name, "B"), *_here(own, entry.name)]
        rows.append(row)
    scores = ["looks at", "seed, train", "final, val", "here, val", "trained in"] if kind == "method" else []
    names = ["name", "what", "year", "backbones", "learns", *scores]
    return tabulate(rows, names, "pipe", disable_numparse=True) + "\n"


def _printed(paper: list[Score], method: str, table: str) -> str:
    """Return the first score of a method that a table of the paper prints, before any refiner or of val."""
    wanted = ("bpm", "train") if table == "A" else ("segmentation", "val")
    scores = [
        score.printed for score in paper
        if (score.table.name, score.method, score.stage, score.split) == (table, method, *wanted)
    ]  # fmt: skip
    return scores[0] if scores else "–"


def _here(own: pd.DataFrame, method: str) -> list[str]:
    """Return the best score of a method under the comparison's protocol without a refiner, and how long it trained."""
    rows = own[(own.method == method) & (own.split == "val") & (own.refine == "none")].sort_values("miou")
    if rows.empty:
        return ["–", "–"]
    best = rows.iloc[-1]
    seconds = sum(stage["seconds"] for stage in best.record["stages"] if stage["stage"] == "fit")
    return [f"{100 * best.miou:.1f}, {best.timm.partition('.')[0]}", f"{seconds / 60:.0f} min"]


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


def _meanings() -> dict[str, str]:
    """Return the meaning of each field, from the docstring of `Protocol`."""
    text = (Protocol.__doc__ or "").partition("----------\n")[2]
    found = re.findall(r"^    (\w+) : .*\n((?:        .*\n?)*)", text, re.MULTILINE)
    return {name: " ".join(meaning.split()) for name, meaning in found}


def _range(shifts: list[float]) -> str:
    if not shifts:
        return "not varied"
    return f"{min(shifts):+.1f} to {max(shifts):+.1f}" if len(shifts) > 1 else f"{shifts[0]:+.1f}"


STEPS: dict[str, dict[str, Any]] = {
    "CAM": {"method": "cam"},
    "L_MCE": {"method": "vitpcm", "equivariance": False, "hv_bilstm": False},
    "L_MCE + L_ET": {"method": "vitpcm", "equivariance": True, "hv_bilstm": False},
    "L_MCE + L_ET + HV-BiLSTM": {"method": "vitpcm", "equivariance": True, "hv_bilstm": True},
    "L_MCE + L_ET + HV-BiLSTM + CRF": {
        "method": "vitpcm", "equivariance": True, "hv_bilstm": True, "refine": "crf:vitpcm",
    },
}  # fmt: skip
KINDS: dict[str, Callable[[str], str]] = {
    "benchmarks": benchmarks,
    "measured": measured,
    "table": tables,
    "left": left,
    "short": short,
    "sensitivity": sensitivities,
    "fields": fields,
    "presets": presets,
    "plugins": plugins,
    "steps": steps,
    "template": template,
    "checks": contract,
    "cli": commands,
    "stages": stages,
}


if __name__ == "__main__":
    for page in pages():
        page.write_text(rewritten(page.read_text("utf-8")), "utf-8")
    draw_sensitivity(shared(load_results(ROOT / "results/reference/sensitivity")), ROOT / "docs" / "sensitivity.png")
