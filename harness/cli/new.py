"""`harness new`: a working plugin to begin with."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Annotated

import typer

from harness.cli.common import output


def command(
    kind: Annotated[str, typer.Argument(help="method, refiner or dataset.")],
    name: Annotated[str, typer.Argument(help="What it will be called on the command line.")],
    package: Annotated[bool, typer.Option("--package", help="As a package that can be installed.")] = False,
) -> None:
    """Write a working plugin, its test and its page.

    It passes `harness check` as it is; nothing is overwritten.
    """
    from harness.scaffold import scaffold

    paths = scaffold(kind, name, Path(), package)
    for path in paths:
        output().print(f"wrote {path}", highlight=False)
    if package:
        output().print(f"next: pip install -e {name}, then harness check {name}", highlight=False)
    else:
        output().print(f"next: harness check {shlex.quote(str(paths[0]))}", highlight=False)
