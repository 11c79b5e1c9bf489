"""Removing what no record needs, and nothing else, whoever is at work."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from harness.errors import UserError
from harness.results.gc import DRAFT_SECONDS, STAGES, find_waste, in_use, remove_waste
from harness.results.lease import locked
from harness.results.store import Store
from harness.strict import digest
from tests.conftest import Run
from tests.stores import add_cell, add_failure, held, keys, publish, tree


def quiet(what: str, done: int, total: int) -> None:
    assert 0 <= done <= total


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """Two cells that are done, one that failed, one that was skipped."""
    store = Store(tmp_path / "results", create=True)
    for number in (1, 2):
        add_cell(store, number)
    add_failure(store, 3)
    add_failure(store, 4, "no such backbone", status="skipped", spec={"dataset": "x"})
    for name in ("toy", "x"):
        (store.root / "cache" / f"files-{name}.json").write_text("{}")
    for name in (".lock", ".usage"):
        (store.root / "leases" / name).touch()
    return store


def litter(store: Store) -> dict[str, str]:
    """Leave waste of every kind; return each path with what it counts as."""
    root = store.root
    publish(store, "fit", digest("alone"), {"model.safetensors": b"w" * 1000})
    half = root / "artefacts" / "score" / digest("half")
    half.mkdir(parents=True)
    (half / "scores-0000.safetensors").write_bytes(b"s")
    files = {
        f"work/{digest('gone')}/training/checkpoint.pt": "work", f"work/{digest('bad')}.corrupt/a": "work",
        "work/merge/draft": "work", "work/note": "work", f"leases/{digest('dead')}.json": "lease",
        "cache/files-voc12.json": "cache",
        "records/.abc.json.x1y2z3_4": "draft", ".store.json.abcdefgh": "draft", "leases/tmpabcdefgh": "draft",
    }  # fmt: skip
    old = time.time() - DRAFT_SECONDS - 60
    for name in files:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text("{")
        os.utime(root / name, (old, old))
    found = {"/".join(name.split("/")[:2]): kind for name, kind in files.items()}
    return found | {f"artefacts/fit/{digest('alone')}": "fit", f"artefacts/score/{digest('half')}": "score"}


def everything(store: Store) -> set[str]:
    return {str(path.relative_to(store.root)) for path in store.root.rglob("*")}


def listed(store: Store, *keep: str) -> dict[str, str]:
    return {str(found.path.relative_to(store.root)): found.kind for found in find_waste(store, keep or STAGES)}


def test_a_tidy_store_has_no_waste(store: Store) -> None:
    assert listed(store) == {}
    before = everything(store)
    assert remove_waste(store, STAGES, quiet) == []
    assert everything(store) == before


def test_waste_is_listed_then_removed_and_nothing_else(store: Store, here: Run) -> None:
    needed, records = everything(store), tree(store.root)
    waste = litter(store)
    (store.root / "records" / ".abc.json.just_now").touch()
    (store.root / "artefacts" / "fit" / "mine").mkdir()
    kept = {"records/.abc.json.just_now", "artefacts/fit/mine", "artefacts/score"}
    assert listed(store) == waste
    before = everything(store)
    shown = here("gc")
    assert shown.returncode == 0
    assert "no cell that is done needs it" in shown.stdout
    assert "still there: the same with --yes removes it" in shown.stderr
    assert everything(store) == before
    shown = json.loads(here("gc", "--json").stdout)
    assert (shown["removed"], shown["by_kind"]["fit"] > 1000) == (False, True)
    done = json.loads(here("gc", "--yes", "--json").stdout)
    assert done == shown | {"removed": True}
    assert everything(store) == needed | kept
    assert {name: content for name, content in tree(store.root).items() if "just_now" not in name} == records
    assert "nothing to remove" in here("gc", "--yes").stderr


def test_stages_that_are_not_kept_go_and_the_records_stay(store: Store, here: Run) -> None:
    dropped = {f"artefacts/labels/{digest('labels')}": "labels"}
    dropped |= {f"artefacts/fit/{keys(number)['fit']}": "fit" for number in (1, 2)}
    assert listed(store, "evaluate", "mask") == dropped
    found = here("gc", "--keep", "evaluate,mask", "--yes")
    assert "without curve, labels, segment, score, select, fit_refiner, fit, verify the records stay" in found.stderr
    assert len(list(store.records())) == 4
    assert store.artefact("fit", keys(1)["fit"]) is None
    assert store.artefact("evaluate", keys(1)["evaluate"])
    assert set(listed(store, "fit").values()) == {"evaluate"}


def test_a_stage_that_does_not_exist_is_said(store: Store, here: Run) -> None:
    found = here("gc", "--keep", "evaluat")
    assert (found.returncode, "unknown stage 'evaluat': did you mean 'evaluate'?" in found.stderr) == (2, True)


def test_a_record_that_cannot_be_read_may_need_anything(store: Store) -> None:
    litter(store)
    (store.root / "records" / "x.json").write_text("{")
    before = everything(store)
    with pytest.raises(UserError, match="is not a record"):
        remove_waste(store, STAGES, quiet)
    assert everything(store) == before


def test_a_store_of_records_alone_is_no_error(tmp_path: Path) -> None:
    store = Store(tmp_path, create=True)
    add_failure(store, 1)
    for name in ("artefacts", "work", "leases", "cache"):
        (tmp_path / name).rmdir()
    assert find_waste(store) == []
    assert remove_waste(store, STAGES, quiet) == []


def test_links_are_removed_and_never_followed(store: Store, tmp_path: Path) -> None:
    precious = tmp_path / "precious"
    precious.mkdir()
    (precious / "thesis.tex").write_text("x" * 10_000)
    (store.root / "work" / "link").symlink_to(precious)
    (store.root / "artefacts" / "fit" / digest("link")).symlink_to(precious)
    inside = store.root / "work" / digest("gone")
    inside.mkdir()
    (inside / "link").symlink_to(precious)
    sizes = [size for _, size in remove_waste(store, STAGES, quiet)]
    assert (len(sizes), sum(sizes) < 10_000) == (3, True)
    assert (precious / "thesis.tex").stat().st_size == 10_000
    assert not list((store.root / "work").iterdir())


# others at work


@pytest.mark.parametrize(
    ("how", "said"), [("lease", digest("alive")), ("run", "a run or a merge"), ("worker", digest("alive"))]
)
def test_nothing_is_removed_while_somebody_is_at_work(store: Store, how: str, said: str) -> None:
    """Each in a process of its own, that is then killed: a dead holder holds nobody off."""
    waste, key = litter(store), digest("alive")
    publish(store, "fit", key, {"model.safetensors": b"made, not recorded"})
    (store.root / "work" / key).mkdir()
    with held(store, how, key):
        before = everything(store)
        with pytest.raises(UserError, match=f"at work in .*: {said}; wait"):
            remove_waste(store, STAGES, quiet)
        assert everything(store) == before
        if how != "run":
            assert in_use(store) == [key]
            assert listed(store) == waste
    assert in_use(store) == []
    remove_waste(store, STAGES, quiet)
    assert listed(store) == {}


def test_a_lease_on_another_machine_is_respected_until_it_is_stale(store: Store) -> None:
    path = store.root / "leases" / f"{digest('far')}.json"
    path.write_text(json.dumps({"machine": "elsewhere", "pid": 1, "started": "1"}))
    with pytest.raises(UserError, match=f"at work in .*: {digest('far')}"):
        remove_waste(store, STAGES, quiet)
    os.utime(path, (0, 0))
    assert [found.kind for found, _ in remove_waste(store, STAGES, quiet)] == ["lease"]


PLUGIN = """
from pathlib import Path
import torch
from harness import Method, Params
from harness.results.lease import locked
from harness.results.store import Store

