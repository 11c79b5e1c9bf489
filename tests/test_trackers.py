"""Records handed to trackers, each in its offline mode, read back with its own reader."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from harness.errors import UserError
from harness.report.trackers import export, tracked
from tests.test_report import record


def trained() -> dict[str, Any]:
    return record("cam", 0.3) | {"curves": [{"epoch": 1, "bce": 0.5, "lr": 0.1}, {"epoch": 2, "bce": 0.25, "lr": 0.05}]}


def test_a_record_is_settings_curves_and_scores() -> None:
    run = tracked(trained())
    assert (run.config["method"], run.config["params.epochs"], run.config["protocol.name"]) == ("cam", 3, "strict")
    assert run.curves[1] == (2, {"fit/bce": 0.25, "fit/lr": 0.05})
    stages = [{"stage": "fit_refiner", "curves": [{"epoch": 2, "pairs": 0.5}, {"epoch": 3, "pairs": 0.4}]}]
    epochs = tracked(trained() | {"stages": stages}).curves
    assert [epoch for epoch, _ in epochs] == [1, 2, 3]
    assert epochs[1][1].keys() == {"fit/bce", "fit/lr", "fit_refiner/pairs"}
    assert epochs[2][1] == {"fit_refiner/pairs": 0.4}
    assert run.scores["val/miou"] == 0.3
    failed = tracked(record("cam", 0.3) | {"status": "failed", "metrics": {}})
    assert (failed.config["status"], failed.scores, failed.curves) == ("failed", {}, [])


def test_csv_has_a_line_for_each_record(tmp_path: Path) -> None:
    path = export([trained(), record("vitpcm", 0.5)], "csv", tmp_path)
    table = pd.read_csv(path)
    assert list(zip(table.method, table["val/miou"], strict=True)) == [("cam", 0.3), ("vitpcm", 0.5)]


def test_tensorboard_reads_back_losses_and_scores(tmp_path: Path) -> None:
    reader = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    export([trained()], "tensorboard", tmp_path)
    events = reader.EventAccumulator(str(tmp_path / trained()["key"][:8]))
    events.Reload()
    assert [(one.step, one.value) for one in events.Scalars("fit/bce")] == [(1, 0.5), (2, 0.25)]
    assert events.Scalars("val/miou")[0].value == pytest.approx(0.3)


def test_mlflow_holds_a_record_once_however_often_it_is_sent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mlflow = pytest.importorskip("mlflow")
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    for _ in range(2):
        export([trained()], "mlflow", tmp_path)
    (run,) = mlflow.search_runs(output_format="list")
    assert run.data.metrics["val/miou"] == pytest.approx(0.3)
    assert run.data.metrics["fit/bce"] == 0.25
    assert run.data.params["params.epochs"] == "3"


def test_wandb_writes_a_run_for_later(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    export([trained()], "wandb", tmp_path)
    assert list(tmp_path.glob("wandb/offline-run-*/run-*.wandb"))


def test_a_tracker_that_is_not_installed_is_named_with_its_extra(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(__import__("sys").modules, "wandb", None)
    with pytest.raises(UserError, match=r"wandb needs the package wandb: pip install 'wsss-harness\[trackers\]'"):
        export([trained()], "wandb", tmp_path)
    assert not list(tmp_path.iterdir())
