"""`harness evaluate`: masks or scores made elsewhere, through the evaluator of all others."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from harness.cli.common import DEFAULT_RESULTS, Json, Results, Root, output, parse_assignments, split_commas
from harness.errors import UserError


def command(
    masks: Annotated[Path | None, typer.Option(help="Folder of indexed PNG masks, one per image.")] = None,
    scores: Annotated[Path | None, typer.Option(help="Folder of (C, h, w) score maps, .npy or .npz.")] = None,
    dataset: Annotated[str, typer.Option(help="Whose images they are of.")] = "voc12",
    split: Annotated[str, typer.Option(help="The split: every image of it, and no other.")] = "val",
    root: Root = None,
    probabilities: Annotated[bool, typer.Option("--probabilities", help="Scores are probabilities.")] = False,
    background: Annotated[
        bool, typer.Option("--background", help="Channel 0 of the scores is the background.")
    ] = False,
    supervision: Annotated[
        str, typer.Option(help="What made them, for the tables: image_labels, saliency.")
    ] = "unknown",
    protocol: Annotated[str, typer.Option(help="How scores become masks.")] = "strict",
    assignments: Annotated[list[str] | None, typer.Option("--set", help="protocol.KEY=VALUE; repeatable.")] = None,
    refine: Annotated[str | None, typer.Option(help="Refiners: none, crf:vitpcm, pamr; several with commas.")] = None,
    results: Results = DEFAULT_RESULTS,
    as_json: Json = False,
) -> None:
    """Score masks or maps made elsewhere.

    They are checked strictly first; the record is like any other.
    """
    from harness.cli.cells import run_cells
    from harness.registry import Registry
    from harness.report.dataframe import frame
    from harness.report.formats import show
    from harness.report.tables import comparison
    from harness.run.schedule import Options
    from harness.spec import Grid, expand
    from harness.strict import parse

    if (masks is None) == (scores is None):
        raise UserError("say what to evaluate: either --masks DIR or --scores DIR")
    settings = {
        "external.kind": "masks" if masks else "scores", "external.folder": str(masks or scores),
        "external.output": "probability" if probabilities else "activation", "external.background": background,
        "external.supervision": supervision, "protocol.eval_splits": split,
    }  # fmt: skip
    registry = Registry()
    asked = {
        "methods": "external", "datasets": split_commas(dataset, "--dataset"),
        "protocols": split_commas(protocol, "--protocol"), "refine": split_commas(refine, "--refine") or (),
        "set": settings | parse_assignments(assignments or []),
    }  # fmt: skip
    cells = expand([parse(Grid, asked)], registry)
    records = run_cells(cells, registry, results, root, Options("cpu"), as_json=as_json)
    if not as_json:
        for table in comparison(frame(records)):
            show(table, output())
