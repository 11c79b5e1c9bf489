"""`harness run`: expand a grid, plan it, run what is missing."""

from __future__ import annotations

from typing import Annotated

import typer

from harness.cli.common import DEFAULT_RESULTS, Json, Plugins, Results, Root, split_commas
from harness.errors import UserError

Option = typer.Option


def command(
    methods: Annotated[str | None, Option(help="Methods, by name or glob: vitpcm,cam,sanity-*.")] = None,
    backbones: Annotated[str | None, Option(help="Backbones: vit_s16, resnet50, timm:<id>.")] = None,
    dataset: Annotated[str | None, Option(help="Datasets: toy, toy-hard, voc12, folder.")] = None,
    root: Root = None,
    weights: Annotated[str | None, Option(help="Start weights: random, hub, or a file.")] = None,
    checkpoint: Annotated[str | None, Option(help="A trained model, model.safetensors, instead of training.")] = None,
    protocol: Annotated[str | None, Option(help="Protocols: strict, vitpcm, irn, seam.")] = None,
    refine: Annotated[str | None, Option(help="Refiners: none, crf:vitpcm; both with a comma.")] = None,
    seeds: Annotated[str | None, Option(help="Random seeds: 0,1,2.")] = None,
    experiment: Annotated[str | None, Option(help="A named experiment, or a YAML file.")] = None,
    assignments: Annotated[
        list[str] | None, Option("--set", help="METHOD.KEY=VALUE or protocol.KEY=VALUE; repeatable.")
    ] = None,
    limit: Annotated[int | None, Option(help="Only the first N pictures of each split.", min=1)] = None,
    results: Results = DEFAULT_RESULTS,
    plugins: Plugins = None,
    device: Annotated[str, Option(help="auto, cpu or cuda.")] = "auto",
    threads: Annotated[int | None, Option(help="Cores per training; default half of them.", min=1)] = None,
    max_parallel: Annotated[int | None, Option(help="At most N stages at once.", min=1)] = None,
    dry_run: Annotated[bool, Option("--dry-run", help="Show cells, stages and what is reused; run nothing.")] = False,
    as_json: Json = False,
) -> None:
    """Run methods under a protocol.

    Expands a grid of methods, backbones, datasets, protocols, refiners and seeds, runs what is missing,
    records every score.
    """
    from harness.cli.cells import run_cells
    from harness.registry import Registry
    from harness.schedule import Options
    from harness.spec import Grid, expand, parse_assignments
    from harness.spec import experiment as read_experiment
    from harness.strict import parse

    if device not in ("auto", "cpu", "cuda"):
        raise UserError(f"--device {device}: expected auto, cpu or cuda")
    registry = Registry(plugins or ())
    flags = {
        "methods": split_commas(methods),
        "backbones": split_commas(backbones),
        "datasets": split_commas(dataset),
        "weights": weights,
        "checkpoint": checkpoint,
        "protocols": split_commas(protocol),
        "refine": split_commas(refine),
        "seeds": split_commas(seeds),
        "limit": limit,
    }
    given = {key: value for key, value in flags.items() if value is not None}
    values = parse_assignments(assignments or [])
    if experiment:
        grids = [
            parse(Grid, grid.model_dump(exclude_unset=True) | given | {"set": grid.set | values})
            for grid in read_experiment(registry, experiment).grids
        ]
    elif methods:
        grids = [parse(Grid, given | {"set": values}, where="harness run")]
    else:
        raise UserError("nothing to run: --methods NAMES (see `harness list methods`) or --experiment NAME")
    options = Options(device, threads, max_parallel)
    run_cells(expand(grids, registry), registry, results, root, options, dry_run=dry_run, as_json=as_json)
