"""`harness run`: expand a grid, plan it, run what is missing."""

from __future__ import annotations

from typing import Annotated

import typer

from harness.cli.common import DEFAULT_RESULTS, Json, Plugins, Results, Root, filled, split_commas, split_stages
from harness.errors import UserError

Option = typer.Option


def command(
    methods: Annotated[str | None, Option(help="Methods, by name or glob: vitpcm,cam,sanity-*.")] = None,
    backbones: Annotated[str | None, Option(help="Backbones: vit_s16, resnet50, timm:<id>.")] = None,
    dataset: Annotated[str | None, Option(help="Datasets: toy, toy-hard, voc12, coco14, folder.")] = None,
    root: Root = None,
    weights: Annotated[
        str | None, Option(help="Start weights: random, hub, a file; or NAME=CHOICE,… of backbones.")
    ] = None,
    checkpoint: Annotated[str | None, Option(help="A trained model, model.safetensors, instead of training.")] = None,
    protocol: Annotated[str | None, Option(help="Protocols: strict, vitpcm, irn, seam.")] = None,
    refine: Annotated[str | None, Option(help="Refiners: none, crf:vitpcm, pamr; several with commas.")] = None,
    verify: Annotated[
        str | None,
        Option(help="Train a DeepLabV2 on the masks and score it: deeplabv2[:RECIPE]; plain: :kazuto-imagenet."),
    ] = None,
    verify_weights: Annotated[str | None, Option(help="The file of weights that its recipe starts from.")] = None,
    seeds: Annotated[str | None, Option(help="Random seeds: 0,1,2.")] = None,
    experiment: Annotated[str | None, Option(help="A named experiment, or a YAML file.")] = None,
    assignments: Annotated[
        list[str] | None, Option("--set", help="METHOD.KEY=VALUE, protocol.KEY=VALUE or deeplabv2.KEY=VALUE.")
    ] = None,
    limit: Annotated[int | None, Option(help="Only the first N pictures of each split.", min=1)] = None,
    results: Results = DEFAULT_RESULTS,
    plugins: Plugins = None,
    device: Annotated[str, Option(help="auto, cpu or cuda.")] = "auto",
    threads: Annotated[int | None, Option(help="Cores per training; default half of them.", min=1)] = None,
    max_parallel: Annotated[int | None, Option(help="At most N stages at once.", min=1)] = None,
    resources: Annotated[
        list[str] | None, Option(help="STAGE.QUANTITY=NUMBER, as fit.gpus=0.5 or score.cpus=4; repeatable.")
    ] = None,
    ray_address: Annotated[str | None, Option(help="Join a Ray cluster: auto, or HOST:PORT.")] = None,
    time_limit: Annotated[str | None, Option(help="Kill a stage that takes longer: 90s, 30m, 2h.")] = None,
    keep: Annotated[
        str | None, Option(help="Stages whose artefacts stay when their cells are done: fit,mask; default all.")
    ] = None,
    cache_pictures: Annotated[
        bool, Option("--cache-pictures", help="Decode pictures once, into the results folder; says how large first.")
    ] = False,
    failed: Annotated[bool, Option("--failed", help="Only the cells that have failed before.")] = False,
    fail_fast: Annotated[bool, Option("--fail-fast", help="Stop at the first failure.")] = False,
    dry_run: Annotated[bool, Option("--dry-run", help="Show cells, stages and what is reused; run nothing.")] = False,
    as_json: Json = False,
) -> None:
    """Run methods under a protocol.

    Expands a grid of methods, backbones, datasets, protocols, refiners, verifiers and seeds, runs what is
    missing, records every score.
    """
    from harness.cli.cells import run_cells
    from harness.registry import Registry
    from harness.run.resources import parse_resources
    from harness.run.schedule import Options
    from harness.spec import Grid, expand, parse_assignments
    from harness.spec import experiment as read_experiment
    from harness.strict import parse

    if device not in ("auto", "cpu", "cuda"):
        raise UserError(f"--device {device}: expected auto, cpu or cuda")
    registry = Registry(plugins or ())
    flags = {
        "methods": split_commas(methods, "--methods"),
        "backbones": split_commas(backbones, "--backbones"),
        "datasets": split_commas(dataset, "--dataset"),
        "weights": filled(weights, "--weights"),
        "checkpoint": filled(checkpoint, "--checkpoint"),
        "protocols": split_commas(protocol, "--protocol"),
        "refine": split_commas(refine, "--refine"),
        "verify": split_commas(verify, "--verify"),
        "verify_weights": filled(verify_weights, "--verify-weights"),
        "seeds": split_commas(seeds, "--seeds"),
        "limit": limit,
    }
    given = {key: value for key, value in flags.items() if value is not None}
    values = parse_assignments(assignments or [])
    if filled(experiment, "--experiment"):
        assert experiment
        grids = [
            parse(Grid, grid.model_dump(exclude_unset=True) | given | {"set": grid.set | values})
            for grid in read_experiment(registry, experiment).grids
        ]
    elif methods:
        grids = [parse(Grid, given | {"set": values}, where="harness run")]
    else:
        raise UserError("nothing to run: --methods NAMES (see `harness list methods`) or --experiment NAME")
    options = Options(
        device, threads, max_parallel, parse_resources(resources or []), ray_address,
        None if time_limit is None else _seconds(time_limit), fail_fast, split_stages(keep),
    )  # fmt: skip
    cells = expand(grids, registry, values)
    run_cells(
        cells, registry, results, root, options, cache_pictures=cache_pictures, failed_only=failed,
        dry_run=dry_run, as_json=as_json,
    )  # fmt: skip


def _seconds(text: str) -> float:
    """Return a length of time in seconds: 90s, 30m, 2h, or a number."""
    try:
        seconds = float(text.rstrip("smh")) * {"m": 60, "h": 3600}.get(text[-1:], 1)
    except ValueError:
        seconds = 0.0
    if seconds <= 0:
        raise UserError(f"--time-limit {text}: expected a length of time, as 90s, 30m or 2h")
    return seconds
