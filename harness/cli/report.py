"""`harness report`: tables and figures from records."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from harness.cli.common import (
    DEFAULT_RESULTS,
    Json,
    Plugins,
    Results,
    messages,
    next_command,
    output,
    print_json,
    split_commas,
)

ALL_TRAININGS = "no cell is just as the experiment has it: every training is shown that several protocols scored"

if TYPE_CHECKING:
    import pandas as pd

    from harness.registry import Registry
    from harness.report.figures import Drawn
    from harness.report.ranking import Ranking, Stand
    from harness.report.tables import Table
    from harness.report.verdicts import Verdict
    from harness.results.store import Store


def command(
    experiments: Annotated[list[str] | None, typer.Argument(help="Only the cells of these experiments.")] = None,
    results: Results = DEFAULT_RESULTS,
    out: Annotated[Path | None, typer.Option(help="Where to write; default RESULTS/report.", file_okay=False)] = None,
    root: Annotated[
        Path | None, typer.Option(help="Folder of the dataset, for the images.", envvar="WSSS_HARNESS_ROOT")
    ] = None,
    images: Annotated[
        int, typer.Option("--images", "--pictures", help="Images in a figure; 0 shows none, nor on the page.", min=0)
    ] = 4,
    figures: Annotated[bool, typer.Option("--figures/--no-figures", help="Whether figures are drawn.")] = True,
    formats: Annotated[str, typer.Option("--format", help="Of the files: md,html,latex,csv,json.")] = "md,html",
    strict: Annotated[bool, typer.Option("--strict", help="Status 1 if a score is off its published one.")] = False,
    plugins: Plugins = None,
    as_json: Json = False,
) -> None:
    """Print and write tables and figures.

    The tables of an experiment of the paper say what was published beside what was measured. `report.html` is one page
    with everything, for a browser; it needs no network.
    """
    from harness.errors import UserError, closest
    from harness.files import write_atomic
    from harness.registry import Registry
    from harness.report.all_figures import album, images_of_all
    from harness.report.citations import bibtex
    from harness.report.dataframe import frame, newest
    from harness.report.formats import FORMATS, figure_markdown, show
    from harness.report.html import methods_of, page_title, write_page
    from harness.report.of_experiment import named, only
    from harness.report.ranking import against_others, rankings
    from harness.report.tables import unfinished
    from harness.report.verdicts import OFF
    from harness.results.store import Store
    from harness.spec import experiment

    chosen_formats = split_commas(formats, "--format") or ()
    for name in chosen_formats:
        if name not in ("html", *FORMATS):
            raise UserError(f"--format {name}: {closest(name, ['html', *FORMATS])}")
    registry = Registry(plugins or ())
    store = Store(results)
    stored = frame(store.records())
    found = newest(stored)
    replaced = stored.key.nunique() - found.key.nunique()
    chosen = {name: experiment(registry, name) for name in experiments or []}
    kinds = {one.report for one in chosen.values()}
    kind = kinds.pop() if len(kinds) == 1 else "comparison"
    if chosen:
        own = only(found, list(chosen.values()), registry)
        if kind == "sensitivity" and own.empty and not found.empty:
            messages().print(f"note: {ALL_TRAININGS}", highlight=False)
        else:
            found = named(own, list(chosen.values()), registry)
    judged = _judge(list(chosen), found, registry, store)
    if found.empty and not judged:
        raise UserError(f"no records of {', '.join(experiments or ['any run'])} in {results}: `harness run` makes them")
    if as_json:
        print_json(list(found.drop_duplicates("key").record))
        return
    if replaced:
        reason = "their cells were run again by a newer stage or refiner"
        messages().print(f"note: records left out, as {reason}: {replaced}", highlight=False)
    with messages().status("resampling images"):
        order = rankings(found, store)
        tables = _tables(found, kind, judged, registry, store, order)
    left = unfinished(found)
    every = [*tables, *([left] if left else [])]
    for table in every:
        show(table, output())
        output().print()
    folder, console = out or results / "report", messages()
    drawn = _draw(album(found, kind, registry, store, folder, root, images), console) if figures else []
    written = {name: text for made in chosen_formats if made != "html" for name, text in FORMATS[made](every).items()}
    if "report.md" in written:
        written["report.md"] = "\n".join([written["report.md"], *map(figure_markdown, drawn)])
    for name, text in written.items():
        write_atomic(folder / name, text)
        console.print(f"written: {folder / name}", highlight=False)
    if "html" in chosen_formats:
        title = page_title(list(chosen), found)
        with console.status("writing the page"):
            shown = images_of_all(found, registry, store, root) if images else ()
            write_page(
                folder / "report.html", title, tables, found, shown, drawn, bibtex(found, registry),
                against_others(order.values()), methods_of(found, registry),
            )  # fmt: skip
        console.print(f"written: {folder / 'report.html'}", highlight=False)
    if not found.empty:
        explained = next_command("show", found.key.iloc[0][:8], results=results)
        console.print(f"next: {explained} explains one number", highlight=False)
    off = [verdict for verdict in judged if verdict.outcome == OFF]
    if strict and off:
        console.print(f"{len(off)} scores are off their published ones", highlight=False)
        sys.exit(1)


def _judge(names: list[str], found: pd.DataFrame, registry: Registry, store: Store) -> list[Verdict]:
    """Compare what the paper's tables publish of some experiments with the records."""
    from harness.report.published import published
    from harness.report.verdicts import verdicts

    scores = [score for score in published(registry) if score.table.experiment in names] if names else []
    return verdicts(scores, found, registry, store)


def _tables(
    found: pd.DataFrame, kind: str, judged: Sequence[Verdict], registry: Registry, store: Store,
    order: Mapping[Stand, Ranking],
) -> list[Table]:  # fmt: skip
    from harness.report.foreground import foreground
    from harness.report.gains import refiner_gains
    from harness.report.order import published_order
    from harness.report.published import published
    from harness.report.ranking import by_size
    from harness.report.sensitivity import sensitivity
    from harness.report.tables import comparison
    from harness.report.verdicts import published_tables

    if kind == "foreground":
        made = foreground(found, store)
    elif kind == "sensitivity":
        made = sensitivity(found)
    else:
        made = [
            *comparison(found, registry), *refiner_gains(order), *by_size(found, store),
            *published_order(order, published(registry)),
        ]  # fmt: skip
    return [*published_tables(judged), *made]


def _draw(album: Iterator[Drawn], console: Console) -> list[Drawn]:
    """Draw figures; say in a line each what was written and what was not, and return those that there are."""
    with console.status("drawing figures"):
        every = list(album)
    made = [drawn for drawn in every if drawn.files]
    for drawn in every:
        if drawn.files:
            console.print(f"written: {' '.join(path.name for path in drawn.files)}", markup=False, highlight=False)
    for drawn in every:
        if not drawn.files:
            line = f"not drawn: {drawn.name}: {drawn.left_out[-1] if drawn.left_out else 'nothing to draw'}"
            console.print(line, markup=False, highlight=False, no_wrap=True, overflow="ellipsis")
    if len(made) < len(every):
        console.print(f"{len(made)} of {len(every)} figures drawn", highlight=False)
    return made
