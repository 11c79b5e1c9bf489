from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
from pathlib import Path

import pytest

from harness.results.store import Store
from tests.conftest import TINY, Run, run_here


@pytest.mark.parametrize("arguments", [["--help"], ["list", "methods"], ["--version"], ["run", "--help"]])
def test_light_commands_answer_within_a_second_without_torch(harness: Run, arguments: list[str]) -> None:
    def cpu_seconds() -> float:
        used = resource.getrusage(resource.RUSAGE_CHILDREN)
        return used.ru_utime + used.ru_stime

    harness(*arguments)
    spent = []
    for _ in range(3):  # other work on the machine only adds to it
        before = cpu_seconds()
        found = harness(*arguments, PYTHONPROFILEIMPORTTIME="1")
        spent.append(cpu_seconds() - before)
    assert min(spent) < 1
    assert found.returncode == 0
    imported = {line.rpartition("|")[2].strip().partition(".")[0] for line in found.stderr.splitlines()}
    assert not imported & {"torch", "timm", "ray", "mmseg", "pydensecrf", "matplotlib", "pandas"}


def test_list_and_describe_tell_as_table_and_as_json(tmp_path: Path) -> None:
    assert "vitpcm" in run_here(tmp_path, "list", "methods").stdout
    listed = json.loads(run_here(tmp_path, "list", "methods", "sanity-*", "--json").stdout)
    assert [row["name"] for row in listed] == ["sanity-background", "sanity-labels", "sanity-oracle", "sanity-random"]
    for kind, name in (
        ("method", "vitpcm"),
        ("backbone", "vit_s16"),
        ("protocol", "strict"),
        ("dataset", "toy"),
        ("crf", "vitpcm"),
        ("experiment", "demo"),
        ("published", "vit-pcm"),
    ):
        found = run_here(tmp_path, "describe", kind, name, "--json")
        assert found.returncode == 0, found.stderr
        assert json.loads(found.stdout)["name"] == name
        assert run_here(tmp_path, "describe", kind, name).returncode == 0


def test_a_broken_plugin_is_listed_and_the_rest_runs(harness: Run, tmp_path: Path) -> None:
    (tmp_path / "bad.py").write_text("import no_such_package\n")
    found = harness("list", "methods", "--plugins", "bad.py")
    assert found.returncode == 0
    assert "No module named 'no_such_package'" in found.stdout
    assert "vitpcm" in found.stdout


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        (["run", "--methods", "vitpmc"], 2, "unknown method 'vitpmc': did you mean 'vitpcm'?"),
        (["run", "--methods", "cam", "--backbones", "vit_s61"], 2, "did you mean 'vit_s16'?"),
        (["run", "--methods", "cam", "--dataset", "voc"], 2, "unknown dataset 'voc'"),
        (["run", "--methods", "cam", "--dataset", "voc12"], 2, "dataset voc12 needs its folder: --root DIR"),
        (["run", "--methods", "cam", "--dataset", "voc12", "--root", "nowhere"], 2, "no folder nowhere"),
        (["run", "--methods", "cam", "--set", "cam.epoch=3"], 2, "unknown key 'epoch': did you mean 'epochs'?"),
        (["run", "--methods", "cam", "--set", "cam.epochs=x"], 2, "epochs: Input should be a valid integer"),
        (["run", "--methods", "cam", "--set", "nonsense"], 2, "expected METHOD.KEY=VALUE"),
        (["run", "--methods", "cam", "--seeds", "a"], 2, "seeds.0: expected whole numbers from 0 up"),
        (["run", "--methods", "cam", "--device", "tpu"], 2, "expected auto, cpu or cuda"),
        (["run", "--methods", "cam", "--weights", "none.pt"], 2, "no weights file none.pt"),
        (["run", "--methods", "cam", "--weights", "hub"], 3, "the model hub cannot be reached"),
        (["run", "--experiment", "dmeo"], 2, "unknown experiment 'dmeo': did you mean 'demo'?"),
        (["run", "--experiment", "mine.yaml"], 2, "cannot read mine.yaml: No such file"),
        (["run"], 2, "nothing to run: --methods"),
        (["run", "--methods", "cam", "--results", "/proc/results"], 2, "cannot write results to /proc/results"),
        (["list", "method5"], 2, "unknown kind 'method5': did you mean 'methods'?"),
        (["list", "methods", "seem"], 2, "no method is called 'seem': did you mean 'seam'?"),
        (["list", "methods", "seam", "ppc"], 2, "one pattern after the kinds, not 2: seam ppc"),
        (["describe", "method", "came"], 2, "did you mean 'cam'?"),
        (["report"], 2, "no results in results"),
        (["status"], 2, "no results in results"),
        (["gc", "--yes"], 2, "no results in results"),
        (["show", "abc"], 2, "no results in results"),
        (["runn"], 2, "No such command 'runn'"),
        (["run", "--method", "cam"], 2, "No such option: --method"),
    ],
)
def test_a_mistake_is_one_or_two_lines_and_the_right_status(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    arguments: list[str],
    status: int,
    message: str,
) -> None:
    """In this process, because importing torch twenty times proves nothing."""
    from harness.cli import main

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["harness", *arguments])
    with pytest.raises(SystemExit) as end:
        main()
    errors = capsys.readouterr().err
    assert end.value.code == status, errors
    assert message in errors
    if not errors.startswith("Usage"):
        assert len([line for line in errors.splitlines() if line.startswith("error")]) == 1


