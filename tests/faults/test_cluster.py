"""Several Ray nodes on this machine: all are looked at first, and one may leave."""

from __future__ import annotations

import json
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from ray.cluster_utils import Cluster

import harness
from tests.faults.conftest import HARNESS, outcome, wait_until

COMMAND = [HARNESS, "run", "--methods", "sanity-random", "--limit", "4", "--seeds", "0,1,2"]


@pytest.fixture
def cluster() -> Iterator[Cluster]:
    made = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    yield made
    made.shutdown()


def run(folder: Path, cluster: Cluster, *more: str) -> subprocess.CompletedProcess[str]:
    command = [*COMMAND, "--ray-address", cluster.address, *more]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=280)


@pytest.mark.slow
def test_a_cluster_gives_what_one_machine_gives(tmp_path: Path, cluster: Cluster) -> None:
    cluster.add_node(num_cpus=1, num_gpus=2)
    joined = run(tmp_path, cluster, "--device", "cpu", "--json")
    assert joined.returncode == 0, joined.stderr
    assert [record["status"] for record in json.loads(joined.stdout)] == ["done"] * 3
    alone = tmp_path / "alone"
    alone.mkdir()
    subprocess.run(COMMAND, cwd=alone, check=True, capture_output=True, timeout=200)
    assert outcome(tmp_path / "results") == outcome(alone / "results")
    logical = run(tmp_path, cluster, "--seeds", "7", "--resources", "fit.gpus=0.5", "--resources", "score.gpus=0")
    assert logical.returncode == 1
    assert "Ray sees a GPU that torch" in logical.stderr  # these are only counted, not built in


def test_a_node_with_other_sources_is_named_before_anything_starts(tmp_path: Path, cluster: Cluster) -> None:
    other = tmp_path / "other"
    shutil.copytree(Path(harness.__file__).parent, other / "harness", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copytree(Path(harness.__file__).parent.parent / "configs", other / "harness" / "configs")
    with open(other / "harness" / "metrics.py", "a") as file:
        file.write("CHANGED = True\n")
    node = cluster.add_node(num_cpus=1, env_vars={"PYTHONPATH": str(other)})
    refused = run(tmp_path, cluster)
    assert refused.returncode == 3, refused.stderr
    assert node.node_id[:8] in refused.stderr
    assert "has other versions: sources of harness" in refused.stderr
    assert "install the same ones" in refused.stderr
    assert not list((tmp_path / "results" / "artefacts").glob("*/*"))


@pytest.mark.parametrize(
    ("address", "problem"),
    [
        ("127.0.0.1:1", "cannot join Ray at 127.0.0.1:1: Connection refused"),
        ("ray://head:10001", "--ray-address ray://head:10001: expected auto, or HOST:PORT"),
    ],
)
def test_an_address_where_nothing_answers(tmp_path: Path, address: str, problem: str) -> None:
    command = [*COMMAND, "--ray-address", address]
    refused = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert refused.returncode == 3
    assert problem in refused.stderr
    assert "Traceback" not in refused.stderr


@pytest.mark.slow
def test_a_node_that_leaves_takes_nothing_with_it(tmp_path: Path, cluster: Cluster) -> None:
    leaving = cluster.add_node(num_cpus=1)
    plugin = tmp_path / "slow.py"
    plugin.write_text(
        "import time\n"
        "from wsss_methods.sanity import Random\n"
        "class Slow(Random):\n"
        '    name = "slow"\n'
        "    def fit(self, model, data, session):\n"
        "        time.sleep(4)\n"
    )
    command = [
        HARNESS, "run", "--methods", "slow", "--plugins", "slow.py", "--limit", "4", "--seeds", "0,1,2,3",
        "--ray-address", cluster.address,
    ]  # fmt: skip
    with subprocess.Popen(
        command, cwd=tmp_path, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    ) as driver:
        wait_until(lambda: len(list((tmp_path / "results" / "work").glob("*/progress.json"))) > 2)
        plugin.unlink()  # what was shipped is what counts
        time.sleep(1)
        cluster.remove_node(leaving, allow_graceful=False)
        _, errors = driver.communicate(timeout=240)
    assert driver.returncode == 0, errors
    assert "the worker died" in errors
    records = [json.loads(path.read_text()) for path in tmp_path.glob("results/records/*.json")]
    assert [record["status"] for record in records] == ["done"] * 4
