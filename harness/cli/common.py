"""Options that several commands share, and where they print."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from harness.errors import InterruptedRunError, UserError, closest

Results = Annotated[
    Path, typer.Option("--results", help="Results folder.", envvar="WSSS_HARNESS_RESULTS", file_okay=False)
]
Root = Annotated[
    Path | None,
    typer.Option("--root", help="Folder of a dataset that needs one.", envvar="WSSS_HARNESS_ROOT", file_okay=False),
]
Plugins = Annotated[
    list[str] | None, typer.Option("--plugins", help="A plugin file, package folder or module; repeatable.")
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]

DEFAULT_RESULTS = Path("results")


def messages() -> Console:
    """Return the console for progress and remarks: standard error."""
    return Console(stderr=True, soft_wrap=True)


def output() -> Console:
    """Return the console for what was asked for: standard output, wide where nobody's window sets a width."""
    return Console() if sys.stdout.isatty() else Console(width=220)


@contextmanager
def stoppable() -> Iterator[None]:
    """Say after Ctrl-C that nothing is lost.

    Raises
    ------
    InterruptedRunError
    """
    try:
        yield
    except KeyboardInterrupt:
        message = "interrupted: what was finished is kept; the same command goes on from there"
        raise InterruptedRunError(message) from None


def print_json(value: Any) -> None:
    """Print JSON for programs."""
    print(json.dumps(value, indent=1, ensure_ascii=False))


def split_stages(value: str | None) -> tuple[str, ...] | None:
    """Return the stages of `--keep`.

    Raises
    ------
    UserError
        For one that does not exist, with the closest.
    """
    from harness.stages import STAGES

    stages = split_commas(value)
    for stage in stages or ():
        if stage not in STAGES:
            raise UserError(f"--keep: unknown stage '{stage}': {closest(stage, STAGES)}")
    return stages


def split_commas(value: str | None) -> tuple[str, ...] | None:
    """Return the parts of a comma-separated option."""
    return None if value is None else tuple(part.strip() for part in value.split(",") if part.strip())
