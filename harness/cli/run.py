"""`harness run`: expand a grid, plan it, run what is missing."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from harness.cli.common import DEFAULT_RESULTS, Json, Plugins, Results, messages, output, print_json, split_commas
from harness.errors import InterruptedRunError, UserError

Option = typer.Option


def command(
    methods: Annotated[str | None, Option(help="Methods, by name or glob: vitpcm,cam,sanity-*.")] = None,
    backbones: Annotated[str | None, Option(help="Backbones: vit_s16, resnet50, timm:<id>.")] = None,
    dataset: Annotated[str | None, Option(help="Datasets: toy, toy-hard, voc12, voc12-animals.")] = None,
    root: Annotated[
        Path | None, Option(help="Folder of a dataset that needs one.", envvar="WSSS_HARNESS_ROOT", file_okay=False)
    ] = None,
    weights: Annotated[str | None, Option(help="Start weights: random, hub, or a file.")] = None,
    protocol: Annotated[str | None, Option(help="Protocols: strict, vitpcm.")] = None,
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
    """Run methods on a dataset under a protocol, and record every score."""
    from harness.plan import Planner
    from harness.registry import Registry
    from harness.spec import Grid, expand, parse_assignments
    from harness.spec import experiment as read_experiment
    from harness.store import Store
    from harness.strict import parse

    if device not in ("auto", "cpu", "cuda"):
        raise UserError(f"--device {device}: expected auto, cpu or cuda")
    registry = Registry(plugins or ())
    flags = {
        "methods": split_commas(methods),
        "backbones": split_commas(backbones),
        "datasets": split_commas(dataset),
        "weights": weights,
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
    console = messages()
    cells = expand(grids, registry)
    if not dry_run:
        Store(results, create=True)
    from harness.progress import ConsoleView, scanning

    if any(cell.weights == "hub" for cell in cells):
        console.print("weights from the hub are fetched once and kept; looking for them", highlight=False)
    with scanning(console) as scan:
        plan = Planner(registry, results, root, scan).plan(cells)
    if dry_run:
        _show_plan(plan, results, as_json)
        return
    from harness.schedule import Options, Scheduler

    store = Store(results)
    _announce(console, plan)
    with ConsoleView(console) as view:
        scheduler = Scheduler(plan, store, Options(device, threads, max_parallel), view)
        reused = len({key for p in plan.cells for key in p.nodes}) - len(scheduler.waiting)
        if scheduler.waiting:
            console.print(f"{len(scheduler.waiting)} stages to run, {reused} reused", highlight=False)
        elif not scheduler.open:
            console.print("every stage reused, nothing to run", highlight=False)
        try:
            scheduler.run()
        except KeyboardInterrupt:
            message = "interrupted: what was finished is kept; the same command goes on from there"
            raise InterruptedRunError(message) from None
    records = [record for planned in plan.cells if (record := store.record(planned.key))]
    if as_json:
        print_json(records)
    _conclude(console, records, results)


def _announce(console: Console, plan: Any) -> None:
    """Say what is run on what: nothing that moves a score is silent."""
    cells = [planned.cell for planned in plan.cells]
    for spec in {(c.spec.dataset, c.spec.weights, c.spec.protocol.name) for c in cells if c.spec.weights != "none"}:
        dataset, weights, protocol = spec
        origin = next(c.origins.get("weights", "--weights") for c in cells if c.spec.dataset == dataset)
        console.print(f"dataset {dataset}, weights {weights} ({origin}), protocol {protocol}", highlight=False)
    for note in plan.notes:
        console.print(f"note: {note}", highlight=False)


def _conclude(console: Console, records: list[dict[str, Any]], results: Path) -> None:
    done = sum(record["status"] == "done" for record in records)
    bad = [record for record in records if record["status"] not in ("done", "skipped")]
    where = "" if results == DEFAULT_RESULTS else f" --results {results}"
    console.print(f"{done} of {len(records)} cells done, records in {results / 'records'}", highlight=False)
    if bad:
        names = ", ".join(record["title"] for record in bad[:5]) + (", …" if len(bad) > 5 else "")
        console.print(
            f"failed: {names}; `harness show {bad[0]['key'][:8]}{where}` says why", markup=False, highlight=False
        )
        console.print("the same command runs just those again", highlight=False)
        sys.exit(1)
    console.print(f"next: harness report{where}", highlight=False)


def _show_plan(plan: Any, results: Path, as_json: bool) -> None:
    """Print cells, stages, and what is reused."""
    from harness.plan import is_done
    from harness.store import Store

    store = Store(results) if (results / "store.json").exists() else None
    rows = []
    for planned in plan.cells:
        nodes = [plan.nodes[key] for key in planned.nodes]
        there = [node for node in nodes if store and store.artefact(node.stage, node.key)]
        state = "skipped" if planned.cell.skip else "done" if store and is_done(store, planned) else "to run"
        missing = [] if state != "to run" else [node for node in nodes if node not in there]
        rows.append(
            {
                "key": planned.key, "cell": planned.cell.spec.title, "state": state, "why": planned.cell.skip,
                "stages": len(nodes), "reused": [f"{n.stage} {n.key}" for n in there],
                "to_run": [f"{n.stage} {n.key}" for n in missing],
                "settings": {k: (planned.cell.spec.params.get(k), v) for k, v in planned.cell.origins.items()},
            }
        )  # fmt: skip
    if as_json:
        print_json(rows)
        return
    table = Table("cell", "key", "state", "reused", "to run", "not the method's default", box=None)
    for row in rows:
        settings = ", ".join(
            f"{k}={v[0]} ({v[1]})" if v[0] is not None else f"{k} ({v[1]})" for k, v in row["settings"].items()
        )
        stages = " ".join(dict.fromkeys(name.split()[0] for name in row["to_run"])) or "nothing"
        state = f"{row['state']}: {row['why']}" if row["why"] else row["state"]
        table.add_row(row["cell"], row["key"][:8], state, str(len(row["reused"])), stages, settings)
    output().print(table)
    unique = {key for planned in plan.cells for key in planned.nodes}
    left = len(plan.missing(store)) if store else len(unique)
    output().print(
        f"{len(rows)} cells, {len(unique)} stages, {left} to run; run again without --dry-run", highlight=False
    )
