"""`harness check`: does a plugin keep the contract."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from harness.cli.common import Json, Plugins, Root, messages, output, print_json

_MARKS = {"passed": "✓", "expected": "✓", "skipped": "·", "blocked": "·", "failed": "✗"}


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

    Builds, trains and scores it on drawn pictures; exit status 1 if a check fails.
    """
    from harness.check import suites
    from harness.spec import parse_assignments

    failed = 0
    told = []
    for suite in suites(target, tuple(plugins or ()), parse_assignments(assignments or []), root):
        entry = suite.case.entry
        messages().print(f"{entry.kind} {entry.name}, {len(suite.checks)} checks", highlight=False)
        table = Table("", "check", "", box=None, pad_edge=False)
        for result in suite.results():
            told.append(result.as_dict())
            failed += result.state == "failed"
            finding = f"fails as expected: {result.finding}" if result.state == "expected" else result.finding
            table.add_row(_MARKS[result.state], result.check, finding)
            if result.state == "failed":
                table.add_row("", "", f"why: {result.reason}")
                table.add_row("", "", f"remedy: {result.remedy}")
        if not as_json:
            output().print(table, markup=False, highlight=False)
    if as_json:
        print_json(told)
    if failed:
        messages().print(f"{failed} of {len(told)} checks failed", highlight=False)
        sys.exit(1)
    where = f" --plugins {target}" if entry.origin == str(Path(target).absolute()) else ""
    kinds = {"method": "--methods", "refiner": "--methods cam --refine", "dataset": "--methods cam --dataset"}
    messages().print(f"next: harness run{where} {kinds[entry.kind]} {entry.name}", highlight=False)
