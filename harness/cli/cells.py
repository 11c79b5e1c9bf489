"""What `run` and `evaluate` share: plan some cells, run what is missing, say how it went."""

from __future__ import annotations

import sys
from collections.abc import Collection
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table

from harness.cli.common import messages, next_command, output, print_json

if TYPE_CHECKING:
    from harness.cell import Cell
    from harness.errors import UserError
    from harness.registry import Registry
    from harness.results.record import Record
    from harness.results.store import Store
    from harness.run.plan import Plan
    from harness.run.schedule import Options


def run_cells(
    cells: list[Cell],
    registry: Registry,
    results: Path,
    root: Path | None,
    options: Options,
    *,
    cache_images: bool = False,
    failed_only: bool = False,
    dry_run: bool = False,
    as_json: bool = False,
) -> list[Record]:
    """Run cells and return their records; exit with status 1 if any failed.

    Raises
    ------
    UserError
        For whatever would make a cell fail for sure.
    """
    from harness.errors import UserError
    from harness.inputs import Inputs
    from harness.results.store import Store
    from harness.run.outline import outline
    from harness.run.plan import plan_cells
    from harness.run.progress import scanning

    console = messages()
    if any(cell.weights == "hub" for cell in cells):
        console.print("weights from the hub are fetched once and kept; looking for them", highlight=False)
    if not dry_run:
        Store(results, create=True)
    try:
        with scanning(console) as scan:
            plan = plan_cells(cells, Inputs(registry, results, root, scan))
    except UserError as error:
        if not dry_run or not _show_outline(outline(cells, registry, root), error, as_json):
            raise
        return []
    if failed_only:
        plan.cells = [planned for planned in plan.cells if _has_failed(results, planned.key)]
        if not plan.cells:
            console.print("none of these cells has failed, nothing to run", highlight=False)
            return []
    if dry_run:
        _show_plan(plan, results, cache_images, as_json)
        return []
    store = Store(results)
    _announce(console, plan)
    with store.in_use():
        if cache_images:
            _decode(console, plan, store, options.keep)
        _run(console, plan, store, options)
    records = [record for planned in plan.cells if (record := store.record(planned.key))]
    if as_json:
        print_json(records)
    _conclude(console, records, plan.titles, results)
    return records


def _decode(console: Console, plan: Plan, store: Store, keep: Collection[str] | None) -> None:
    """Decode the images that are still to be opened; say first how large they are."""
    from harness.run.progress import scanning

    decoded = plan.decode(plan.missing(store, keep))
    if not decoded.size:
        return
    console.print(str(decoded), highlight=False)
    with scanning(console, "decoding") as scan:
        decoded.write(partial(scan, "images"))


def _run(console: Console, plan: Plan, store: Store, options: Options) -> None:
    from harness.run.progress import ConsoleView
    from harness.run.schedule import Scheduler

    with ConsoleView(console, len(plan.missing(store, options.keep)), plan.titles) as view:
        scheduler = Scheduler(plan, store, options, view)
        there = {key for p in plan.cells for key in p.nodes if store.artefact(plan.nodes[key].stage, key)}
        reused = len(there)
        if scheduler.waiting:
            console.print(f"{len(scheduler.waiting)} stages to run, {reused} reused", highlight=False)
        elif not scheduler.open:
            console.print(_nothing_to_run(plan, store), highlight=False)
        scheduler.run()


def _nothing_to_run(plan: Plan, store: Store) -> str:
    """Return why nothing is run, and which stages of done cells are there no more."""
    from harness.stages import STAGES

    gone = {plan.nodes[key].stage for planned in plan.cells for key in plan.gone(store, planned, STAGES)}
    if not gone:
        return "every stage reused, nothing to run"
    stages = ",".join(stage for stage in STAGES if stage in gone)
    return f"every cell is done, nothing to run; artefacts of some stages are gone: --keep {stages} makes them again"


