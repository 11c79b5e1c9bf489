"""Options that several commands share, and where they print."""

from __future__ import annotations

import json
import shlex
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Annotated, Any, TypeVar

import typer
from rich.console import Console

from harness.errors import UserError, closest

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

T = TypeVar("T")


def messages() -> Console:
    """Return the console for progress and remarks: standard error. What is printed is text, never markup."""
    return Console(stderr=True, soft_wrap=True, markup=False, highlight=False)


def output() -> Console:
    """Return the console for what was asked for: standard output, wide where nobody's window sets a width."""
    return Console(width=None if sys.stdout.isatty() else 220, markup=False, highlight=False)


def tracked(items: Iterable[T], what: str, total: int) -> Iterable[T]:
    """Return items, with a bar on a terminal while they are taken."""
    from rich.progress import track

    console = messages()
    return track(items, what, total, console=console, transient=True, disable=not console.is_terminal)


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

    stages = split_commas(value, "--keep")
    for stage in stages or ():
        if stage not in STAGES:
            raise UserError(f"--keep: unknown stage '{stage}': {closest(stage, STAGES)}")
    return stages


def split_commas(value: str | None, option: str) -> tuple[str, ...] | None:
    """Return the parts of a comma-separated option.

    Raises
    ------
    UserError
        If it was given and is empty, as a variable that was not set is in a script.
    """
    if value is None:
        return None
    parts = tuple(part.strip() for part in value.split(",") if part.strip())
    if not parts:
        raise UserError(f"{option} is empty: leave it out, or name something")
    return parts


def filled(value: str | None, option: str) -> str | None:
    """Return the value of an option that names one thing.

    Raises
    ------
    UserError
        If it was given and is empty.
    """
    if value is not None and not value.strip():
        raise UserError(f"{option} is empty: leave it out, or name something")
    return value


def next_command(*words: str, results: Path = DEFAULT_RESULTS) -> str:
    """Return a command to give next, as a shell takes it, with the results folder where it is not the default."""
    where = [] if results == DEFAULT_RESULTS else ["--results", str(results)]
    return shlex.join(["harness", *words, *where])


def parse_inputs(inputs: Sequence[str]) -> dict[str, Any]:
    """Turn `--input` options, `NAME=PATH`, into settings of every plugin that has one of that name."""
    from harness.spec import INPUT

    wrong = [given for given in inputs if not all(given.partition("="))]
    if wrong:
        raise UserError(f"--input {wrong[0]}: expected NAME=PATH")
    return {f"{INPUT}.{name.strip()}": path for name, _, path in (given.partition("=") for given in inputs)}


def parse_assignments(assignments: Sequence[str]) -> dict[str, Any]:
    """Turn `--set` options, `METHOD.KEY=VALUE`, into a mapping; values are read as YAML."""
    import yaml

    from harness.protocol import VERIFIER

    values = {}
    for assignment in assignments:
        key, equals, value = assignment.partition("=")
        if not equals or "." not in key:
            raise UserError(
                f"--set {assignment}: expected METHOD.KEY=VALUE, protocol.KEY=VALUE or {VERIFIER}.KEY=VALUE"
            )
        try:
            values[key.strip()] = yaml.safe_load(value)
        except yaml.YAMLError as error:
            raise UserError(f"--set {assignment}: the value is not YAML: {getattr(error, 'problem', error)}") from None
    return values
