"""`harness export`: a cell's masks in the form that somebody else's evaluation takes."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from harness.cli.common import DEFAULT_RESULTS, Json, Results, messages, print_json
from harness.errors import UserError, closest

FORMS = ("voc-test",)


def command(
    form: Annotated[str, typer.Argument(help="voc-test: the archive that VOC's evaluation server takes, comp6.")],
    run: Annotated[str, typer.Argument(help="The first digits of a record's key; see `harness list runs`.")],
    out: Annotated[Path, typer.Option(help="Where to write masks and archive.", file_okay=False)],
    results: Results = DEFAULT_RESULTS,
    as_json: Json = False,
) -> None:
    """Pack masks for an evaluation server.

    Of a cell on VOC 2012 test, those of its verifier if it has one; refuses what no ground truth may have touched.
    """
    from harness.results.store import Store
    from harness.results.submission import submission

    if form not in FORMS:
        raise UserError(f"unknown form '{form}': {closest(form, FORMS)}")
    store = Store(results)
    record = store.find(run)
    archive = submission(record, store, out)
    if as_json:
        print_json({"key": record["key"], "archive": str(archive)})
        return
    console = messages()
    console.print(f"written: {archive}, masks of {record['title']}", markup=False, highlight=False)
    console.print("next: upload it at http://host.robots.ox.ac.uk:8080, competition comp6", highlight=False)
