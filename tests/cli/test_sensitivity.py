"""One training under several protocols, the table of that, and two of its cells compared."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from harness.cli.report import ALL_TRAININGS
from tests.conftest import TINY, Run

EXPERIMENT = """
summary: three protocols
report: sensitivity
run:
  - methods: cam
    each:
      - {}
      - {protocol.class_gating.held_out: gt}
      - {protocol.background: "swept_on:train"}
      - {protocol.metric: per_image}
"""

OWN = """
summary: two of them, with the settings that were run
report: sensitivity
run:
  - methods: cam
    backbones: "timm:test_vit"
    set: {"*.image_size": 64, "*.inference_size": 64, "*.epochs": 2, "*.batch_size": 4}
    each: [{}, {protocol.class_gating.held_out: gt}]
"""


def test_protocols_share_one_training_and_their_table_says_what_they_are_worth(here: Run, tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text(EXPERIMENT)
    found = here("run", "--experiment", "mine.yaml", "--json", *TINY)
    assert found.returncode == 0, found.stderr
    records = {_change(record): record for record in json.loads(found.stdout)}
    assert len({record["artefacts"]["fit"] for record in records.values()}) == 1
    base, given, swept, defined = (records[change] for change in ("", "gt", "swept_on:train", "per_image"))

    reported = here("report", "mine.yaml")
    assert ALL_TRAININGS in " ".join(reported.stderr.split())  # of the smaller settings above
    table = reported.stdout
    shift = 100 * (given["metrics"]["val"]["miou"] - base["metrics"]["val"]["miou"])
    (line,) = [line for line in table.splitlines() if line.startswith("class_gating.held_out=gt [")]
    assert f"({shift:+.1f})" in line
    assert "ground truth used: image labels of val, for class gating" in table
    assert "ground truth used: pixels of train, for the background threshold" in table
    assert (tmp_path / "results" / "report" / "sensitivity-toy.png").exists()

    assert [use["what"] for use in base["ground_truth"] if not use["allowed"]] == []
    assert base["metrics"]["val"]["iou"] == defined["metrics"]["val"]["iou"]
    assert swept["metrics"]["train"]["miou"] >= base["metrics"]["train"]["miou"]

    compared = json.loads(here("compare", base["key"][:8], given["key"][:8], "--json").stdout)
    assert compared["differs"]["spec.protocol.class_gating.held_out"] == ["predicted:0.5", "gt"]
    assert all("class_gating" in key or "gating" in key for key in compared["differs"])
    difference, low, high = compared["splits"]["val"]["difference"]
    assert 100 * difference == pytest.approx(shift)
    assert low <= difference <= high
    assert compared["splits"]["train"]["difference"] == [0, 0, 0]
    shown = here("compare", base["key"][:8], given["key"][:8]).stdout
    assert "one seed each (0, 0)" in shown

    (tmp_path / "own.yaml").write_text(OWN)
    own = here("report", "own.yaml")
    assert ALL_TRAININGS not in " ".join(own.stderr.split())
    assert "class_gating.held_out=gt [" in own.stdout
    assert "swept_on" not in own.stdout

    other = here("run", "--methods", "cam", "--json", *TINY, "--limit", "4")
    refused = here("compare", base["key"][:8], json.loads(other.stdout)[0]["key"][:8])
    assert refused.returncode == 2
    assert "not scored on the same images" in refused.stderr


def _change(record: dict[str, Any]) -> str:
    protocol = record["spec"]["protocol"]
    changes = {protocol["class_gating"]["held_out"], protocol["background"], protocol["metric"]}
    return "".join(changes - {"predicted:0.5", "method", "pooled"})
