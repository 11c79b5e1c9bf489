"""Many cells in which there is nothing to compute: what is left is the harness."""

from __future__ import annotations

import shutil
from typing import Any

import torch

from benchmarks.cells import forget, plan, schedule, start_ray, store_of
from benchmarks.row import Aim, Row, Setting, seconds, share_of_other
from harness import provenance, stages
from harness.run.plan import Plan
from harness.stages import Task


def rows(at: Setting) -> list[Row]:
    """Return the row: seeds of a floor, scheduled on warm workers or stage by stage in a loop."""
    cells = at.pick(50, 2)
    planned = plan(at, "trivial", methods="sanity-background", seeds=range(cells), limit=1)
    started = start_ray(at)

    def scheduled() -> Any:
        forget(planned, *planned.nodes.values())
        taken, _ = seconds(lambda: schedule(planned, at))
        return taken, _hashes(planned)

    def looped() -> Any:
        forget(planned, *planned.nodes.values())
        taken, _ = seconds(lambda: _loop(planned))
        return taken, _hashes(planned)

    return [
        Row(
            name="trivial-cells",
            what=f"{cells} trivial cells on warm workers, {len(planned.nodes)} stages",
            against="the same stage functions in a plain loop",
            unit="s",
            sides={"harness": scheduled, "plain loop": looped},
            ratio=share_of_other,
            aim=Aim("<=", 1.1),
            agree=agree,
            facts=lambda: {"Ray's start, once for a run": f"{started:.1f} s"},
            repeats=3,
            opponents=("ray",),
        )
    ]


def agree(made: Any) -> str:
    """Return what is equal: every file of every artefact."""
    ours, theirs = made.values()
    assert ours == theirs
    return f"hashes of {sum(map(len, ours.values()))} files in {len(ours)} artefacts"


def _loop(planned: Plan) -> None:
    """Run stage after stage in this process; nobody looks, nothing is leased, caught or recorded."""
    store = store_of(planned)
    torch.set_num_threads(1)
    for node in planned.nodes.values():
        task = Task(node, planned.locations_of(node), "cpu", 0, store.work(node.key))
        task.out.mkdir(parents=True)
        stages.function(node.stage)(task)
        about = {"config": node.config.model_dump(mode="json"), "environment": provenance.environment()}
        store.publish(node.stage, node.key, task.out, about)
        shutil.rmtree(task.work)


def _hashes(planned: Plan) -> dict[str, dict[str, str]]:
    store = store_of(planned)
    found = {key: store.need(node.stage, key).manifest["files"] for key, node in planned.nodes.items()}
    return {key: {name: value for name, value in files.items() if name != "log.txt"} for key, files in found.items()}
