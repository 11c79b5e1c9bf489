from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import pytest

from harness.check import parametrize_with_checks, suite, suites
from harness.check.suite import checks
from harness.errors import UserError
from harness.registry import CODE_KINDS, Registry
from harness.source_hash import plugin_version, source_hash
from tests.check.plugins import BROKEN, GOOD
from tests.conftest import Run

DRAWN_LIKE_TOY = "toy-hard"  # the same code, five times the images
BUILT_IN = [e.name for kind in CODE_KINDS for e in Registry().entries(kind) if e.name != DRAWN_LIKE_TOY]
LATE = (
    "advcam",
    "afa",
    "bes",
    "caa",
    "cian",
    "conta",
    "cpn",
    "dupl",
    "edam",
    "icd",
    "irn",
    "mcis",
    "mctformer",
    "occse",
    "onestage",
    "ppc",
    "psa",
    "recam",
    "sccam",
    "seam",
    "sipe",
    "toco",
    "toco-cam",
    "weaktr",
)  # minutes


def write(folder: Path, text: str) -> str:
    path = folder / "plugin.py"
    path.write_text(text)
    (folder / "beside.py").write_text("x = 1\n")
    return str(path)


@parametrize_with_checks(*(name for name in BUILT_IN if name not in LATE))
def test_every_built_in_plugin_keeps_the_contract(check) -> None:  # type: ignore[no-untyped-def]
    check()


@pytest.mark.slow
@parametrize_with_checks(*LATE)
def test_the_others_keep_it_too(check) -> None:  # type: ignore[no-untyped-def]
    check()


@pytest.mark.parametrize("kind", GOOD)
def test_a_good_plugin_passes_everything(tmp_path: Path, kind: str) -> None:
    (suite,) = suites(write(tmp_path, GOOD[kind]))
    states = {result.check: (result.state, result.finding) for result in suite.results()}
    assert states.keys() == {one.name for one in checks(kind)}
    assert {state for state, _ in states.values()} <= {"passed", "skipped"}, states


@pytest.mark.parametrize(
    ("kind", "name", "good", "bad", "finding"), BROKEN, ids=[f"{row[1]}-{n}" for n, row in enumerate(BROKEN)]
)
def test_a_broken_plugin_is_caught_by_the_check_that_should(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, name: str, good: str, bad: str, finding: str
) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    here, environment = os.getcwd(), dict(os.environ)
    assert good in GOOD[kind]
    (suite,) = suites(write(tmp_path, GOOD[kind].replace(good, bad)))
    result = suite.result(name)
    assert (result.state, finding in result.finding) == ("failed", True), result
    assert result.reason
    assert result.remedy
    assert (os.getcwd(), dict(os.environ)) == (here, environment)


def test_every_check_has_a_broken_plugin() -> None:
    caught = {(kind, name) for kind, name, *_ in BROKEN}
    for kind in CODE_KINDS:
        for one in checks(kind):
            assert any((other, one.name) in caught for other in one.kinds), f"no broken plugin for {one.name}"


def test_a_declared_failure_is_expected_until_it_passes(tmp_path: Path) -> None:
    declared = '    name = "good"\n    expected_failures = {"cited": "nobody wrote of it"}\n'
    text = GOOD["method"].replace('    name = "good"\n', declared)
    (suite,) = suites(write(tmp_path, text.replace('"good2026"', '""')))
    assert suite.result("cited").state == "expected"
    assert suite.result("cited").finding == "nobody wrote of it"
    (tmp_path / "again").mkdir()
    (suite,) = suites(write(tmp_path / "again", text))
    assert suite.result("cited").state == "failed"
    assert "take it out" in suite.result("cited").finding


@pytest.mark.parametrize("later", ["step.epoch", "step.phase"])
def test_a_part_that_only_an_earlier_phase_trains_has_a_gradient_there(tmp_path: Path, later: str) -> None:
    step = '        return {"bce": nn.functional.binary_cross_entropy_with_logits(logits, batch.labels[:, 1:])}\n'
    phases = (
        "    def phases(self, model):\n        from harness import Phase\n        return [\n"
        "            Phase(1, [{'params': (p for p in model.head.parameters()), 'lr': 0.1}]),\n"
        "            Phase(2, [{'params': model.backbone.parameters(), 'lr': 0.1}]),\n        ]\n\n    def score"
    )
    by_phase = (
        f"        if {later}:\n            logits = model.backbone(batch.images).mean((2, 3))[:, : logits.shape[1]]\n"
    )
    text = GOOD["method"].replace(step, by_phase + step).replace("    def score", phases)
    (suite,) = suites(write(tmp_path, text))
    assert (suite.result("gradients_arrive").state, suite.result("gradients_arrive").finding) == ("passed", "")


