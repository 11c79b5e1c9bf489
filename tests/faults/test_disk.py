"""A disk that is full: a limit on the size of files, which the kernel enforces in every write alike."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

SCRIPT = """
import resource, sys
from pathlib import Path
from harness.inputs import Inputs
from harness.run.plan import plan_cells
from harness.registry import Registry
from harness.spec import Grid, expand
from harness.results.store import Store
from harness.run.worker import run_node

def limit(size):
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))

store = Store(Path("results"), create=True)
registry = Registry()
grid = Grid(methods="cam", backbones="timm:test_vit", limit=4,
            set={"cam.image_size": 32, "cam.inference_size": 32, "cam.epochs": 1, "cam.batch_size": 4})
plan = plan_cells(expand([grid], registry), Inputs(registry, Path("results"), None))
stages = set()
for node in plan.nodes.values():
    limit(int(sys.argv[1]))
    full = run_node(node, plan.locations_of(node), "cpu", 1)
    limit(resource.RLIM_INFINITY)
    assert full.status == "failed" and "File too large" in full.reason, (node.stage, full)
    assert store.artefact(node.stage, node.key) is None, node.stage
    outcome = run_node(node, plan.locations_of(node), "cpu", 1)
    assert outcome.status == "done", (node.stage, outcome)
    stages.add(node.stage)
about = {"key": "a", "title": "a", "status": "done", "spec": {}, "ended": "", "artefacts": {}, "classes": []}
store.write_record({**about, "metrics": {}})
limit(16)
try:
    store.write_record({**about, "metrics": {"val": 1}})
    raise SystemExit("the record was written")
except OSError:
    limit(resource.RLIM_INFINITY)
assert store.record("a")["metrics"] == {}
assert [path.name for path in (store.root / "records").iterdir()] == ["a.json"]
print(sorted(stages))
"""


def test_a_full_disk_fails_a_stage_and_spoils_nothing(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, "40"], cwd=tmp_path, capture_output=True, text=True, timeout=200
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout.replace("'", '"')) == ["curve", "evaluate", "fit", "labels", "mask", "score"]
