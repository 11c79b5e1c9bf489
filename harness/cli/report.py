"""`harness report`: tables and pictures from records."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from harness.cli.common import DEFAULT_RESULTS, Json, Plugins, Results, messages, output, print_json

if TYPE_CHECKING:
    import pandas as pd

    from harness.registry import Registry
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
    plugins: Plugins = None,
    as_json: Json = False,
) -> None:
    """Print and write tables and galleries."""
    from harness.errors import UserError
    from harness.files import write_atomic
    from harness.registry import Registry
    from harness.report import tables
    from harness.report.foreground import foreground
    from harness.report.frame import frame
    from harness.report.sensitivity import sensitivity
    from harness.spec import experiment
    from harness.store import Store

    registry = Registry(plugins or ())
    store = Store(results)
    found = frame(store.records())
    kind = "comparison"
    if experiments:
        chosen = [experiment(registry, name) for name in experiments]
        kinds = {one.report for one in chosen}
        kind = kinds.pop() if len(kinds) == 1 else kind
        if kind != "sensitivity":
            found = _only(found, chosen, registry)
    if found.empty:
        raise UserError(f"no records of {', '.join(experiments or ['any run'])} in {results}: `harness run` makes them")
    if as_json:
        print_json(list(found.drop_duplicates("key").record))
        return
    if kind == "foreground":
        made = foreground(found, store)
    else:
        made = sensitivity(found) if kind == "sensitivity" else tables.comparison(found)
    left = tables.unfinished(found)
    parts = []
    for table in [*made, *([left] if left else [])]:
        tables.show(table, output())
        output().print()
        parts.append(tables.markdown(table))
    folder = out or results / "report"
    console = messages()
    if kind == "sensitivity":
        parts += _sensitivity_figures(found, folder, console)
    elif pictures:
        parts += _galleries(found, registry, store, folder, pictures, root, console)
    write_atomic(folder / "report.md", "\n".join(parts))
    console.print(f"written: {folder / 'report.md'}", highlight=False)
    console.print(f"next: harness show {found.key.iloc[0][:8]} explains one number", highlight=False)


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
