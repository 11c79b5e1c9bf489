"""Measured beside published, with records whose numbers are chosen here."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest

from harness.registry import Registry
from harness.report.dataframe import frame
from harness.report.published import Score, published
from harness.report.verdicts import Verdict, published_tables, verdicts
from harness.results.store import Store
from harness.spec import expand, experiment
from tests.conftest import Run

REGISTRY = Registry()
EXAMPLE = json.loads(next((Path(__file__).parent.parent / "results/reference/demo/records").glob("*.json")).read_text())
L_MCE = next(s for s in published(REGISTRY, "vit-pcm") if s.table.name == "1" and s.heading == "val")
SPEC = next(
    cell.spec.model_dump(mode="json")
    for cell in expand(experiment(REGISTRY, "table1").grids, REGISTRY)
    if L_MCE.of(cell.spec.model_dump(mode="json"))
)


def record(miou: float, seed: int = 0, **changes: Any) -> dict[str, Any]:
    """A record of the cell that Table 1 prints first, ViT-S/16 with L_MCE alone, with some mIoU on val."""
    made = copy.deepcopy(EXAMPLE) | {
        "key": f"{seed:020x}", "status": "done", "spec": copy.deepcopy(SPEC) | {"seed": seed},
        "applied": {"background": "model", "gating": {"train": "gt", "val": "gt"}},
        "pictures": {"train": 1464, "val": 1449}, "weights": {"source": "hub", "sha256": "0", "file": "w"},
    }  # fmt: skip
    for split in ("train", "val"):
        made["metrics"][split] = made["metrics"]["val"] | {"miou": miou}
    return made | changes


def judged(*records: dict[str, Any], tmp_path: Path) -> Verdict:
    (verdict,) = verdicts([L_MCE], frame(records), REGISTRY, Store(tmp_path, create=True))
    return verdict


@pytest.mark.parametrize(
    ("miou", "outcome"),
    [(0.433, "match"), (0.4334, "match"), (0.442, "within tolerance"), (0.4236, "within tolerance"), (0.447, "off")],
)
def test_a_score_is_judged_by_its_tolerance(tmp_path: Path, miou: float, outcome: str) -> None:
    assert L_MCE.printed == "43.3"
    verdict = judged(record(miou), tmp_path=tmp_path)
    assert (verdict.outcome, verdict.differs) == (outcome, [])
    assert verdict.difference == pytest.approx(100 * miou - 43.3)


def test_several_seeds_are_judged_by_their_mean_and_shown_with_their_spread(tmp_path: Path) -> None:
    verdict = judged(record(0.413, 0), record(0.453, 1), tmp_path=tmp_path)
    assert (verdict.outcome, verdict.seeds) == ("match", [0, 1])
    (table,) = published_tables([verdict])
    row = dict(zip(table.columns, table.rows[0], strict=True))
    assert (row["published"], row["measured"], row["difference"], row["seeds"]) == ("43.3", "43.3 ± 2.8", "+0.0", "0,1")
    assert any(note.startswith("tolerance 1 points: not estimated") for note in table.notes)
    assert any("text and code disagree" in note for note in table.notes)  # a known trouble of the paper's table


def changed(**protocol: Any) -> dict[str, Any]:
    return {"spec": SPEC | {"protocol": SPEC["protocol"] | protocol}}


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"pictures": {"train": 24, "val": 24}}, "1449 images there, 24 here"),
        ({"weights": {"source": "random"}}, "pretrained weights there, a random start here"),
        (
            {"applied": {"background": "model", "gating": {"train": "gt", "val": "predicted:0.5"}}},
            "class_gating gt there, predicted:0.5 here",
        ),
        (changed(checkpoint="last"), "checkpoint val_pixels:60 there, last here"),
        (changed(normalisation="max"), "normalisation vitpcm there, max here"),
    ],
)
def test_what_was_not_scored_alike_is_not_judged_and_says_why(
    tmp_path: Path, changes: dict[str, Any], reason: str
) -> None:
    verdict = judged(record(0.433, **changes), tmp_path=tmp_path)
    assert (verdict.outcome, verdict.differs) == ("not comparable", [reason])
    (table,) = published_tables([verdict])
    assert f"[a] not scored alike: {reason}" in table.notes


def test_what_is_missing_says_why(tmp_path: Path) -> None:
    assert judged(tmp_path=tmp_path).outcome == "not run"
    failed = record(0.4, status="failed", reason="no luck")
    assert judged(failed, tmp_path=tmp_path).outcome == "failed: no luck"
    (table,) = published_tables([judged(failed, tmp_path=tmp_path)])
    assert table.rows[0][table.columns.index("measured")] == "–"


def test_scores_of_a_class_and_of_pixels_are_their_own(tmp_path: Path) -> None:
    classes = ["background", "cat"]
    one = record(0.5, classes=classes)
    one["metrics"] = {"val": one["metrics"]["val"] | {"iou": [0.9, 0.25], "pixacc": 0.8}}
    scores = [Score.model_validate(L_MCE.model_dump() | {"metric": metric}) for metric in ("iou:cat", "pixacc")]
    found = verdicts(scores, frame([one]), REGISTRY, Store(tmp_path, create=True))
    assert [verdict.measured for verdict in found] == [[25.0], [80.0]]


def test_the_command_prints_them_in_every_format_and_is_strict_if_asked(here: Run, tmp_path: Path) -> None:
    store = Store(tmp_path / "results", create=True)
    store.write_record(record(0.6))
    ran = here("report", "table1", "--format", "md,latex,csv,json", "--images", "0", "--no-figures")
    assert ran.returncode == 0, ran.stderr
    assert "not run" in ran.stdout
    folder = tmp_path / "results" / "report"
    assert "| L_MCE" in (folder / "report.md").read_text()
    assert r"\toprule" in (folder / "report.tex").read_text()
    assert r"L\_MCE" in (folder / "report.tex").read_text()
    tables = json.loads((folder / "report.json").read_text())
    csv = (folder / "table-1-vit-pcm-what-each-part-of-vit-pcm-adds.csv").read_text()
    first = dict(zip(tables[0]["columns"], tables[0]["rows"][1], strict=True))
    assert (first["published"], first["measured"], first["verdict"]) == ("43.3", "60.0", "off")
    assert "L_MCE,ViT-S/16,val,43.3,60.0,+16.7,off,0" in csv.splitlines()
    assert here("report", "table1", "--strict", "--images", "0", "--no-figures").returncode == 1
    assert here("report", "table1", "--format", "latx").returncode == 2
