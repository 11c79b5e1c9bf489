"""Folders that cannot be written, records that cannot be read, files for others: one line, and the rest goes on."""

from __future__ import annotations

import json
import logging
import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from harness.doctor import _ray
from harness.errors import UserError
from harness.results.store import DamagedRecordError, Store
from harness.run.cluster import SOCKET_PATH, sockets_problem
from tests.stores import add_cell

HARNESS = str(Path(sys.executable).parent / "harness")


def harness(*words: str, cwd: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [HARNESS, *words],
        cwd=cwd,
        capture_output=True,
        text=True,
        check=False,
        timeout=100,
        env=os.environ | environment,
    )


@pytest.fixture
def store(tmp_path: Path) -> Store:
    made = Store(tmp_path / "results", create=True)
    add_cell(made, 1)
    return made


@pytest.mark.parametrize("text", ["", "{", '{"schema": 1}', "[]", '{"schema": 1, "key": "a", "status": "done"}', None])
def test_a_damaged_record_is_named_and_the_others_are_read(
    store: Store, text: str | None, caplog: pytest.LogCaptureFixture
) -> None:
    path = store.root / "records" / f"{'0' * 20}.json"
    path.mkdir() if text is None else path.write_text(text)
    with caplog.at_level(logging.WARNING):
        assert len(list(store.records())) == 1
    (line,) = [record.getMessage() for record in caplog.records]
    assert line.startswith(f"left out: {path} is ")
    assert "remove it" in line
    with pytest.raises(DamagedRecordError, match="remove it"):
        store.find("0000")


@pytest.mark.parametrize("text", ["", "{", "[]", "{}"])
def test_a_damaged_marker_says_what_belongs_into_it(store: Store, text: str) -> None:
    (store.root / "store.json").write_text(text)
    with pytest.raises(UserError, match=r'store\.json is damaged: write \{"schema": 1\} into it'):
        Store(store.root)


def test_commands_skip_what_is_damaged_and_say_so_on_standard_error(store: Store, tmp_path: Path) -> None:
    (store.root / "records" / f"{'0' * 20}.json").write_text('{"schema": 1}')
    found = harness("list", "runs", "--json", cwd=tmp_path)
    assert found.returncode == 0
    assert len(json.loads(found.stdout)) == 1
    assert found.stderr.count("is damaged, it has no key: remove it") == 1


def test_a_place_that_cannot_be_written_is_one_line(store: Store, tmp_path: Path) -> None:
    blocked = tmp_path / "file"
    blocked.touch()  # a file where a folder should be: also root, who may write everywhere, cannot
    found = harness("list", "experiments", cwd=tmp_path)
    assert found.returncode == 0
    toy = harness(
        "run", "--methods", "sanity-labels", "--limit", "2", cwd=tmp_path, WSSS_HARNESS_CACHE=str(blocked / "in")
    )
    assert toy.returncode == 3, toy.stderr
    assert "WSSS_HARNESS_CACHE=DIR names another folder" in toy.stderr.splitlines()[-1]
    report = harness("new", "method", "mine", cwd=tmp_path)
    assert report.returncode == 0
    for result in (toy, report):
        assert "Traceback" not in result.stderr


def test_what_is_published_follows_the_umask(tmp_path: Path) -> None:
    code = (
        "import os; os.umask(0o027)\n"
        "from pathlib import Path; from harness.results.store import Store\n"
        "store = Store(Path('r'), create=True); draft = store.work('k'); draft.mkdir()\n"
        "path = draft / 'model.safetensors'; path.touch(0o600); store.publish('fit', 'k', draft, {})\n"
    )
    subprocess.run([sys.executable, "-c", code], cwd=tmp_path, check=True, timeout=60)
    for path in (tmp_path / "r" / "artefacts" / "fit" / "k").iterdir():
        assert stat.S_IMODE(path.stat().st_mode) == 0o640


def test_a_long_temporary_folder_is_refused_before_ray_starts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_TMPDIR", "short")
    assert sockets_problem() == ""
    monkeypatch.setenv("RAY_TMPDIR", str(tmp_path / ("x" * SOCKET_PATH)))
    assert "too long for Ray's sockets" in sockets_problem()
    found = harness("run", "--methods", "sanity-labels", "--limit", "2", cwd=tmp_path)
    assert found.returncode == 3
    assert "too long for Ray's sockets" in found.stderr.splitlines()[-1]
    (ray,) = _ray()
    assert (ray.state, ray.remedy) == ("bad", "set RAY_TMPDIR=/tmp")
