"""Small stores, made through the store itself."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from harness.metrics import Confusions
from harness.results.store import Store
from harness.run.plan import Plan
from harness.run.worker import Outcome, run_node
from harness.stages import Node
from harness.strict import digest

ABOUT = {
    "config": {}, "parents": {}, "seconds": 1.5, "memory_mb": {"host": 7}, "device": "cpu", "threads": 1,
    "environment": {},
}  # fmt: skip

MEASURED = ("seconds", "memory_mb", "device", "threads")


def run_stages(plan: Plan) -> tuple[Node, Outcome]:
    """Run a plan in this process, up to the first stage that is not done; return the last, and how it ended."""
    for node in plan.nodes.values():
        outcome = run_node(node, plan.locations_of(node), "cpu", 1)
        if outcome.status != "done":
            break
    return node, outcome


def publish(store: Store, stage: str, key: str, files: dict[str, bytes], **about: Any) -> Path:
    """Publish an artefact; return its folder."""
    draft = store.work(key) / "out"
    draft.mkdir(parents=True)
    for name, content in files.items():
        (draft / name).write_bytes(content)
    store.publish(stage, key, draft, ABOUT | about)
    (store.root / "work" / key).rmdir()
    return store.need(stage, key).path


def keys(number: int) -> dict[str, str]:
    """Return the keys of a cell's stages; the labels are those of every cell."""
    return {"labels": digest("labels"), "fit": digest(["fit", number]), "evaluate": digest(["evaluate", number])}


def add_cell(store: Store, number: int, miou: float = 0.5, weights: bytes = b"weights", **changes: Any) -> str:
    """Add a cell that is done, with its artefacts; return its key."""
    made = keys(number)
    publish(store, "labels", made["labels"], {"labels.json": b"[]"})
    publish(store, "fit", made["fit"], {"model.safetensors": weights * (1 + number), "curves.json": b"[]"})
    confusion = store.work("confusion.npy")
    Confusions.gather([np.diag([9, number, 0])[:2]], 2).save(confusion)
    publish(store, "evaluate", made["evaluate"], {"confusion.npy": confusion.read_bytes()})
    confusion.unlink()
    splits = {"val": {"labels": made["labels"], "evaluate": [made["evaluate"]]}}
    stages = [
        {
            "stage": stage,
            "key": key,
            "seconds": 1.5,
            "memory_mb": {"host": 7},
            "device": "cpu",
            "threads": 1,
            "bytes": 9,
        }
        for stage, key in made.items()
    ]
    done = {
        "status": "done", "classes": ["background", "cat"], "data": {"val": "0" * 20},
        "metrics": {"val": {"miou": miou, "iou": [miou, None]}}, "artefacts": {"fit": made["fit"], "splits": splits},
        "stages": stages,
    }  # fmt: skip
    return write_record(store, number, done | changes)


def add_failure(store: Store, number: int, reason: str = "no luck", **changes: Any) -> str:
    """Add a cell that failed; return its key."""
    failed = {"status": "failed", "reason": reason, "failed_stage": "fit", "tail": ""}
    return write_record(store, number, failed | changes)


def write_record(store: Store, number: int, changes: dict[str, Any]) -> str:
    """Write a record; return its key."""
    record = {
        "key": digest(["cell", number]), "title": f"cell {number}", "ended": "2026-01-01T00:00:00Z",
        "spec": {"dataset": "toy"}, "provenance": {"command": "harness run"},
    } | changes  # fmt: skip
    store.write_record(record)
    return record["key"]


def tree(folder: Path, parts: tuple[str, ...] = ("records", "artefacts")) -> dict[str, bytes]:
    """Return the content of every file in some parts of a folder."""
    paths = [path for part in parts for path in (folder / part).rglob("*") if path.is_file()]
    return {str(path.relative_to(folder)): path.read_bytes() for path in paths}


HOLD = """
import sys
from pathlib import Path
from harness.results.lease import Leases, locked
from harness.results.store import Store
store, how, key = Store(Path(sys.argv[1])), sys.argv[2], sys.argv[3]
leases = store.root / "leases"
if how == "lease":
    assert Leases(leases).acquire(key)
    print("held", flush=True)
    sys.stdin.read()
with store.in_use() if how == "run" else locked(leases / f"{key}.lock"):
    print("held", flush=True)
    sys.stdin.read()
"""


@contextmanager
def held(store: Store, how: str, key: str) -> Iterator[None]:
    """Have another process at work in a store, which is killed in the end.

    `how` it holds it: "lease", "run" (the lock of runs and merges) or "worker" (the lock of a stage).
    """
    command = [sys.executable, "-c", HOLD, str(store.root), how, key]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"held\n"
        try:
            yield
        finally:
            holder.kill()
            holder.wait()
