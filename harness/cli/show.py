"""`harness show`: one record, as a person reads it."""

from __future__ import annotations

import shlex
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table

from harness.cli.common import DEFAULT_RESULTS, Json, Results, output, print_json
from harness.run.progress import percent

if TYPE_CHECKING:
    from harness.results.record import Record


def command(
    run: Annotated[str, typer.Argument(help="The first digits of a record's key; see `harness list runs`.")],
    reproduce: Annotated[
        bool, typer.Option("--reproduce", help="The command and the package versions that make it again.")
    ] = False,
    results: Results = DEFAULT_RESULTS,
    as_json: Json = False,
) -> None:
    """Show where a number comes from.

    Spec, protocol, scores, stages, versions.
    """
    from harness.results.store import Store

    record = Store(results).find(run)
    if reproduce:
        _show_how(record, as_json)
        return
    if as_json:
        print_json(record)
        return
    out = output()
    out.print(
        f"{record['title']}  {record['key']}  {record['status']}  {record['ended']}", markup=False, highlight=False
    )
    if record["status"] != "done":
        out.print(f"reason: {record['reason']}", markup=False, highlight=False)
        if record["failed_stage"]:
            out.print(f"stage: {record['failed_stage']}\n{record['tail']}", markup=False, highlight=False)
    spec = record["spec"]
    for name, values in (
        ("settings", spec["params"]), ("protocol", spec["protocol"]), ("applied", record.get("applied", {})),
        ("weights", record.get("weights", {})), ("parameters", record.get("parameters") or {}),
        ("verifier", record.get("verifier") or {}), ("choice", record.get("choice") or {}),
        ("data", record.get("data", {})), ("packages", record["provenance"]["packages"]),
    ):  # fmt: skip
        text = ", ".join(f"{key} {value}" for key, value in values.items() if value not in ("", None))
        out.print(f"{name}: {text}", markup=False, highlight=False)
    for name in ("command", "source", "python", "cpu"):
        out.print(f"{name}: {record['provenance'][name]}", markup=False, highlight=False)
    if record["status"] == "done":
        _scores(record)
        table = Table("stage", "key", "seconds", "memory MiB", "device", box=None, pad_edge=False)
        for stage in record["stages"]:
            memory = " ".join(f"{where} {peak}" for where, peak in stage["memory_mb"].items())
            table.add_row(stage["stage"], stage["key"], f"{stage['seconds']:.1f}", memory, stage["device"])
        out.print(table)


def _show_how(record: Record, as_json: bool) -> None:
    """Print a shell script: hints as comments, constraints, the command."""
    from harness.results.reproduce import command_of, constraints_of, hints_of

    command, constraints, hints = command_of(record), constraints_of(record), hints_of(record)
    if as_json:
        print_json({"command": command, "constraints": constraints, "hints": hints})
        return
    out = output()
    script = [*(f"# {hint}" for hint in hints), f"pip install {shlex.join(constraints)}", shlex.join(command)]
    for line in script:
        out.print(line, markup=False, highlight=False, soft_wrap=True)


def _scores(record: Record) -> None:
    verified = {f"{split}, verified": metrics for split, metrics in record.get("verification", {}).items()}
    splits: dict[str, Any] = {**record["metrics"], **verified}
    table = Table("", *splits, box=None, pad_edge=False)
    for name in ("miou", "pixacc", "macc", "coverage", "foreground"):
        table.add_row(name, *(percent(metrics.get(name), 2) for metrics in splits.values()))
    for number, name in enumerate(record["classes"]):
        table.add_row(f"IoU {name}", *(percent(metrics["iou"][number], 2) for metrics in splits.values()))
    output().print(table)
