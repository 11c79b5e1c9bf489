"""`harness merge`: results made on several machines, brought into one folder."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.filesize import decimal

from harness.cli.common import DEFAULT_RESULTS, Json, Results, messages, next_command, print_json
from harness.errors import UserError

if TYPE_CHECKING:
    from harness.results.merge import Merge


def command(
    sources: Annotated[list[Path], typer.Argument(help="Results folders, or .tar, .tar.gz, .tgz or .zip of them.")],
    results: Results = DEFAULT_RESULTS,
    max_bytes: Annotated[
        int | None, typer.Option(help="How much an archive may unpack to; default the size of the disk.", min=1)
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show what would be copied; write nothing.")] = False,
    as_json: Json = False,
) -> None:
    """Merge results of several machines.

    Nothing is written if two sources contradict each other; every file is checked against its hash.
    """
    from harness.results.merge import carry_out, plan_merge
    from harness.run.progress import scanning

    console = messages()
    with scanning(console) as scan:
        merge = plan_merge(sources, results, max_bytes, scan)
    if not dry_run and not merge.conflicts:
        with scanning(console, "copying") as scan:
            carry_out(merge, results, scan)
    copied = {name: size for name, size in merge.artefacts.items() if name not in merge.left_out}
    if as_json:
        print_json(
            {
                "dry_run": dry_run, "conflicts": merge.conflicts,
                "records": {"new": merge.new, "replaced": merge.replaced, "kept": merge.kept},
                "artefacts": ["/".join(name) for name in sorted(copied)], "bytes": sum(copied.values()),
                "left_out": {"/".join(name): why for name, why in sorted(merge.left_out.items())},
            }
        )  # fmt: skip
    if merge.conflicts:
        lines = "\n".join(merge.conflicts)
        advice = "leave a source out, or remove the record and the artefacts that you do not trust"
        raise UserError(f"{len(merge.conflicts)} conflicts, nothing was written\n{lines}\n{advice}")
    _conclude(console, merge, copied, results, dry_run)
    if merge.left_out:
        sys.exit(1)


def _conclude(console: Console, merge: Merge, copied: dict[tuple[str, str], int], results: Path, dry_run: bool) -> None:
    lines = []
    if merge.kept:
        lines.append(
            f"{len(merge.kept)} records are there with another date, machine or failure: the first of each stays"
        )
    lines += [f"left out: {'/'.join(name)}: {why}" for name, why in sorted(merge.left_out.items())]
    records = f"{len(merge.new)} new records, {len(merge.replaced)} in place of a failure"
    written = f"{records}, {len(copied)} artefacts, {decimal(sum(copied.values()))}"
    lines.append(f"would be merged into {results}: {written}" if dry_run else f"merged into {results}: {written}")
    lines.append("run again without --dry-run" if dry_run else f"next: {next_command('status', results=results)}")
    for line in lines:
        console.print(line, markup=False, highlight=False)
