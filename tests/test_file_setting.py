"""A file in a method's settings counts by its content, and lies where only this machine knows."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from harness import File
from harness.errors import UserError
from harness.file_setting import known_places, learn_places
from harness.inputs import Inputs
from harness.registry import Registry
from harness.run.plan import Plan, plan_cells
from harness.spec import Grid, expand
from tests.conftest import Run

PLUGIN = """
import torch
from harness import File, Method, Params


class ScaledParams(Params):
    \"\"\"Settings.

    Attributes
    ----------
    scale : File or None
        A number that the maps are multiplied by.
    \"\"\"

    inference_size: int = 64
    scale: File | None = None


class Scaled(Method):
    \"\"\"Score maps of a number that a file holds.\"\"\"

    name = "scaled"
    predicts_presence = True
    Params = ScaledParams

    def build(self, backbone, num_classes):
        model = torch.nn.Linear(1, num_classes - 1)
        model.backbone = backbone
        return model

    def fit(self, model, data, session):
        pass

    def score(self, model, images, labels):
        scale = float(self.params.scale.path.read_text())
        maps = torch.full((len(images), model.out_features, 4, 4), scale)
        return maps, maps.amax((2, 3)).clamp(0, 1)
"""


@pytest.fixture
def plugin(tmp_path: Path) -> Path:
    path = tmp_path / "scaled.py"
    path.write_text(PLUGIN)
    (tmp_path / "number.txt").write_text("0.5")
    return path


def planned(plugin: Path, folder: Path) -> Plan:
    registry = Registry((str(plugin),))
    settings = {"scaled.scale": str(folder / "number.txt")}
    grid = Grid(methods="scaled", backbones="timm:test_vit", weights="random", limit=4, set=settings)
    return plan_cells(expand([grid], registry), Inputs(registry, folder / "results", None))


def test_the_content_is_in_the_key_and_the_folder_is_not(plugin: Path, tmp_path: Path) -> None:
    first = planned(plugin, tmp_path).cells[0]
    assert first.cell.spec.params["scale"]["file"] == "number.txt"
    assert str(tmp_path) not in json.dumps(first.cell.spec.model_dump(mode="json"))
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "number.txt").write_text("0.5")
    assert planned(plugin, elsewhere).cells[0].key == first.key
    (tmp_path / "number.txt").write_text("0.7")
    again = planned(plugin, tmp_path).cells[0]
    assert again.key != first.key
    assert again.artefacts["fit"] != first.artefacts["fit"]


@pytest.mark.slow
def test_workers_find_it_and_a_file_that_is_not_there_is_one_line(plugin: Path, tmp_path: Path, harness: Run) -> None:
    run = (
        "run", "--methods", "scaled", "--plugins", str(plugin), "--backbones", "timm:test_vit", "--weights", "random",
        "--limit", "4", "--set", "protocol.eval_splits=val", "--results", str(tmp_path / "results"),
    )  # fmt: skip
    missing = harness(*run, "--set", f"scaled.scale={tmp_path / 'none.txt'}")
    assert missing.returncode == 2
    assert "no file" in missing.stderr
    assert len(missing.stderr.splitlines()) <= 2
    found = harness(*run, "--set", f"scaled.scale={tmp_path / 'number.txt'}")
    assert found.returncode == 0, found.stderr
    (record,) = [json.loads(path.read_text()) for path in (tmp_path / "results" / "records").iterdir()]
    assert record["spec"]["params"]["scale"]["file"] == "number.txt"
    assert str(tmp_path) not in json.dumps(record)
    shown = harness("show", record["key"], "--reproduce", "--results", str(tmp_path / "results"))
    assert "scaled.scale=FILE" in shown.stdout


def test_a_file_that_has_changed_or_that_nobody_named_is_not_opened(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text("a")
    file = File.parse(str(path))
    assert file.path == path
    assert known_places()[file.sha256] == str(path)
    path.write_text("b")
    with pytest.raises(UserError, match=r"the file a\.txt, sha256 \w{12}, is not here"):
        _ = file.path
    learn_places({"0" * 64: str(path)})
    with pytest.raises(UserError, match="is not here"):
        _ = File("a.txt", "0" * 64).path
