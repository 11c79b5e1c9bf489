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
    kinds: Annotated[
        list[str],
        typer.Argument(
            metavar="KIND... [PATTERN]",
            help="Of methods, backbones, datasets, protocols, experiments, refiners, crf, deeplab, texts, published or "
            "runs; then, if wanted, a glob of names.",
        ),
    ],
    results: Results = DEFAULT_RESULTS,
    plugins: Plugins = None,
    as_json: Json = False,
) -> None:
    """List what can be asked for by name.

    Names, where they come from, and broken plugins with the reason.
    """
    if kinds[0] in ("runs", "run"):
        _list_runs(kinds[1] if kinds[1:] else "*", results, as_json)
        return
    from harness.registry import Registry

    registry = Registry(plugins or ())
    first, *others = kinds
    found = [kind_of(first, registry)]
    while others and (kind := _kind(others[0], registry)):
        found.append(kind)
        others = others[1:]
    if len(others) > 1:
        raise UserError(f"one pattern after the kinds, not {len(others)}: {' '.join(others)}")
    pattern = others[0] if others else "*"
    rows = [
        {"kind": kind, "name": e.name, "summary": e.summary, "origin": e.origin, "broken": e.broken}
        for kind in found
        for e in registry.entries(kind, pattern)
    ]
    if as_json:
        print_json(rows)
        return
    if not rows:
        names = [name for kind in found for name in registry.names(kind)]
        raise UserError(f"no {' or '.join(found)} is called '{pattern}': {closest(pattern, names)}")
    several = len(found) > 1
    table = Table(*(["kind"] if several else []), "name", "from", "", box=None, pad_edge=False)
    for row in rows:
        about = f"broken: {row['broken']}" if row["broken"] else row["summary"]
        table.add_row(*([row["kind"]] if several else []), row["name"], row["origin"], about)
    output().print(table)
    if not rows[0]["broken"]:
        output().print(f"next: harness describe {rows[0]['kind']} {rows[0]['name']}", highlight=False)


def kind_of(name: str, registry: Registry) -> str:
    """Return the kind that a name means, singular or plural; a refiner's name is the kind of its presets.

    Raises
    ------
    UserError
        If there is no such kind, with the closest.
    """
    from harness.registry import CODE_KINDS

    if kind := _kind(name, registry):
        return kind
    plurals = [*(f"{kind}s" for kind in CODE_KINDS), *registry.data_kinds.values(), "runs"]
    raise UserError(f"unknown kind '{name}': {closest(name, plurals)}")


def _kind(name: str, registry: Registry) -> str:
    """Return the kind that a name means; empty if it names none."""
    from harness.registry import CODE_KINDS

    kinds = [*CODE_KINDS, *registry.data_kinds]
    return next((kind for kind in (name, name.removesuffix("s")) if kind in kinds), "")


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
