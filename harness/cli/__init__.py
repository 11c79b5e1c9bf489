"""The command line: one module per command, each thin: parse, call, print."""

from __future__ import annotations

import os
import sys
import traceback

import typer

from harness.cli import (
    check,
    compare,
    describe,
    doctor,
    evaluate,
    export,
    gc,
    list_,
    merge,
    new,
    predict,
    prepare,
    report,
    run,
    show,
    status,
)
from harness.cli.grouped import GroupedCommand
from harness.cli.signals import listen, stoppable
from harness.errors import HarnessError

app = typer.Typer(
    name="harness",
    help="Benchmark weakly supervised semantic segmentation: one protocol for every method, every number traceable.",
    no_args_is_help=True,
    add_completion=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
)
for module, name in (
    (run, "run"), (report, "report"), (list_, "list"), (describe, "describe"), (status, "status"), (show, "show"),
    (predict, "predict"), (compare, "compare"), (evaluate, "evaluate"), (doctor, "doctor"),
    (merge, "merge"), (gc, "gc"), (prepare, "prepare"), (check, "check"), (new, "new"),
    (export, "export"),
):  # fmt: skip
    app.command(name, cls=GroupedCommand)(stoppable()(module.command))


@app.callback()
def _options(
    debug: bool = typer.Option(False, "--debug", help="Show the traceback of an error.", envvar="WSSS_HARNESS_DEBUG"),
    version: bool = typer.Option(False, "--version", help="Show the version and exit."),
) -> None:
    if debug:
        os.environ["WSSS_HARNESS_DEBUG"] = "1"


def main() -> None:
    """Run the command line; an error is one or two lines and an exit status."""
    if "--version" in sys.argv[1:2]:
        from importlib.metadata import version

        print(f"wsss-harness {version('wsss-harness')}")
        return
    listen()
    try:
        app()
    except HarnessError as error:
        if os.environ.get("WSSS_HARNESS_DEBUG"):
            traceback.print_exc()
        print(f"error: {error}", file=sys.stderr)
        if error.at_once:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(error.exit_code)
        sys.exit(error.exit_code)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except OSError as error:
        if os.environ.get("WSSS_HARNESS_DEBUG"):
            traceback.print_exc()
        where = f" {error.filename}" if error.filename else ""
        remedy = "see its permissions and the room on its disk, or name another folder"
        print(f"error: cannot use{where}: {error.strerror or error}; {remedy}", file=sys.stderr)
        sys.exit(3)