def test_a_mistake_shows_its_traceback_only_when_asked(harness: Run) -> None:
    assert harness("run", "--methods", "x").stderr.startswith("error: unknown method 'x': known: advcam")
    assert "Traceback" in harness("--debug", "run", "--methods", "x").stderr


def test_a_yaml_mistake_names_the_line(harness: Run, tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text("summary: x\nrun:\n  - methods: cam\n    seed: 1\n")
    found = harness("run", "--experiment", "mine.yaml")
    assert (found.returncode, "mine.yaml:4: unknown key 'seed': did you mean 'seeds'?" in found.stderr) == (2, True)


def test_dry_run_shows_cells_stages_and_settings_and_writes_nothing(tmp_path: Path) -> None:
    command = ["run", "--methods", "vitpcm,cam", "--refine", "none,crf:vitpcm", "--dry-run", "--json", *TINY]
    rows = json.loads(run_here(tmp_path, *command).stdout)
    assert len(rows) == 4
    assert rows[0]["state"] == "to run"
    assert rows[0]["settings"]["epochs"] == [2, "--set"]
    assert not (tmp_path / "results").exists()
    shared = set(rows[0]["to_run"]) & set(rows[1]["to_run"])
    assert {name.split()[0] for name in shared} == {"labels", "fit", "score", "curve"}


def test_dry_run_of_a_table_answers_without_data_or_weights(tmp_path: Path) -> None:
    shown = run_here(tmp_path, "run", "--experiment", "table3", "--dry-run")
    assert shown.returncode == 0, shown.stderr
    assert "`harness prepare voc12 --root DIR` makes it" in shown.stdout
    assert "weights of vit_s16: model.safetensors of the hub's repository timm/vit_small_patch16_384" in shown.stdout
    assert "weights of xception: https://" in shown.stdout
    rows = json.loads(run_here(tmp_path, "run", "--experiment", "table3", "--dry-run", "--json").stdout)
    assert len(rows) == 6
    assert all(row["stages"][:3] == ["labels", "fit", "select"] and len(row["needs"]) == 2 for row in rows)


def test_help_has_options_in_groups_and_old_names_stay(tmp_path: Path) -> None:
    shown = run_here(tmp_path, "run", "--help").stdout
    places = [shown.index(title) for title in ("What is run:", "Where things are:", "How it is run:", "Options:")]
    assert places == sorted(places)
    assert places[0] < shown.index("--datasets, --dataset") < places[1] < shown.index("--root") < places[2]
    dry = ["run", "--methods", "cam", "--dry-run", "--json"]
    old = run_here(tmp_path, *dry, "--dataset", "toy", "--protocol", "vitpcm").stdout
    new = run_here(tmp_path, *dry, "--datasets", "toy", "--protocols", "vitpcm").stdout
    assert json.loads(old) == json.loads(new) != []


def test_it_is_a_module_too(harness: Run) -> None:
    found = subprocess.run([sys.executable, "-m", "harness", "--version"], capture_output=True, text=True, timeout=60)
    assert (found.returncode, found.stdout) == (0, harness("--version").stdout)


def test_a_whole_run_then_nothing_twice(harness: Run, tmp_path: Path) -> None:
    """The first run trains, scores, refines, records; the second starts no Ray; the other commands read it."""
    command = ["run", "--methods", "cam,sanity-oracle", "--refine", "none,crf:vitpcm", *TINY]
    first = harness(*command)
    assert first.returncode == 0, first.stderr
    assert "dataset toy, weights random (dataset toy), protocol strict" in first.stderr
    assert "4 of 4 cells done" in first.stderr
    assert "next: harness report" in first.stderr
    second = harness(*command, "--json", RAY_ADDRESS="")
    assert second.returncode == 0
    records = json.loads(second.stdout)
    assert [record["status"] for record in records] == ["done"] * 4
    assert "every stage reused, nothing to run" in second.stderr
    assert "stages to run" not in second.stderr
    oracle = next(record for record in records if record["spec"]["method"] == "sanity-oracle")
    assert oracle["metrics"]["val"]["miou"] > 0.85
    text = json.dumps(records)
    assert str(Path.home()) not in text or Path.home() == Path("/")
    assert os.uname().nodename not in text

    dry = json.loads(run_here(tmp_path, *command, "--dry-run", "--json").stdout)
    assert {row["state"] for row in dry} == {"done"}

    report = harness("report")
    assert report.returncode == 0, report.stderr
    for expected in ("sanity-oracle", "cam", "timm", "test_vit", "val +crf:vitpcm", "only the first 8 images"):
        assert expected in report.stdout, expected
    assert "### toy" in (tmp_path / "results" / "report" / "report.md").read_text()
    assert (tmp_path / "results" / "report" / "gallery-toy-strict.png").stat().st_size > 10_000

    key = records[0]["key"]
    shown = run_here(tmp_path, "show", key[:8])
    assert "IoU beetle" in shown.stdout
    assert "packages: " in shown.stdout
    assert json.loads(run_here(tmp_path, "show", key[:8], "--json").stdout)["key"] == key
    assert json.loads(run_here(tmp_path, "status", "--json").stdout) == {
        "cells": {"done": 4},
        "runs": [],
        "running": [],
        "failures": [],
    }
    assert run_here(tmp_path, "list", "runs").stdout.count("done") == 4
    assert run_here(tmp_path, "report", "demo").returncode == 2


@pytest.mark.parametrize("words", [(), ("demo",), ("sensitivity",), ("demo", "sensitivity")])
def test_a_run_that_ended_before_its_first_record_has_nothing_to_report(tmp_path: Path, words: tuple[str, ...]) -> None:
    Store(tmp_path / "results", create=True)
    found = run_here(tmp_path, "report", *words)
    assert found.returncode == 2
    assert found.stderr.splitlines() == [
        f"error: no records of {', '.join(words) or 'any run'} in results: `harness run` makes them"
    ]


def test_doctor_finds_this_environment_fit(harness: Run) -> None:
    found = harness("doctor", "--json")
    assert found.returncode == 0, found.stdout
    checks = {check["name"]: check for check in json.loads(found.stdout)}
    assert checks["timm"]["state"] == "ok"
    assert set(checks) >= {
        "python",
        "requirements",
        "torch",
        "torchvision",
        "ray",
        "pydensecrf",
        "mmsegmentation",
        "disk",
    }


def test_a_closed_pipe_is_no_traceback() -> None:
    command = f"{Path(sys.executable).parent / 'harness'} list methods | head -n 1"
    found = subprocess.run(["bash", "-c", command], capture_output=True, text=True, timeout=60)
    assert "Traceback" not in found.stderr
