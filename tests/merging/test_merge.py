"""Merging real small stores: those of two machines, with kills, full disks and others at work."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from harness.errors import UserError
from harness.results.gc import find_waste
from harness.results.merge import carry_out, plan_merge
from harness.results.store import Store
from harness.run.record import split_confusions
from harness.strict import digest
from tests.conftest import Run
from tests.merging.conftest import merge, pack_tar, pack_zip, quiet, snapshot
from tests.stores import add_cell, add_failure, held, keys, publish, tree

ROOT = Path(__file__).parent.parent.parent


# what belongs together


PACKS: dict[str, Callable[[Path, Path], None]] = {
    "folder": lambda store, path: None,
    "all.tar": lambda store, path: pack_tar(path, [(store, "results")]),
    "all.tar.gz": lambda store, path: pack_tar(path, [(store, ".")]),
    "all.tgz": lambda store, path: pack_tar(path, [(store, "home/me/results")]),
    "ALL.ZIP": lambda store, path: pack_zip(path, store, ""),
    "all.zip": lambda store, path: pack_zip(path, store, "results/"),
}


@pytest.mark.parametrize("pack", PACKS)
def test_a_folder_and_every_archive_of_it_arrive_byte_for_byte(other: Store, tmp_path: Path, pack: str) -> None:
    for number in (1, 2):
        add_cell(other, number)
    add_failure(other, 3)
    PACKS[pack](other.root, tmp_path / pack)
    source = other.root if pack == "folder" else tmp_path / pack
    found = merge(tmp_path / "results", source)
    assert (len(found.new), len(found.artefacts), found.left_out) == (3, 5, {})
    assert tree(tmp_path / "results") == tree(other.root)
    store = Store(tmp_path / "results")
    assert not list((store.root / "work").iterdir())
    for record in store.records():
        if record["status"] == "done":
            assert split_confusions(store, record["artefacts"]["splits"]["val"]).images == 1


def test_two_machines_come_together_and_a_second_merge_changes_nothing(
    here_store: Store, other: Store, tmp_path: Path
) -> None:
    add_cell(here_store, 1)
    add_cell(other, 2)
    found = merge(here_store.root, other.root)
    assert len(found.artefacts) == 2, "the labels are those of both"
    assert {record["title"] for record in here_store.records()} == {"cell 1", "cell 2"}
    before = snapshot(here_store.root / "records") | snapshot(here_store.root / "artefacts")
    again = merge(here_store.root, other.root)
    assert (again.new, again.replaced, again.kept, again.artefacts) == ([], [], [], {})
    assert snapshot(here_store.root / "records") | snapshot(here_store.root / "artefacts") == before


def test_only_what_belongs_to_a_store_is_taken(other: Store, tmp_path: Path) -> None:
    add_cell(other, 1)
    expected = tree(other.root)
    strays = [
        "README.md", "report/report.md", "cache/files-toy.json", "leases/k.json", "work/k/log.txt",
        "records/.abc.json.x1y2z3a4", "records/mine.json", "records/0123.json", f"Records/{digest(1)}.json",
        "artefacts/notes.txt", f"artefacts/unheard/{digest(1)}/a", "artefacts/fit/mine/model.safetensors",
        f"artefacts/fit/{digest(1).upper()}/a", "reference/old/store.json",
    ]  # fmt: skip
    for name in strays:
        (other.root / name).parent.mkdir(parents=True, exist_ok=True)
        (other.root / name).write_text('{"schema": 1}')
    pack_zip(tmp_path / "all.zip", other.root, "results/")
    for number, source in enumerate((other.root, tmp_path / "all.zip")):
        merge(tmp_path / str(number), source)
        assert tree(tmp_path / str(number), ("",)) == expected | {
            "store.json": b'{"schema": 1}\n', "leases/.lock": b"", "leases/.usage": b"",
        }  # fmt: skip


def test_the_reference_records_have_the_form_that_is_asked_for(tmp_path: Path) -> None:
    folders = [marker.parent for marker in (ROOT / "results" / "reference").rglob("store.json")]
    found = merge(tmp_path / "results", *folders)
    assert len(found.new) == sum(len(list(Store(folder).records())) for folder in folders) > 0
    for folder in folders:
        for record in Store(folder).records():
            assert Store(tmp_path / "results").record(record["key"]) == record


# what contradicts


def test_every_conflict_is_named_and_nothing_is_written(here_store: Store, other: Store, here: Run) -> None:
    same = add_cell(here_store, 1)
    add_cell(other, 1)
    numbers = add_cell(here_store, 2, miou=0.5)
    add_cell(other, 2, miou=0.5000001)
    add_cell(here_store, 3)
    add_cell(other, 3, weights=b"WEIGHTS")
    add_cell(other, 4)
    before = snapshot(here_store.root)
    found = here("merge", "other")
    assert found.returncode == 2
    lines = found.stderr.splitlines()
    assert lines[0] == "error: 2 conflicts, nothing was written"
    assert f"record {numbers}: metrics differ in results and other" in lines
    assert f"artefact fit/{keys(3)['fit']}: files differ in results and other" in lines
    assert same not in found.stderr
    assert len(lines) == 4
    assert snapshot(here_store.root) == before
    answer = here("merge", "other", "--dry-run", "--json")
    assert answer.returncode == 2
    assert len(json.loads(answer.stdout)["conflicts"]) == 2


def test_two_sources_contradict_each_other_where_there_is_no_store_yet(
    here_store: Store, other: Store, tmp_path: Path
) -> None:
    add_cell(here_store, 1, miou=0.1)
    add_cell(other, 1, miou=0.2)
    found = merge(tmp_path / "new", here_store.root, other.root)
    assert found.conflicts == [
        f"record {digest(['cell', 1])}: metrics differ in {here_store.root} and {other.root}",
    ]
    assert not (tmp_path / "new").exists()


def test_what_a_stage_printed_and_how_long_it_took_is_no_conflict(here_store: Store, other: Store) -> None:
    for store, text in ((here_store, b"at 10:00"), (other, b"at 11:00")):
        publish(store, "fit", digest("fit"), {"model.safetensors": b"w", "log.txt": text}, seconds=len(text) / 3)
    add_cell(here_store, 1, ended="2026-01-01T00:00:00Z", provenance={"command": "here"})
    key = add_cell(other, 1, ended="2026-02-02T00:00:00Z", provenance={"command": "there"})
    found = merge(here_store.root, other.root)
    assert (found.conflicts, found.new, found.kept) == ([], [], [key])
    kept = here_store.record(key)
    assert kept is not None
    assert kept["provenance"] == {"command": "here"}
    assert here_store.need("fit", digest("fit")).file("log.txt").read_bytes() == b"at 10:00"


@pytest.mark.parametrize("status", ["failed", "oom", "timeout", "skipped"])
def test_a_record_of_any_status_is_merged(here_store: Store, other: Store, status: str) -> None:
    key = add_failure(other, 7, status=status)
    assert key in merge(here_store.root, other.root).new
    assert here_store.find(key)["status"] == status


def test_a_success_replaces_a_failure_and_never_the_reverse(here_store: Store, other: Store, tmp_path: Path) -> None:
    key = add_failure(here_store, 1)
    add_cell(other, 1)
    first, second = tmp_path / "first", tmp_path / "second"
    for into, sources in ((first, (here_store, other)), (second, (other, here_store))):
        merge(into, *(store.root for store in sources))
        record = Store(into).record(key)
        assert record is not None
        assert record["status"] == "done"
    found = merge(here_store.root, other.root)
    assert (found.new, found.replaced, found.kept) == ([], [key], [])


def test_of_two_failures_and_of_a_success_and_a_failure_the_first_stays(here_store: Store, other: Store) -> None:
    ours = {add_cell(here_store, 1): "done", add_failure(here_store, 2, "our reason"): "failed"}
    add_failure(other, 1)
    add_failure(other, 2, "their reason")
    before = tree(here_store.root)
    found = merge(here_store.root, other.root)
    assert (found.conflicts, found.new, found.replaced, found.kept) == ([], [], [], sorted(ours))
    assert tree(here_store.root) == before


# kills, and others at work


def test_kill_in_the_middle_then_the_same_command(other: Store, tmp_path: Path) -> None:
    for number in range(60):
        add_cell(other, number, weights=bytes(2000))
    pack_tar(tmp_path / "all.tar", [(other.root, "results")])
    command = [str(Path(sys.executable).parent / "harness"), "merge", "all.tar"]
    store = tmp_path / "results"
    with subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as killed:
        end = time.monotonic() + 60
        while not list(store.glob("artefacts/*/*")):
            assert time.monotonic() < end
            assert killed.poll() is None
        killed.send_signal(signal.SIGKILL)
    there = tree(store)
    assert 0 < len(there) < len(tree(other.root))
    for path in store.glob("artefacts/*/*"):
        artefact = Store(store).need(path.parent.name, path.name)
        for name in artefact.manifest["files"]:
            artefact.file(name)
    again = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert again.returncode == 0, again.stderr
    assert tree(store) == tree(other.root)
    assert not list((store / "work").iterdir())


def test_a_disk_that_is_full_stops_it_cleanly_and_the_same_command_goes_on(other: Store, tmp_path: Path) -> None:
    add_cell(other, 1)
    publish(other, "score", digest("large"), {"scores-0000.safetensors": bytes(2 << 20)})
    command = f"{Path(sys.executable).parent / 'harness'} merge other"
    full = subprocess.run(["bash", "-c", f"ulimit -f 1000; {command}"], cwd=tmp_path, capture_output=True, text=True)
    assert full.returncode == 2
    assert "error: cannot write to results: File too large; what is copied is kept" in full.stderr
    assert not list((tmp_path / "results" / "work").iterdir())
    assert merge(tmp_path / "results", other.root).left_out == {}
    assert tree(tmp_path / "results") == tree(other.root)


def test_what_does_not_fit_on_the_disk_is_refused_before_it_is_copied(other: Store, tmp_path: Path) -> None:
    add_cell(other, 1)
    file = other.root / "artefacts" / "fit" / keys(1)["fit"] / "model.safetensors"
    os.truncate(file, shutil.disk_usage(tmp_path).free + (10 << 30))
    with pytest.raises(UserError, match=r"bytes to copy, [0-9,]+ free for .*: make room"):
        merge(tmp_path / "results", other.root)


def test_one_merge_at_a_time(here_store: Store, other: Store) -> None:
    add_cell(other, 1)
    with held(here_store, "lease", "merge"), pytest.raises(UserError, match="another merge is at work"):
        merge(here_store.root, other.root)
    merge(here_store.root, other.root)
    assert find_waste(here_store) == []


def test_a_source_that_changes_meanwhile_gives_nothing_unchecked(other: Store, tmp_path: Path) -> None:
    key, late = add_cell(other, 1), add_failure(other, 2)
    found = plan_merge([other.root], tmp_path / "results", None, quiet)
    shutil.rmtree(other.root / "artefacts" / "fit" / keys(1)["fit"])
    publish(other, "fit", keys(1)["fit"], {"model.safetensors": b"other", "curves.json": b"[]"})
    add_cell(other, 2)
    carry_out(found, tmp_path / "results", quiet)
    assert sorted(found.left_out) == [("fit", keys(1)["fit"]), ("records", late)]
    store = Store(tmp_path / "results")
    assert store.artefact("fit", keys(2)["fit"]) is None
    assert [record["key"] for record in store.records()] == [key]
    assert store.record(late) is None


def test_half_an_artefact_that_somebody_left_makes_way(here_store: Store, other: Store) -> None:
    key = keys(1)["fit"]
    half = here_store.root / "artefacts" / "fit" / key
    half.mkdir(parents=True)
    (half / "model.safetensors").write_bytes(b"half")
    add_cell(other, 1)
    merge(here_store.root, other.root)
    assert here_store.need("fit", key).file("model.safetensors").read_bytes() == b"weightsweights"


# the command


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("results", "results is the results folder itself"), ("nowhere", "no results folder or archive nowhere"),
        ("notes.txt", "expected a results folder, or an archive of one: .tar, .tar.gz, .tgz, .zip"),
        ("empty", "no results in empty: there is no store.json"), ("two.tar", "holds more than one results folder: a/"),
    ],
)  # fmt: skip
def test_a_wrong_source_is_said(
    here_store: Store, other: Store, tmp_path: Path, here: Run, source: str, said: str
) -> None:
    (tmp_path / "notes.txt").write_text("x")
    (tmp_path / "empty").mkdir()
    pack_tar(tmp_path / "two.tar", [(here_store.root, "a"), (other.root, "b")])
    found = here("merge", source)
    assert found.returncode == 2
    assert said in found.stderr


def test_a_dry_run_says_what_would_come_and_writes_nothing(other: Store, tmp_path: Path, here: Run) -> None:
    key = add_cell(other, 1)
    found = here("merge", "other", "--dry-run", "--json")
    assert found.returncode == 0
    answer = json.loads(found.stdout)
    assert answer["records"] == {"new": [key], "replaced": [], "kept": []}
    assert answer["artefacts"] == sorted(f"{stage}/{key}" for stage, key in keys(1).items())
    assert "would be merged into results: 1 new records, 0 in place of a failure, 3 artefacts" in found.stderr
    assert not (tmp_path / "results").exists()
    done = here("merge", "other", "--json")
    assert json.loads(done.stdout) == answer | {"dry_run": False}
    size = sum(len(content) for name, content in tree(tmp_path / "results", ("artefacts",)).items())
    assert answer["bytes"] == size


def test_runs_of_two_machines_are_one_run_after_merging(here: Run, tmp_path: Path) -> None:
    """Nothing is left to run, and the tables say what one machine would have said."""
    first, second = "sanity-background", "sanity-random"
    for name, methods in (("a", first), ("b", second), ("one", f"{first},{second}")):
        found = here("run", "--methods", methods, "--limit", "4", "--results", name)
        assert found.returncode == 0, found.stderr
    pack_tar(tmp_path / "b.tar.gz", [(tmp_path / "b", "results")])
    merged = here("merge", "a", "b.tar.gz", "--results", "all")
    assert merged.returncode == 0, merged.stderr
    again = here("run", "--methods", f"{first},{second}", "--limit", "4", "--results", "all")
    assert "every stage reused, nothing to run" in again.stderr
    assert {path.parent.name + path.name for path in (tmp_path / "all").glob("artefacts/*/*")} == {
        path.parent.name + path.name for path in (tmp_path / "one").glob("artefacts/*/*")
    }
    tables = [here("report", "--results", name, "--images", "0", "--no-figures").stdout for name in ("all", "one")]
    assert tables[0] == tables[1]
    assert "sanity-random" in tables[0]
