from __future__ import annotations

import json
from pathlib import Path

from tests.conftest import TINY, Run


def test_a_trained_model_that_is_brought_along_scores_as_where_it_was_trained(here: Run, tmp_path: Path) -> None:
    (trained,) = json.loads(here("run", "--methods", "cam", "--json", *TINY).stdout)
    model = tmp_path / "results" / "artefacts" / "fit" / trained["artefacts"]["fit"] / "model.safetensors"
    command = ["run", "--methods", "cam,vitpcm", "--checkpoint", str(model), "--results", "other", "--json", *TINY]
    found = here(*command)
    assert found.returncode == 1  # the file is no vitpcm
    brought, wrong = json.loads(found.stdout)
    assert brought["metrics"] == trained["metrics"]
    assert brought["checkpoint"]["file"] == "model.safetensors"
    assert brought["spec"]["checkpoint"] is True
    assert wrong["status"] == "failed"
    assert wrong["reason"].startswith("checkpoint model.safetensors is of another model: ")
    table = here("report", "--results", "other", "--images", "0", "--no-figures").stdout
    assert "trained elsewhere: model.safetensors" in table
    missing = here("run", "--methods", "cam", "--checkpoint", "nowhere.safetensors", *TINY)
    assert (missing.returncode, "no weights file nowhere.safetensors" in missing.stderr) == (2, True)
