"""The same command again, when every one of its cells is finished: `harness run` in a process of its own."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

from benchmarks.cells import plan, schedule, start_ray, store_of
from benchmarks.row import Aim, Row, Setting, seconds
from harness.results.store import Store

PROBE = """
import sys, time
started = time.perf_counter()
import harness.cli.cells, harness.run.plan, harness.run.progress, harness.run.schedule
import harness.spec, wsss_methods.sanity
from harness.cli import main
imported = time.perf_counter()
try:
    main()
except SystemExit as end:
    assert not end.code, end
print(imported - started, time.perf_counter() - imported)
"""


def rows(at: Setting) -> list[Row]:
    """Return the row: seeds of a floor on two splits."""
    cells = at.pick(1000, 3)
    grid: dict[str, Any] = {"methods": "sanity-background", "limit": 1}
    start_ray(at)
    one = plan(at, "warm", seeds=0, **grid)
    schedule(one, at)
    planned = plan(at, "warm", seeds=range(cells), **grid)
    store = store_of(planned)
    first = store.record(one.cells[0].key)
    assert first is not None
    for cell in planned.cells[1:]:
        spec = cell.cell.spec.model_dump(mode="json")
        store.write_record(first | {"key": cell.key, "spec": spec, "artefacts": cell.artefacts})
    command = [
        sys.executable, "-c", PROBE, "run", "--methods", "sanity-background", "--limit", "1", "--dataset", at.dataset,
        "--root", str(at.root), "--weights", "random", "--set", "protocol.label_source=masks",
        "--seeds", ",".join(map(str, range(cells))), "--results", str(store.root),
    ]  # fmt: skip
    imports = []

    def again() -> Any:
        found = subprocess.run(command, capture_output=True, text=True, check=True)
        imported, taken = map(float, found.stdout.split())
        imports.append(imported)
        return taken, found.stderr

    def agree(made: Any) -> str:
        said = made["harness"]
        assert "nothing to run" in said, said
        assert f"{cells} of {cells} cells done" in said, said
        assert sum(record["status"] == "done" for record in Store(store.root).records()) == cells
        return f"{cells} cells found done, nothing run"

    return [
        Row(
            name="warm-run",
            what=f"second run of {cells} finished cells, after imports",
            against="–",
            unit="s",
            sides={"harness": again},
            ratio=lambda values: values["harness"],
            aim=Aim("<=", 2),
            agree=agree,
            facts=lambda: {
                "imports": f"{min(imports):.1f} s",
                "stages of a cell": str(len(one.nodes)),
                "records": f"one of a real cell, {cells - 1} like it under their own keys",
                "floor: reading and parsing the records": f"{_reading(store):.2f} s",
            },
        )
    ]


def _reading(store: Store) -> float:
    return seconds(lambda: list(store.records()))[0]
