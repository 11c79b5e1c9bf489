"""`harness status`: how a results folder stands, also while something runs in it."""

from __future__ import annotations

import json
from collections import Counter
from typing import Any

from rich.table import Table

from harness.cli.common import DEFAULT_RESULTS, Json, Results, output, print_json


def command(results: Results = DEFAULT_RESULTS, as_json: Json = False) -> None:
    """Show how a results folder stands.

    Cells by state, what is being computed now, and why cells failed.
    """
    from harness.lease import Leases
    from harness.store import Store

    store = Store(results)
    records = list(store.records())
    states = Counter(record["status"] for record in records)
    running = [{"key": key, **_progress(store, key)} for key in Leases(store.root / "leases").living()]
    failures = [
        {"key": r["key"], "cell": r["title"], "status": r["status"], "reason": r["reason"]}
        for r in records
        if r["status"] not in ("done", "skipped")
    ]
    if as_json:
        print_json({"cells": dict(states), "running": running, "failures": failures})
        return
    out = output()
    text = ", ".join(f"{count} {state}" for state, count in sorted(states.items())) or "none yet"
    out.print(f"cells recorded: {text}; stages running: {len(running)}", highlight=False)
    for stage in running:
        notes = " ".join(f"{k} {v:.3f}" if isinstance(v, float) else f"{k} {v}" for k, v in stage.items() if k != "key")
        out.print(f"  {stage['key'][:8]} {notes}", markup=False, highlight=False)
    if failures:
        table = Table("run", "cell", "status", "reason", box=None, pad_edge=False)
        for failure in failures:
            table.add_row(failure["key"][:8], failure["cell"], failure["status"], failure["reason"])
        out.print(table)
        out.print(f"next: harness show {failures[0]['key'][:8]}", highlight=False)


def _progress(store: Any, key: str) -> dict[str, Any]:
    try:
        return json.loads((store.work(key) / "progress.json").read_text("utf-8"))
    except (FileNotFoundError, ValueError):
        return {}
