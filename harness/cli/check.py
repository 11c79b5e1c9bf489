"""`harness check`: does a plugin keep the contract."""

from __future__ import annotations

import shlex
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from harness.cli.common import Json, Plugins, Root, messages, output, parse_assignments, print_json, tracked

_MARKS = {"passed": "✓", "expected": "✓", "skipped": "·", "failed": "✗"}
_RUN = {"method": "--methods {}", "refiner": "--methods cam --refine {}", "dataset": "--methods cam --dataset {}"}


def command(
    target: Annotated[str, typer.Argument(help="A method, refiner or dataset by name, or a plugin's file or folder.")],
    assignments: Annotated[
        list[str] | None, typer.Option("--set", help="METHOD.KEY=VALUE, where the small sizes will not do; repeatable.")
    ] = None,
    root: Root = None,
    plugins: Plugins = None,
    as_json: Json = False,
) -> None:
    """Check whether a plugin keeps the contract.

    Builds, trains and scores it on drawn images; exit status 1 if a check fails.
    """
    from harness.check import suites

    found = suites(target, tuple(plugins or ()), parse_assignments(assignments or []), root)
    everything = []
    for suite in found:
        messages().print(f"{suite.entry.kind} {suite.entry.name}, {len(suite.checks)} checks", highlight=False)
        table = Table("", "check", "", box=None, pad_edge=False)
        results = list(tracked(suite.results(), suite.entry.name, len(suite.checks)))
        everything += results
        shown = [result for result in results if result.state != "blocked"]
        for result in shown:
            finding = f"fails as expected: {result.finding}" if result.state == "expected" else result.finding
            table.add_row(_MARKS[result.state], result.check, finding)
            if result.state == "failed":
                table.add_row("", "", f"why: {result.reason}")
                table.add_row("", "", f"remedy: {result.remedy}")
        if shown != results:
            table.add_row("·", f"{len(results) - len(shown)} more", "wait for what failed")
        if not as_json:
            output().print(table, markup=False, highlight=False)
    if as_json:
        print_json([asdict(result) for result in everything])
    failed = [result for result in everything if result.state == "failed"]
    if failed:
        messages().print(f"{len(failed)} of {len(everything)} checks failed", highlight=False)
        sys.exit(1)
    for suite in found:
        given = f" --plugins {shlex.quote(target)}" if suite.entry.origin == str(Path(target).absolute()) else ""
        asked = suite.cases[0].rule if suite.entry.kind == "refiner" else suite.entry.name
        messages().print(f"next: harness run{given} {_RUN[suite.entry.kind].format(asked)}", highlight=False)
