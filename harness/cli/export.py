"""`harness export`: masks for an evaluation server, records for an experiment tracker."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from harness.cli.common import DEFAULT_RESULTS, Json, Results, messages, print_json
from harness.errors import UserError, closest

SERVER = "voc-test"
_FORM = "voc-test: the archive that VOC's server takes, comp6; or records as csv, tensorboard, wandb, mlflow."


def command(
    form: Annotated[str, typer.Argument(help=_FORM)],
    run: Annotated[str, typer.Argument(help="For voc-test: the first digits of a record's key.")] = "",
    out: Annotated[Path | None, typer.Option(help="Where to write; default RESULTS/export.", file_okay=False)] = None,
    results: Results = DEFAULT_RESULTS,
    as_json: Json = False,
) -> None:
    """Hand results on.

    Masks, for VOC's evaluation server: of a cell on VOC 2012 test, those of its verifier if it has one; what ground
    truth has touched is refused. Records, all of a results folder, with their losses and scores: as CSV, or into a
    tracker (pip install 'wsss-harness[trackers]'), which is asked nothing while a method trains.
    """
    from harness.report.trackers import FORMS, export
    from harness.results.store import Store
    from harness.results.submission import submission

    if form not in (SERVER, *FORMS):
        raise UserError(f"unknown form '{form}': {closest(form, (SERVER, *FORMS))}")
    if (form == SERVER) != bool(run):
        raise UserError(f"export {form} takes {'a record: harness list runs' if form == SERVER else 'all records'}")
    store, folder = Store(results), out or results / "export"
    if form == SERVER:
        record = store.find(run)
        path, what = submission(record, store, folder), f"masks of {record['title']}"
    else:
        records = list(store.records())
        path, what = export(records, form, folder), f"{len(records)} records"
    if as_json:
        print_json({"form": form, "path": str(path)} | ({"key": record["key"]} if form == SERVER else {}))
        return
    messages().print(f"written: {path}, {what}")
    if form == SERVER:
        messages().print("next: upload it at http://host.robots.ox.ac.uk:8080, competition comp6")