def _has_failed(results: Path, key: str) -> bool:
    from harness.results.record import SETTLED
    from harness.results.store import Store

    record = Store(results).record(key)
    return record is not None and record["status"] not in SETTLED


def _announce(console: Console, plan: Any) -> None:
    """Say what is run on what: nothing that moves a score is silent."""
    cells = [planned.cell for planned in plan.cells]
    for spec in {(c.spec.dataset, c.spec.weights, c.spec.protocol.name) for c in cells if c.spec.weights != "none"}:
        dataset, weights, protocol = spec
        origin = next(c.origins.get("weights", "--weights") for c in cells if c.spec.dataset == dataset)
        console.print(f"dataset {dataset}, weights {weights} ({origin}), protocol {protocol}", highlight=False)
    for name, init in {(c.spec.protocol.verify, c.spec.verifier["init"]) for c in cells if c.spec.verifier}:
        console.print(f"verification {name}, from {init} weights", highlight=False)
    for note in plan.notes:
        console.print(f"note: {note}", highlight=False)


def _conclude(console: Console, records: list[Record], titles: dict[str, str], results: Path) -> None:
    from harness.results.record import SETTLED

    done = sum(record["status"] == "done" for record in records)
    bad = [record for record in records if record["status"] not in SETTLED]
    console.print(f"{done} of {len(records)} cells done, records in {results / 'records'}", highlight=False)
    if bad:
        names = ", ".join(titles[record["key"]] for record in bad[:5]) + (", …" if len(bad) > 5 else "")
        console.print(f"failed: {names}; `{next_command('show', bad[0]['key'][:8], results=results)}` says why")
        console.print("the same command runs just those again", highlight=False)
        sys.exit(1)
    console.print(f"next: {next_command('report', results=results)}")


def _show_outline(rows: list[dict[str, Any]], error: UserError, as_json: bool) -> bool:
    """Print what cells need before they can be planned; return whether that is anything."""
    if not any(row["needs"] for row in rows):
        return False
    if as_json:
        print_json(rows)
        return True
    table = Table("cell", "state", "stages", box=None)
    for row in rows:
        table.add_row(
            row["cell"], f"{row['state']}: {row['why']}" if row["why"] else row["state"], " ".join(row["stages"])
        )
    output().print(table)
    output().print("needed, and where it comes from:")
    for need in dict.fromkeys(need for row in rows for need in row["needs"]):
        output().print(f"  {need}", highlight=False)
    output().print(f"{len(rows)} cells; keys and what is reused are known once these are there: {error}".split("\n")[0])
    return True


def _show_plan(plan: Plan, results: Path, cache_images: bool, as_json: bool) -> None:
    """Print cells, stages, what is reused, and what the rest may take."""
    from harness.results.store import Store
    from harness.run.estimate import estimate
    from harness.run.plan import is_done

    store = Store(results) if (results / "store.json").exists() else None
    rows: list[dict[str, Any]] = []
    titles = plan.titles
    for planned in plan.cells:
        nodes = [plan.nodes[key] for key in planned.nodes]
        there = [node for node in nodes if store and store.artefact(node.stage, node.key)]
        state = planned.cell.barred or ("done" if store and is_done(store, planned) else "to run")
        missing = [] if state != "to run" else [node for node in nodes if node not in there]
        rows.append(
            {
                "key": planned.key, "cell": titles[planned.key], "state": state, "why": planned.cell.why_barred,
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
    unique = dict.fromkeys(key for planned in plan.cells for key in planned.nodes)
    left = plan.missing(store) if store else list(unique)
    lines = [f"{len(rows)} cells, {len(unique)} stages, {len(left)} to run; run again without --dry-run"]
    if store and left:
        lines.append(str(estimate(store, [plan.nodes[key] for key in left])))
    if cache_images:
        lines.append(str(plan.decode(left)))
    lines += [f"note: {note}" for note in plan.notes]
    output().print("\n".join(lines), highlight=False)
