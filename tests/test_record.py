"""One record of each status, through every reader."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, get_args

import pytest

from harness.report.dataframe import load_results
from harness.report.html import write_page
from harness.report.tables import comparison, unfinished
from harness.report.trackers import export
from harness.results.record import Record, Status, problem_of
from harness.results.store import Store
from tests.conftest import run_here
from tests.test_report import record as scored

STATUSES = get_args(Status)


def of(status: str) -> Any:
    key = f"{STATUSES.index(status):020x}"
    made = scored("cam", 0.3, STATUSES.index(status)) | {"key": key, "status": status, "title": f"cam {status}"}
    provenance = {
        "command": "harness run",
        "python": "3.11",
        "platform": "p",
        "cpu": "c",
        "source": None,
        "packages": {},
    }
    made |= {
        "provenance": provenance,
        "stages": [],
        "data": {"train": "a", "val": "b"},
        "ended": "2026-11-27T00:00:00Z",
    }
    if status == "done":
        return made | {"artefacts": {"fit": key, "splits": {}}}
    for name in ("metrics", "artefacts", "parameters"):
        del made[name]
    return made | {"reason": f"because {status}", "failed_stage": "fit", "tail": "", "origins": {}}


@pytest.fixture
def store(tmp_path: Path) -> Store:
    made = Store(tmp_path / "results", create=True)
    for status in STATUSES:
        made.write_record(of(status))
    return made


def test_every_status_has_a_form_and_no_other_has() -> None:
    assert set(STATUSES) == {"done", "failed", "oom", "timeout", "skipped"}
    for status in STATUSES:
        assert problem_of(of(status)) == ""
    assert "status" in problem_of(of("failed") | {"status": "burnt"})
    assert "metrics" in problem_of({k: v for k, v in of("done").items() if k != "metrics"})
    assert problem_of(["no record"]) != ""


def test_every_status_is_read_reported_exported_and_shown(store: Store, tmp_path: Path) -> None:
    records: list[Record] = list(store.records())
    assert {record["status"] for record in records} == set(STATUSES)
    results = load_results(store.root)
    assert len(comparison(results)[0].rows) == 1
    left = unfinished(results)
    assert left
    assert {row[1] for row in left.rows} == set(STATUSES) - {"done"}
    write_page(tmp_path / "page.html", "all", comparison(results), results, ())
    page = (tmp_path / "page.html").read_text("utf-8")
    assert all(f"because {status}" in page for status in STATUSES if status != "done")
    assert len(export(records, "csv", tmp_path / "csv").read_text("utf-8").splitlines()) == 1 + len(STATUSES)
    answer = json.loads(run_here(tmp_path, "status", "--results", str(store.root), "--json").stdout)
    assert {failure["status"] for failure in answer["failures"]} == {"failed", "oom", "timeout"}
    listed = json.loads(run_here(tmp_path, "list", "runs", "--results", str(store.root), "--json").stdout)
    assert {row["status"] for row in listed} == set(STATUSES)
    for record in records:
        shown = run_here(tmp_path, "show", record["key"], "--results", str(store.root))
        assert shown.returncode == 0, shown.stderr
        assert record["status"] in shown.stdout


def test_every_status_is_merged(store: Store, tmp_path: Path) -> None:
    done = [record for record in store.records() if record["status"] == "done"]
    (store.root / "records" / f"{done[0]['key']}.json").unlink()  # its artefacts are not there
    merged = run_here(tmp_path, "merge", str(store.root), "--results", str(tmp_path / "all"))
    assert merged.returncode == 0, merged.stderr
    assert {record["status"] for record in Store(tmp_path / "all").records()} == set(STATUSES) - {"done"}


def test_the_commands_know_no_status_of_their_own() -> None:
    root = Path(__file__).parent.parent / "harness"
    answer = [path for path in root.rglob("*.py") if '("done", "skipped")' in path.read_text("utf-8")]
    assert [path.name for path in answer] == ["record.py"]