@pytest.mark.parametrize("base", ["CAM", "Method"])
def test_what_a_plugin_takes_from_a_built_in_is_covered_by_its_version(tmp_path: Path, base: str) -> None:
    """A class that it builds on, and a module that it only imports."""
    text = GOOD["method"].replace("class Good(Method)", f"class Good({base})")
    text = text.replace("import torch\n", "import torch\nfrom wsss_methods.cam import CAM\n", 1)
    (suite,) = suites(write(tmp_path, text))
    assert suite.result("versioned").state == "passed"
    cam = source_hash(Path(str(sys.modules["wsss_methods.cam"].__file__)))
    assert plugin_version(suite.cases[0].plugin) not in (cam, source_hash(tmp_path / "plugin.py"))


def test_what_needs_a_failed_check_is_blocked_by_it(tmp_path: Path) -> None:
    (suite,) = suites(write(tmp_path, GOOD["method"].replace("return model\n", "return None\n")))
    assert suite.result("trains").state == "blocked"
    assert suite.result("trains").finding == "needs `builds`"


@pytest.mark.parametrize(
    ("target", "message"), [("vitpmc", "did you mean 'vitpcm'"), ("plugin.py", "defines no plugin")]
)
def test_nothing_to_check_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, target: str, message: str
) -> None:
    write(tmp_path, "x = 1\n")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=message):
        suites(target)


def test_a_folder_that_is_no_package_does_not_hide_a_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "pamr").mkdir()
    monkeypatch.chdir(tmp_path)
    (suite,) = suites("pamr")
    assert suite.entry.origin == "built-in"


def test_checks_come_in_one_order_whatever_was_imported_first(monkeypatch: pytest.MonkeyPatch) -> None:
    before = checks("method")
    by_name = sorted(suite._CHECKS, key=lambda one: one.function.__module__)
    monkeypatch.setattr(suite, "_CHECKS", by_name)
    assert checks("method") == before != [one for one in by_name if "method" in one.kinds]


def test_the_command_names_each_check_and_says_what_fixes_it(here: Run, tmp_path: Path) -> None:
    write(tmp_path, GOOD["refiner"].replace("return sharp / sharp.sum(0)", "return sharp"))
    found = here("check", "plugin.py")
    assert found.returncode == 1
    assert "stays_probable" in found.stdout
    assert "remedy: Normalise what you return" in found.stdout
    assert "next:" not in found.stderr
    answer = json.loads(here("check", "plugin.py", "--json").stdout)
    assert {row["check"]: row["state"] for row in answer}["stays_probable"] == "failed"
    write(tmp_path, GOOD["refiner"])
    found = here("check", "plugin.py")
    assert found.returncode == 1  # a file that was imported stays as it was in this process


def test_what_a_plugin_prints_is_no_part_of_what_the_command_prints(here: Run, tmp_path: Path) -> None:
    (tmp_path / "a folder").mkdir()
    loud = GOOD["refiner"].replace("        sharp =", '        print("noise")\n        sharp =')
    write(tmp_path / "a folder", loud.replace("\n\nimport", '\n\nprint("noise")\nimport', 1))
    answer = here("check", "a folder/plugin.py", "--json")
    assert {row["state"] for row in json.loads(answer.stdout)} <= {"passed", "skipped"}
    assert "noise" in answer.stderr
    assert "--plugins 'a folder/plugin.py' " in answer.stderr


def test_what_waits_for_a_failed_check_is_counted_not_listed(here: Run, tmp_path: Path) -> None:
    write(tmp_path, "def (")
    found = here("check", "plugin.py")
    assert found.returncode == 1
    assert "SyntaxError" in found.stdout
    assert f"{len(checks('method')) - 1} more" in found.stdout
    assert "needs `imports`" not in found.stdout


def test_the_suite_is_a_parametrised_test(pytester_folder: Path) -> None:
    (pytester_folder / "test_mine.py").write_text(
        "from harness.check import parametrize_with_checks\n\n\n"
        "@parametrize_with_checks('plugin.py')\ndef test_contract(check):\n    check()\n"
    )
    import subprocess
    import sys

    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "test_mine.py"]
    found = subprocess.run(command, cwd=pytester_folder, capture_output=True, text=True, check=False, timeout=300)
    assert found.returncode == 1
    assert "FAILED test_mine.py::test_contract[good-refiner_leaves_no_trace]" in found.stdout
    assert "1 failed" in found.stdout


@pytest.fixture
def pytester_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.delenv("PYTEST_ADDOPTS", raising=False)
    write(tmp_path, GOOD["refiner"].replace("        sharp =", "        np.random.seed(0)\n        sharp ="))
    return tmp_path
