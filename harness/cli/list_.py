"""`harness list`: what can be asked for by name."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table

from harness.cli.common import DEFAULT_RESULTS, Json, Plugins, Results, next_command, output, print_json
from harness.errors import UserError, closest

if TYPE_CHECKING:
    from harness.registry import Registry


def command(
    kind: Annotated[
        str,
        typer.Argument(
            help="methods, backbones, datasets, protocols, experiments, refiners, crf, deeplab, published or runs."
        ),
    ],
    pattern: Annotated[str, typer.Argument(help="Only names that match this glob.")] = "*",
    results: Results = DEFAULT_RESULTS,
    plugins: Plugins = None,
    as_json: Json = False,
) -> None:
    """List what can be asked for by name.

    Names, where they come from, and broken plugins with the reason.
    """
    if kind in ("runs", "run"):
        _list_runs(pattern, results, as_json)
        return
    from harness.registry import Registry

    registry = Registry(plugins or ())
    rows = [
        {"name": e.name, "summary": e.summary, "origin": e.origin, "broken": e.broken}
        for e in registry.entries(kind_of(kind, registry), pattern)
    ]
    if as_json:
        print_json(rows)
        return
    table = Table("name", "from", "", box=None, pad_edge=False)
    for row in rows:
        table.add_row(row["name"], row["origin"], f"broken: {row['broken']}" if row["broken"] else row["summary"])
    output().print(table)
    if rows and not rows[0]["broken"]:
        output().print(f"next: harness describe {kind_of(kind, registry)} {rows[0]['name']}", highlight=False)


def kind_of(word: str, registry: Registry) -> str:
    """Return the kind that a word names, singular or plural; a refiner's name is the kind of its presets.

    Raises
    ------
    UserError
        If there is no such kind, with the closest.
    """
    from harness.registry import CODE_KINDS

    kinds = [*CODE_KINDS, *registry.data_kinds]
    if word in kinds:
        return word
    if word.removesuffix("s") in kinds:
        return word.removesuffix("s")
    plurals = [*(f"{kind}s" for kind in CODE_KINDS), *registry.data_kinds.values(), "runs"]
    raise UserError(f"unknown kind '{word}': {closest(word, plurals)}")


def _list_runs(pattern: str, results, as_json: bool) -> None:  # type: ignore[no-untyped-def]
    from fnmatch import fnmatch

    from harness.results.store import Store
    from harness.run.progress import percent

    records = [record for record in Store(results).records() if fnmatch(record["title"], pattern)]
    if as_json:
        print_json([{name: r[name] for name in ("key", "title", "status", "ended")} for r in records])
        return
    table = Table("run", "status", "cell", "ended", "mIoU", box=None, pad_edge=False)
    for record in records:
        scores = ", ".join(f"{s} {percent(m['miou'])}" for s, m in record.get("metrics", {}).items())
        table.add_row(record["key"][:8], record["status"], record["title"], record["ended"], scores)
    output().print(table)
    if records:
        output().print(f"next: {next_command('show', records[0]['key'][:8], results=results)}")
