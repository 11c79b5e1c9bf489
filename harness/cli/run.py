"""`harness run`: expand a grid, plan it, run what is missing."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from harness.cli.common import DEFAULT_RESULTS, filled, parse_assignments, parse_inputs, split_commas, split_stages
from harness.errors import UserError

_WHAT, _WHERE, _HOW = "What is run", "Where things are", "How it is run"


def _option(group: str, text: str, *names: str, **limits: Any) -> Any:
    return typer.Option(*names, help=text, rich_help_panel=group, **limits)


def command(
    methods: Annotated[str | None, _option(_WHAT, "Methods, by name or glob: vitpcm,cam,sanity-*.")] = None,
    backbones: Annotated[str | None, _option(_WHAT, "Backbones: vit_s16, resnet50, timm:<id>.")] = None,
    datasets: Annotated[
        str | None, _option(_WHAT, "Datasets: toy, toy-hard, voc12, coco14, folder.", "--datasets", "--dataset")
    ] = None,
    protocols: Annotated[
        str | None, _option(_WHAT, "Protocols: strict, vitpcm, irn, seam.", "--protocols", "--protocol")
    ] = None,
    refine: Annotated[str | None, _option(_WHAT, "Refiners: none, crf:vitpcm, pamr; several with commas.")] = None,
    verify: Annotated[
        str | None,
        _option(_WHAT, "Train a DeepLabV2 on the masks and score it: deeplabv2, or deeplabv2:RECIPE."),
    ] = None,
    seeds: Annotated[str | None, _option(_WHAT, "Random seeds: 0,1,2.")] = None,
    experiment: Annotated[str | None, _option(_WHAT, "A named experiment, or a YAML file.")] = None,
    assignments: Annotated[
        list[str] | None, _option(_WHAT, "METHOD.KEY=VALUE, protocol.KEY=VALUE or deeplabv2.KEY=VALUE.", "--set")
    ] = None,
    inputs: Annotated[
        list[str] | None, _option(_WHERE, "NAME=PATH: a folder or file that some methods and refiners need.", "--input")
    ] = None,
    limit: Annotated[int | None, _option(_WHAT, "Only the first N images of each split.", min=1)] = None,
    failed: Annotated[bool, _option(_WHAT, "Only the cells that have failed before.", "--failed")] = False,
    root: Annotated[
        Path | None,
        _option(_WHERE, "Folder of a dataset that needs one.", "--root", envvar="WSSS_HARNESS_ROOT", file_okay=False),
    ] = None,
    weights: Annotated[
        str | None, _option(_WHERE, "Start weights: random, hub, a file; or NAME=CHOICE,… of backbones.")
    ] = None,
    verify_weights: Annotated[str | None, _option(_WHERE, "The file of weights that a verifier starts from.")] = None,
    checkpoint: Annotated[
        str | None, _option(_WHERE, "A trained model, model.safetensors, instead of training.")
    ] = None,
    results: Annotated[
        Path, _option(_WHERE, "Results folder.", "--results", envvar="WSSS_HARNESS_RESULTS", file_okay=False)
    ] = DEFAULT_RESULTS,
    plugins: Annotated[
        list[str] | None, _option(_WHERE, "A plugin file, package folder or module; repeatable.", "--plugins")
    ] = None,
    device: Annotated[str, _option(_HOW, "auto, cpu or cuda.")] = "auto",
    threads: Annotated[int | None, _option(_HOW, "Cores per training; default half of them.", min=1)] = None,
    max_parallel: Annotated[int | None, _option(_HOW, "At most N stages at once.", min=1)] = None,
    resources: Annotated[
        list[str] | None, _option(_HOW, "STAGE.QUANTITY=NUMBER, as fit.gpus=0.5 or score.cpus=4; repeatable.")
    ] = None,
    ray_address: Annotated[str | None, _option(_HOW, "Join a Ray cluster: auto, or HOST:PORT.")] = None,
    time_limit: Annotated[str | None, _option(_HOW, "Kill a stage that takes longer: 90s, 30m, 2h.")] = None,
    keep: Annotated[
        str | None, _option(_HOW, "Stages whose artefacts stay when their cells are done: fit,mask; default all.")
    ] = None,
    cache_images: Annotated[
        bool,
        _option(
            _HOW,
            "Decode images once, into the results folder; says how large first.",
            "--cache-images",
            "--cache-pictures",
        ),
    ] = False,
    fail_fast: Annotated[bool, _option(_HOW, "Stop at the first failure.", "--fail-fast")] = False,
    dry_run: Annotated[bool, _option(_HOW, "Show cells, stages and what is reused; run nothing.", "--dry-run")] = False,
    as_json: Annotated[bool, _option(_HOW, "Print JSON.", "--json")] = False,
) -> None:
    """Run methods under a protocol.

    Expands a grid of methods, backbones, datasets, protocols, refiners, verifiers and seeds, runs what is
    missing, records every score.
    """
    from harness.cli.cells import run_cells
    from harness.registry import Registry
    from harness.run.resources import parse_resources
    from harness.run.schedule import Options
    from harness.spec import Grid, expand
    from harness.spec import experiment as read_experiment
    from harness.strict import parse

    if device not in ("auto", "cpu", "cuda"):
        raise UserError(f"--device {device}: expected auto, cpu or cuda")
    registry = Registry(plugins or ())
    flags = {
        "methods": split_commas(methods, "--methods"),
        "backbones": split_commas(backbones, "--backbones"),
        "datasets": split_commas(datasets, "--datasets"),
        "weights": filled(weights, "--weights"),
        "checkpoint": filled(checkpoint, "--checkpoint"),
        "protocols": split_commas(protocols, "--protocols"),
        "refine": split_commas(refine, "--refine"),
        "verify": split_commas(verify, "--verify"),
        "verify_weights": filled(verify_weights, "--verify-weights"),
        "seeds": split_commas(seeds, "--seeds"),
        "limit": limit,
    }
    given = {key: value for key, value in flags.items() if value is not None}
    values = parse_assignments(assignments or []) | parse_inputs(inputs or [])
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
        cells, registry, results, root, options, cache_images=cache_images, failed_only=failed,
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
