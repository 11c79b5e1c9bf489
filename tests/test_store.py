from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from harness.errors import UserError
from harness.files import write_atomic
from harness.results.lease import STALE_SECONDS, Leases
from harness.results.store import Store, UnusableArtefactError


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "results", create=True)


def publish(store: Store, text: str = "hello") -> None:
    draft = store.work("k") / "out"
    draft.mkdir(parents=True)
    (draft / "a.txt").write_text(text)
    store.publish("fit", "k", draft, {"config": {}})


def record(**changes: object) -> dict[str, object]:
    about = {"spec": {}, "ended": "", "metrics": {}, "artefacts": {}, "classes": []}
    return {"key": "abc123", "status": "done", "title": "t", **about, **changes}


def test_an_artefact_is_there_as_a_whole_with_its_hashes(store: Store) -> None:
    assert store.artefact("fit", "k") is None
    publish(store)
    artefact = store.need("fit", "k")
    assert artefact.file("a.txt").read_text() == "hello"
    assert artefact.manifest["bytes"] == 5
    assert not (store.work("k") / "out").exists()


def test_the_first_writer_of_an_artefact_wins(store: Store) -> None:
    publish(store, "first")
    publish(store, "second")
    assert store.need("fit", "k").file("a.txt").read_text() == "first"


def test_a_flipped_byte_is_found_before_use_and_can_be_thrown_away(store: Store) -> None:
    publish(store)
    (store.need("fit", "k").path / "a.txt").write_text("hellO")
    with pytest.raises(UnusableArtefactError, match=r"fit k: a\.txt does not match its hash"):
        store.need("fit", "k").file("a.txt")
    store.discard("fit", "k")
    store.discard("fit", "k")
    assert store.artefact("fit", "k") is None


def test_a_half_written_artefact_is_not_one(store: Store) -> None:
    folder = store.root / "artefacts" / "fit" / "k"
    folder.mkdir(parents=True)
    (folder / "a.txt").write_text("x")
    assert store.artefact("fit", "k") is None
    publish(store, "whole")
    assert store.need("fit", "k").file("a.txt").read_text() == "whole"


def test_a_done_record_is_never_replaced_by_a_failure(store: Store) -> None:
    store.write_record(record(status="failed"))
    store.write_record(record(status="done", score=1))
    store.write_record(record(status="failed"))
    found = store.record("abc123")
    assert found is not None
    assert found["score"] == 1


def test_runs_are_found_by_the_first_digits(store: Store) -> None:
    store.write_record(record())
    store.write_record(record(key="abd456"))
    assert store.find("abc")["key"] == "abc123"
    with pytest.raises(UserError, match="2 runs begin with 'ab': give more digits"):
        store.find("ab")
    with pytest.raises(UserError, match="no run in .* begins with 'abx'"):
        store.find("abx")


def test_a_record_of_another_schema_or_a_damaged_one_is_refused(store: Store) -> None:
    (store.root / "records" / "x.json").write_text(json.dumps({"schema": 99}))
    with pytest.raises(UserError, match="has schema 99, this version reads 1"):
        list(store.records())
    (store.root / "records" / "x.json").write_text("{")
    with pytest.raises(UserError, match="is not a record"):
        store.find("x")
    assert not list(store.records())


def test_a_store_of_a_newer_version_is_refused(store: Store) -> None:
    (store.root / "store.json").write_text('{"schema": 2}')
    with pytest.raises(UserError, match="use the version that wrote it"):
        Store(store.root)


def test_a_folder_without_results_or_without_permission_says_so(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no results in"):
        Store(tmp_path)
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot write results to .*: Not a directory"):
        Store(tmp_path / "file" / "results", create=True)


def test_writing_is_all_or_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.json"
    write_atomic(path, "old")

    def full(handle: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        write_atomic(path, "new")
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


HOLD = """
import sys, time
from pathlib import Path
from harness.results.lease import Leases
assert Leases(Path(sys.argv[1])).acquire("k")
print("held", flush=True)
time.sleep(60)
"""


def test_a_living_holder_keeps_its_lease_and_a_killed_one_loses_it_at_once(tmp_path: Path) -> None:
    command = [sys.executable, "-c", HOLD, str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        mine = Leases(tmp_path)
        assert not mine.acquire("k")
        assert mine.living() == ["k"]
        holder.kill()
        holder.wait()
        assert mine.living() == []
        assert mine.acquire("k")
    mine.release("k")
    assert Leases(tmp_path).acquire("k")


def test_sweeping_removes_dead_holders_only(tmp_path: Path) -> None:
    mine = Leases(tmp_path)
    mine.acquire("mine")
    dead = json.loads((tmp_path / "mine.json").read_text()) | {"started": "long ago"}
    (tmp_path / "dead.json").write_text(json.dumps(dead))
    (tmp_path / "damaged.json").write_text("{")
    mine.sweep()
    assert [path.name for path in tmp_path.glob("*.json")] == ["mine.json"]


def test_a_holder_on_another_machine_lives_as_long_as_it_touches_its_lease(tmp_path: Path) -> None:
    path = tmp_path / "k.json"
    path.write_text(json.dumps({"machine": "elsewhere", "pid": 1, "started": "1"}))
    mine = Leases(tmp_path)
    assert not mine.acquire("k")
    old = time.time() - STALE_SECONDS - 5
    os.utime(path, (old, old))
    assert mine.acquire("k")
    os.utime(path, (old, old))
    mine.heartbeat()
    assert path.stat().st_mtime > old + STALE_SECONDS


@pytest.mark.parametrize("text", ["{", "{}", "[1]", "null"])
def test_a_damaged_lease_holds_nobody_off(tmp_path: Path, text: str) -> None:
    (tmp_path / "k.json").write_text(text)
    assert Leases(tmp_path).acquire("k")
