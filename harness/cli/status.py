"""`harness status`: how a results folder stands, also while something runs in it."""

from __future__ import annotations

from collections import Counter
from typing import Any

from rich.table import Table

from harness.cli.common import DEFAULT_RESULTS, Json, Results, next_command, output, print_json
from harness.run.progress import length_of_time


def command(results: Results = DEFAULT_RESULTS, as_json: Json = False) -> None:
    """Show how a results folder stands.

    Cells by state, what is being computed now and how fast, and why cells failed.
    """
    from harness.results.lease import Leases
    from harness.results.record import SETTLED
    from harness.results.store import Store
    from harness.run.schedule import SWEEP

    store = Store(results)
    records = list(store.records())
    states = Counter(record["status"] for record in records)
    living = [{"key": key, **(store.progress(key) or {})} for key in Leases(store.root / "leases").living()]
    runs = [progress for progress in living if progress["key"].startswith(SWEEP)]
    running = [progress for progress in living if progress not in runs]
    failures = [
        {"key": r["key"], "cell": r["title"], "status": r["status"], "reason": r["reason"]}
        for r in records
        if r["status"] not in SETTLED
    ]
    if as_json:
        print_json({"cells": dict(states), "runs": runs, "running": running, "failures": failures})
        return
    out = output()
    text = ", ".join(f"{count} {state}" for state, count in sorted(states.items())) or "none yet"
    out.print(f"cells recorded: {text}; stages running: {len(running)}", highlight=False)
    for run in runs:
        out.print(_of_run(run), markup=False, highlight=False)
    for progress in running:
        out.print(f"  {_of_stage(progress)}", markup=False, highlight=False)
    if failures:
        table = Table("run", "cell", "status", "reason", box=None, pad_edge=False)
        for failure in failures:
            table.add_row(failure["key"][:8], failure["cell"], failure["status"], failure["reason"])
        out.print(table)
        out.print(f"next: {next_command('show', failures[0]['key'][:8], results=results)}")


def _of_run(progress: dict[str, Any]) -> str:
    if "cells" not in progress:
        return "a run is starting"
    left = progress["left"]
    return (
        f"a run of {progress['cells']} cells: {progress['open']} open, "
        f"{progress['done']} of {progress['total']} stages done"
        f"{'' if left is None else f', about {length_of_time(left)} left'}"
    )


def _of_stage(progress: dict[str, Any]) -> str:
    if not progress.get("total"):
        return f"{progress.get('what', progress['key'][:8])}: starting"
    notes = " ".join(f"{k} {v:.3f}" if isinstance(v, float) else f"{k} {v}" for k, v in progress["notes"].items())
    rate, left = progress["rate"], (progress["total"] - progress["done"])
    pace = f", {rate:.2g} {progress['unit']} a second, {length_of_time(left / rate)} left" if rate else ""
    return f"{progress['what']}: {progress['done']}/{progress['total']}{pace} {notes}".rstrip()
