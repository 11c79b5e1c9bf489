from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from harness.check import suites
from harness.errors import UserError
from harness.registry import CODE_KINDS
from harness.scaffold import scaffold
from tests.conftest import TINY, Run

RUN = {
    "method": ["--methods", "my-own,sanity-random"],
    "refiner": ["--methods", "sanity-random", "--refine", "my-own"],
    "dataset": ["--methods", "sanity-oracle", "--dataset", "my-own"],
}


@pytest.mark.parametrize("kind", CODE_KINDS)
def test_what_is_written_keeps_the_contract_and_the_style(tmp_path: Path, kind: str) -> None:
    paths = scaffold(kind, "my-own", tmp_path)
    assert [path.name for path in paths] == ["my_own.py", "test_my_own.py", "my_own.md"]
    (suite,) = suites(str(paths[0]))
    assert suite.entry.kind == kind
    results = list(suite.results())
    assert {result.state for result in results} <= {"passed", "skipped"}, results
    assert len(paths[0].read_text().splitlines()) < 70
    command = [sys.executable, "-m", "ruff", "check", "--isolated", "--line-length", "120", "--select", "E,F,I,UP"]
    assert subprocess.run([*command, *paths[:2]], check=False, timeout=60).returncode == 0
    command = [sys.executable, "-m", "ruff", "format", "--isolated", "--line-length", "120", "--check"]
    assert subprocess.run([*command, *paths[:2]], check=False, timeout=60).returncode == 0


@pytest.mark.parametrize(
    "kind", [pytest.param(kind, marks=[pytest.mark.slow] if kind != "method" else []) for kind in CODE_KINDS]
)
def test_what_is_written_runs_as_it_is(here: Run, tmp_path: Path, kind: str) -> None:
    written = here("new", kind, "my-own")
    assert written.returncode == 0, written.stderr
    assert "next: harness check my_own.py" in written.stdout
    ran = here("run", "--plugins", "my_own.py", *RUN[kind], *TINY, "--set", "protocol.eval_splits=val")
    assert ran.returncode == 0, ran.stderr
    assert "my-own" in here("report", "--no-figures").stdout


def test_its_test_runs_in_any_folder(tmp_path: Path) -> None:
    scaffold("refiner", "my-own", tmp_path)
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "test_my_own.py"]
    found = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False, timeout=120)
    assert found.returncode == 0, found.stdout


@pytest.mark.parametrize(
    ("kind", "name", "message"),
    [
        ("metod", "mine", "expected method, refiner, dataset"),
        ("method", "My own", "'My own' is no name"),
        ("method", "torch", "torch.py would hide the module torch"),
        ("method", "cam", "there is a method 'cam' already"),
        ("method", "there", "there.md is there already"),
    ],
)
def test_it_refuses_and_then_writes_nothing(tmp_path: Path, kind: str, name: str, message: str) -> None:
    (tmp_path / "there.md").write_text("mine")
    with pytest.raises(UserError, match=message):
        scaffold(kind, name, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["there.md"]


def test_a_package_is_not_overwritten(tmp_path: Path) -> None:
    scaffold("method", "my-own", tmp_path, package=True)
    with pytest.raises(UserError, match="my-own is there already"):
        scaffold("method", "my-own", tmp_path, package=True)


@pytest.mark.slow
@pytest.mark.parametrize("kind", CODE_KINDS)
def test_a_package_installs_and_is_found_by_its_entry_point(tmp_path: Path, kind: str) -> None:
    scaffold(kind, "my-own", tmp_path, package=True)
    site = tmp_path / "site"
    install = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-build-isolation"]
    subprocess.run([*install, "--target", str(site), str(tmp_path / "my-own")], check=True, timeout=120)
    environment = os.environ | {"PYTHONPATH": str(site)}

    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = [str(Path(sys.executable).parent / "harness"), *arguments]
        return subprocess.run(
            command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False, timeout=300
        )

    assert "package wsss-my-own" in run("list", f"{kind}s", "my-own").stdout
    checked = run("check", "my-own")
    assert checked.returncode == 0, checked.stdout
    ran = run("run", *RUN[kind], *TINY)
    assert ran.returncode == 0, ran.stderr