class Cleaner(Method):
    '''Tries to be alone in the store while it is being run.'''
    name = "cleaner"
    families = ()
    output = "probability"
    background = True
    supervision = ()
    Params = Params

    def build(self, backbone, num_classes):
        return torch.nn.Linear(1, num_classes)

    def fit(self, model, data, session):
        store = Store(Path({results!r}))
        try:
            with locked(store.usage, wait=False):
                raise RuntimeError("it was let in")
        except BlockingIOError:
            pass

    def score(self, model, images, labels):
        return torch.full((len(images), model.out_features, 2, 2), 0.2)
"""


@pytest.mark.slow
def test_a_run_keeps_it_out_from_beginning_to_end(here: Run, tmp_path: Path) -> None:
    (tmp_path / "cleaner.py").write_text(PLUGIN.format(results=str(tmp_path / "results")))
    found = here("run", "--methods", "cleaner", "--plugins", str(tmp_path / "cleaner.py"), "--limit", "4")
    assert found.returncode == 0, found.stderr
    assert listed(Store(tmp_path / "results")) == {}


def test_what_was_dropped_is_computed_again_only_if_it_is_asked_for(here: Run, tmp_path: Path) -> None:
    command = ["run", "--methods", "sanity-random", "--limit", "4"]
    assert here(*command).returncode == 0
    assert here("gc", "--keep", "evaluate,mask", "--yes").returncode == 0
    store = Store(tmp_path / "results")
    assert {path.parent.name for path in store.root.glob("artefacts/*/*")} == {"evaluate", "mask"}
    assert "nothing to run" in here(*command).stderr
    before = list(store.records())
    other = here(*command, "--set", "protocol.scales=[0.5]")
    assert other.returncode == 0, other.stderr
    assert [record for record in store.records() if record in before] == before
    assert len(list(store.records())) == 2


def test_kill_in_the_middle_leaves_whole_artefacts_and_the_rest_for_the_next_time(tmp_path: Path) -> None:
    store = Store(tmp_path / "results", create=True)
    add_cell(store, 1)
    needed = tree(store.root)
    for number in range(300):
        folder = store.root / "artefacts" / "fit" / digest(number)
        folder.mkdir()
        for name in ("manifest.json", *(f"{n}.png" for n in range(30))):
            (folder / name).write_text("{}")
    command = [str(Path(sys.executable).parent / "harness"), "gc", "--yes"]
    with subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as killed:
        end = time.monotonic() + 60
        while not list(store.root.glob("work/gc-*")):
            assert time.monotonic() < end
        killed.send_signal(signal.SIGKILL)
    assert list((store.root / "work").iterdir())
    for folder in store.root.glob("artefacts/fit/*"):
        assert folder.name == keys(1)["fit"] or len(list(folder.iterdir())) == 31
    again = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert again.returncode == 0, again.stderr
    assert tree(store.root) == needed
    assert not list((store.root / "work").iterdir())


def test_two_at_once_do_not_meet(store: Store) -> None:
    with locked(store.usage), pytest.raises(UserError, match="at work"):
        remove_waste(store, STAGES, quiet)
