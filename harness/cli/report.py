"""`harness report`: tables and pictures from records."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from harness.cli.common import DEFAULT_RESULTS, Json, Plugins, Results, messages, output, print_json, split_commas

if TYPE_CHECKING:
    import pandas as pd

    from harness.registry import Registry
    from harness.report.tables import Table
    from harness.report.verdicts import Verdict
    from harness.spec import Experiment
    from harness.store import Store


def command(
    experiments: Annotated[list[str] | None, typer.Argument(help="Only the cells of these experiments.")] = None,
    results: Results = DEFAULT_RESULTS,
    out: Annotated[Path | None, typer.Option(help="Where to write; default RESULTS/report.", file_okay=False)] = None,
    root: Annotated[
        Path | None, typer.Option(help="Folder of the dataset, for the pictures.", envvar="WSSS_HARNESS_ROOT")
    ] = None,
    pictures: Annotated[int, typer.Option(help="Pictures in each gallery; 0 draws none.", min=0)] = 4,
    formats: Annotated[str, typer.Option("--format", help="Of the files: md,latex,csv,json.")] = "md",
    strict: Annotated[bool, typer.Option("--strict", help="Status 1 if a score is off its published one.")] = False,
    plugins: Plugins = None,
    as_json: Json = False,
) -> None:
    """Print and write tables and galleries.

    The tables of an experiment of the paper say what was published beside what was measured.
    """
    from harness.errors import UserError, closest
    from harness.files import write_atomic
    from harness.registry import Registry
    from harness.report.formats import FORMATS, show
    from harness.report.frame import frame
    from harness.report.verdicts import OFF
    from harness.spec import experiment
    from harness.store import Store

    chosen_formats = split_commas(formats) or ()
    for name in chosen_formats:
        if name not in FORMATS:
            raise UserError(f"--format {name}: {closest(name, FORMATS)}")
    registry = Registry(plugins or ())
    store = Store(results)
    found = frame(store.records())
    chosen = {name: experiment(registry, name) for name in experiments or []}
    kinds = {one.report for one in chosen.values()}
    kind = kinds.pop() if len(kinds) == 1 else "comparison"
    if chosen and kind != "sensitivity":
        found = _only(found, list(chosen.values()), registry)
    judged = _judge(list(chosen), found, registry, store)
    if found.empty and not judged:
        raise UserError(f"no records of {', '.join(experiments or ['any run'])} in {results}: `harness run` makes them")
    if as_json:
        print_json(list(found.drop_duplicates("key").record))
        return
    tables = _tables(found, kind, judged, store)
    for table in tables:
        show(table, output())
        output().print()
    folder, console = out or results / "report", messages()
    written = {name: text for made in chosen_formats for name, text in FORMATS[made](tables).items()}
    if "report.md" in written:
        drawn = _pictures(found, kind, registry, store, folder, pictures, root, console)
        written["report.md"] = "\n".join([written["report.md"], *drawn])
    for name, text in written.items():
        write_atomic(folder / name, text)
        console.print(f"written: {folder / name}", highlight=False)
    if not found.empty:
        console.print(f"next: harness show {found.key.iloc[0][:8]} explains one number", highlight=False)
    off = [verdict for verdict in judged if verdict.word == OFF]
    if strict and off:
        console.print(f"{len(off)} scores are off their published ones", highlight=False)
        sys.exit(1)


def _judge(names: list[str], found: pd.DataFrame, registry: Registry, store: Store) -> list[Verdict]:
    """Compare what the paper's tables publish of some experiments with the records."""
    from harness.report.published import published
    from harness.report.verdicts import verdicts

    scores = [score for score in published(registry) if score.table.experiment in names] if names else []
    return verdicts(scores, found, registry, store)


def _tables(found: pd.DataFrame, kind: str, judged: Sequence[Verdict], store: Store) -> list[Table]:
    from harness.report.foreground import foreground
    from harness.report.sensitivity import sensitivity
    from harness.report.tables import comparison, unfinished
    from harness.report.verdicts import published_tables

    if kind == "foreground":
        made = foreground(found, store)
    else:
        made = sensitivity(found) if kind == "sensitivity" else comparison(found)
    left = unfinished(found)
    return [*published_tables(judged), *made, *([left] if left else [])]


def _pictures(
    found: pd.DataFrame, kind: str, registry: Registry, store: Store, folder: Path, count: int, root: Path | None,
    console: Console,
) -> list[str]:  # fmt: skip
    if kind == "sensitivity":
        return _sensitivity_figures(found, folder, console)
    return _galleries(found, registry, store, folder, count, root, console) if count else []


def _sensitivity_figures(found: pd.DataFrame, folder: Path, console: Console) -> list[str]:
    """Draw a figure per dataset; return their Markdown."""
    from harness.report.figures import draw_sensitivity
    from harness.report.sensitivity import shared

    parts = []
    for name, rows in shared(found).groupby("dataset"):
        path = folder / f"sensitivity-{name}.png"
        draw_sensitivity(rows, path)
        parts.append(f"![{name}, mIoU under every protocol]({path.name})\n")
        console.print(f"written: {path}", highlight=False)
    return parts


def _galleries(
    found: pd.DataFrame, registry: Registry, store: Store, folder: Path, count: int, root: Path | None, console: Console
) -> list[str]:
    """Draw a gallery per dataset and protocol; return their Markdown."""
    from harness.errors import UserError
    from harness.plan import open_dataset
    from harness.report import gallery

    parts = []
    for (name, protocol), rows in found[found.status == "done"].groupby(["dataset", "protocol"]):
        split = rows.record.iloc[0]["spec"]["protocol"]["eval_splits"][-1]
        path = folder / f"gallery-{name}-{protocol}.png"
        try:
            dataset = open_dataset(registry.load("dataset", str(name)), root)
        except UserError as error:
            console.print(f"no gallery of {name}: {error}", markup=False, highlight=False)
            continue
        if gallery.draw(rows, dataset, split, store, path, count):
            parts.append(f"![{name}, {split}, protocol {protocol}]({path.name})\n")
            console.print(f"written: {path}", highlight=False)
    return parts


def _only(found: pd.DataFrame, experiments: list[Experiment], registry: Registry) -> pd.DataFrame:
    """Return the records of the cells of some experiments, whatever they started from and with whatever seeds."""
    from harness.spec import expand
    from harness.strict import canonical

    cells = [cell for experiment in experiments for cell in expand(experiment.grids, registry)]
    free = {"weights", "checkpoint", "seed", "limit"}
    wanted = {canonical(cell.spec.model_dump(mode="json", exclude=free)) for cell in cells}
    asked = [{key: value for key, value in record["spec"].items() if key not in free} for record in found.record]
    return found[[canonical(spec) in wanted for spec in asked]]
