"""What a person sees while stages run: bars on a terminal, a line now and then elsewhere."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn
from rich.text import Text

from harness.results.record import Record
from harness.run.worker import Outcome
from harness.stages import Node

LINE_SECONDS = 30.0
BARS = 8  # on a screen; of more stages at once only the sum is shown


class ConsoleView:
    """Shows a run on a console; see `harness.run.schedule.View`.

    `titles` are what to call cells, by key.
    """

    def __init__(self, console: Console, stages: int, titles: Mapping[str, str]) -> None:
        self.console = console
        self.titles = titles
        self.stages = stages
        self.bars = _bars(console)
        self.tasks: dict[str, TaskID] = {}
        self.lines: dict[str, float] = {}

    def __enter__(self) -> ConsoleView:
        self.bars.start()
        self.whole = self.bars.add_task("stages", total=self.stages, notes="", visible=self.stages > 1)
        return self

    def __exit__(self, *error: object) -> None:
        self.bars.stop()

    def started(self, node: Node) -> None:
        """Add a bar."""
        label = f"{node.stage} {node.label}"
        self.tasks[node.key] = self.bars.add_task(label, total=None, notes="", visible=len(self.tasks) < BARS)
        self.lines[node.key] = time.monotonic()

    def progressed(self, node: Node, progress: dict[str, Any]) -> None:
        """Move a bar; without a terminal, say a line every half minute."""
        notes = " ".join(f"{k} {_short(v)}" for k, v in progress["notes"].items())
        self.bars.update(self.tasks[node.key], completed=progress["done"], total=progress["total"], notes=notes)
        quiet = self.console.is_terminal or not progress["total"]
        if not quiet and time.monotonic() - self.lines[node.key] > LINE_SECONDS:
            self.lines[node.key] = time.monotonic()
            self.console.print(
                f"  {node.stage} {node.label}: {progress['done']}/{progress['total']} {notes}", highlight=False
            )

    def ended(self, node: Node, outcome: Outcome, seconds: float) -> None:
        """Remove a bar; say a line for what took long or failed."""
        self.bars.remove_task(self.tasks.pop(node.key))
        if outcome.status == "done":
            self.bars.advance(self.whole)
            if seconds > 5:
                self.console.print(f"  {node.stage} {node.label}: {seconds:.0f} s", highlight=False)
        elif outcome.status != "again":
            self.said(f"{node.stage} {node.label}: {outcome.status}: {outcome.reason}")

    def recorded(self, record: Record) -> None:
        """Say how a cell ended."""
        title = self.titles.get(record["key"], record["title"])
        if record["status"] == "done":
            kinds = (("", record["metrics"]), (" verified", record.get("verification", {})))
            scores = ", ".join(
                f"{split}{kind} mIoU {percent(m['miou'])}" for kind, splits in kinds for split, m in splits.items()
            )
            key = (record["key"][:8], "dim")
            self.console.print(Text.assemble(("done", "green"), f" {title} ", key, f": {scores}"))
        else:
            status = (record["status"], "yellow" if record["status"] == "skipped" else "red")
            self.console.print(Text.assemble(status, f" {title}: {record['reason']}"))

    def said(self, message: str) -> None:
        """Say a line."""
        self.console.print(message, markup=False, highlight=False)


@contextmanager
def scanning(console: Console, doing: str = "checking") -> Iterator[Any]:
    """Show a pass over many files, of images say; yields a function to be called with (what, done, total)."""
    started = time.monotonic()
    tasks: dict[str, TaskID] = {}
    with _bars(console) as bars:

        def scan(what: str, done: int, total: int) -> None:
            if what not in tasks:
                if done == total or time.monotonic() - started < 1:
                    return
                tasks[what] = bars.add_task(f"{doing} {what}", total=total, notes="")
            bars.update(tasks[what], completed=done)

        yield scan


def _bars(console: Console) -> Progress:
    return Progress(
        TextColumn("{task.description}", markup=False),
        BarColumn(bar_width=24),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[notes]}", style="dim", markup=False),
        console=console,
        transient=True,
        disable=not console.is_terminal,
    )


def percent(share: float | None, digits: int = 1) -> str:
    """Return a share in percent; a dash for none."""
    return "–" if share is None else f"{100 * share:.{digits}f}"


def length_of_time(seconds: float) -> str:
    """Return a length of time as people say it."""
    minutes = seconds / 60
    if minutes < 1:
        return f"{seconds:.0f} s"
    return f"{minutes:.0f} min" if minutes < 100 else f"{minutes / 60:.1f} h"


def _short(value: Any) -> str:
    return f"{value:.3f}" if isinstance(value, float) else str(value)
