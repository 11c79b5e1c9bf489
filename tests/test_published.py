from __future__ import annotations

import os
from collections import Counter
from functools import cache
from pathlib import Path
from statistics import mean, stdev

import pytest

from harness.cell import RunSpec
from harness.errors import UserError
from harness.registry import Registry
from harness.report.published import Score, published
from harness.spec import expand, experiment, refiner_config
from harness.strict import canonical, parse
from tests.paper import Printed, read_golden, scores

REGISTRY = Registry()
PAPER = published(REGISTRY, "vit-pcm")
ALL = published(REGISTRY)
OURS = [score for score in ALL if score.method]
EXPERIMENTS = sorted({score.table.experiment for score in ALL} - {""})


def printed(score: Score) -> Printed:
    return Printed(score.table.name, score.label, score.network, score.heading, score.printed)


@cache
def cells(name: str) -> list[RunSpec]:
    return [cell.spec for cell in expand(experiment(REGISTRY, name).grids, REGISTRY)]


def name_of(score: Score) -> str:
    return f"{score.table.name}-{score.label}-{score.network}-{score.heading}"


def test_every_table_has_all_its_scores() -> None:
    counts = Counter(score.table.name for score in PAPER)
    assert counts == {"1": 16, "2": 44, "3": 12, "A": 30, "B": 42, "C": 3, "D": 4}
    assert len(PAPER) == 151
    experiments = {score.table.name: score.table.experiment for score in PAPER if score.method}
    assert experiments == {number: f"table{number}" for number in "123ABCD"}


def test_every_score_is_the_one_that_was_read_from_the_paper() -> None:
    assert sorted(map(printed, PAPER)) == sorted(read_golden())


@pytest.mark.skipif("WSSS_HARNESS_PAPER" not in os.environ, reason="WSSS_HARNESS_PAPER names no text of the paper")
def test_every_score_is_the_one_in_the_papers_text() -> None:
    found = scores(Path(os.environ["WSSS_HARNESS_PAPER"]).read_text("utf-8"))
    assert found == read_golden()
    assert sorted(map(printed, PAPER)) == sorted(found)


def test_what_is_read_from_a_text_are_its_scores_alone() -> None:
    text = (
        "Words.\n\nTable 7: Made up.\n\n"
        "Backbone\tParams (M)\t$\\mathcal{L}_{MCE}$\tMethod\tval\n"
        "ViT-S/16\t22\t✓\tICD [18] <sup>CVPR20</sup>\t<b>56.4</b> +13.1\n"
        "\t\t\tSCE[6]\t-\n"
        "\t\t\tCSE[2]\t7.25+5.4\n"
    )
    assert scores(text) == [
        Printed("7", "L_MCE + ICD CVPR20", "ViT-S/16", "val", "56.4"),
        Printed("7", "CSE", "ViT-S/16", "val", "7.25"),
    ]


def test_a_score_stands_in_the_files_once() -> None:
    keys = Counter(
        (s.table, s.label, s.network, s.heading, s.verifier, s.source, s.dataset, s.split, s.stage, s.metric)
        for s in ALL
    )
    assert set(keys.values()) == {1}
    assert all(0 < score.value < 100 for score in ALL)


@pytest.mark.parametrize("score", OURS, ids=name_of)
def test_a_score_of_ours_names_what_exists_and_is_measured_by_its_cells(score: Score) -> None:
    method = REGISTRY.load("method", score.method)
    parse(method.Params, score.settings)
    assert score.settings.keys() <= method.Params.model_fields.keys()
    REGISTRY.entry("backbone", score.backbone)
    kind, _, class_name = score.metric.partition(":")
    assert not class_name or class_name in REGISTRY.load("dataset", score.dataset).classes
    assert kind in ("miou", "pixacc", "foreground", "iou")
    families = {
        canonical(spec.model_dump(mode="json", exclude={"seed"}))
        for spec in cells(score.table.experiment)
        if score.of(spec.model_dump(mode="json"))
    }
    heads = 6  # of both sizes of DINO; its score is the best of them for each object
    blind = score.split in REGISTRY.load("dataset", score.dataset).blind_splits  # a server scores it
    assert len(families) == (heads + 1 if score.method == "dino" else 0 if blind else 1)


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_every_cell_of_a_tables_experiment_has_a_published_score(name: str) -> None:
    rows = [score for score in PAPER if score.table.experiment == name]
    for spec in cells(name):
        if spec.method == "sanity-oracle":
            continue  # the upper bound of the table's verification
        if (name, spec.protocol.refine) == ("tableC", "none"):
            continue  # what the CRF begins with
        assert any(score.of(spec.model_dump(mode="json")) for score in rows), spec.title


@pytest.mark.parametrize("refine", sorted({score.protocol.get("refine", "none") for score in ALL}))
def test_every_refiner_exists(refine: str) -> None:
    refiner_config(REGISTRY, refine)


def test_a_score_carries_what_its_table_column_and_row_say() -> None:
    by_row = {(s.table.name, s.label, s.network, s.heading): s for s in PAPER}
    plain = by_row["1", "L_MCE", "ViT-S/16", "val"]
    assert (plain.dataset, plain.split, plain.stage, plain.metric, plain.value) == ("voc12", "val", "bpm", "miou", 43.3)
    assert (plain.method, plain.backbone) == ("vitpcm", "vit_s16")
    assert plain.settings == {"equivariance": False, "hv_bilstm": False}
    assert plain.source == "Rossetti et al., ECCV 2022, Table 1"
    assert (plain.tolerance.points, plain.tolerance.reason) == (1.0, "not estimated")
    whole = by_row["1", "L_MCE + L_ET + HV-BiLSTM + CRF", "ViT-S/16", "train"]
    assert whole.settings == {"equivariance": True, "hv_bilstm": True}
    assert whole.tolerance.points == 1.2
    assert by_row["A", "ICD CVPR20", "VGG16", "BPM"].printed == "57.00"
    assert not by_row["A", "ICD CVPR20", "VGG16", "BPM"].method


def test_the_named_protocol_lies_below_what_a_source_states() -> None:
    by_row = {(s.table.name, s.label, s.network, s.heading): s.protocol for s in PAPER}
    assert by_row["1", "L_MCE", "ViT-B/16", "val"] == {
        "label_source": "masks",
        "background_label": "masks",
        "class_gating": {"training": "gt", "held_out": "gt"},
        "normalisation": "vitpcm",
        "background": "fixed:0.4",
        "align_corners": True,
        "gated_background": True,
        "fit_split": "train_aug",
        "checkpoint": "val_pixels:60",
        "refine": "none",
    }
    assert by_row["1", "L_MCE + L_ET + HV-BiLSTM + CRF", "ViT-B/16", "val"]["refine"] == "crf:vitpcm"
    assert by_row["A", "ICD CVPR20", "VGG16", "BPM"] == {"refine": "none"}
    assert by_row["A", "ICD CVPR20", "VGG16", "BPM+CRF"] == {}
    assert by_row["A", "SEAM CVPR20", "ResNet38", "BPM+CRF"]["background"] == "swept_on:train"


def test_a_record_of_other_settings_data_or_refiner_is_not_of_a_score() -> None:
    score = next(score for score in PAPER if score.label == "L_MCE + L_ET")
    spec = next(s for s in cells("table1") if score.of(s.model_dump(mode="json"))).model_dump(mode="json")
    assert score.of(spec | {"seed": 3})
    assert not score.of(spec | {"dataset": "toy"})
    assert not score.of(spec | {"backbone": "vit_b16"})
    assert not score.of(spec | {"params": spec["params"] | {"hv_bilstm": True}})
    assert not score.of(spec | {"protocol": spec["protocol"] | {"refine": "crf:irn"}})
    assert not score.of(spec | {"protocol": spec["protocol"] | {"eval_splits": ["val"]}})
    assert not any(other.of(spec) for other in PAPER if not other.method)


def test_the_notes_on_means_follow_from_the_printed_numbers() -> None:
    """What `configs/published` says of the paper's arithmetic, worked out again."""
    classes = [s for s in PAPER if s.metric.startswith("iou:")]
    plain = [s for s in classes if s.stage == "bpm"]
    assert len(plain) == 21
    assert mean(s.value for s in plain) == pytest.approx(65.55, abs=0.005)
    assert mean(s.value for s in classes if s.stage == "crf") == pytest.approx(69.32, abs=0.005)
    assert "average 65.55" in plain[0].notes[0]

    rows: dict[str, dict[str, float]] = {}
    for score in PAPER:
        if score.table.name == "A":
            rows.setdefault(score.label, {})[score.stage] = score.value
    gains = {label: row["crf"] - row["bpm"] for label, row in rows.items() if len(row) == 2}
    others = [gain for label, gain in gains.items() if label != "ViT-PCM Ours"]
    assert (len(others), round(mean(others), 2)) == (12, 4.21)
    assert (round(mean(gains.values()), 2), round(stdev(gains.values()), 2)) == (4.17, 1.83)
    note = next(s for s in PAPER if s.table.name == "A").table.notes[0]
    assert "4.21 over the 12 other rows" in note
    assert "4.17 ± 1.83" in note


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("split: val", "splitt: val", r"mine\.yaml:6: unknown key 'splitt': did you mean 'split'\?"),
        ("split: val", "metric: miuo", r"mine\.yaml:6: .*metric: String should match"),
        ("stage: bpm", "stage: masks", r"mine\.yaml:7: .*stage: Input should be 'bpm', 'crf', 'refined'"),
        ("split: val", "source: x", r"table t, row 'A', column 'one': split: Field required"),
        ("scores: 1.0 –", "scores: 1.0", r"mine\.yaml:11: .*put a single number in quotes"),
        ("scores: 1.0 –", "scores: '1.0'", r"mine\.yaml:4: .*row 'A' has 1 scores for 2 columns"),
        ("scores: 1.0 –", "scores: 1.0 n/a", r"mine\.yaml:11: .*numbers in per cent, or – for none: 'n/a'"),
        ("label: A", "label: A\n        tolerance: {points: 0, reason: x}", r"points: Input should be greater than 0"),
        (
            "label: A",
            "label: A\n        protocol: {sizes: 448}",
            r":11: unknown key 'sizes': did you mean 'size'",
        ),
        ("label: A", "label: A\n        protocol: {name: seem}", "unknown protocol 'seem': did you mean 'seam'"),
        ("label: A", "label: A\n        method: vitpmc", "unknown method 'vitpmc': did you mean 'vitpcm'"),
        ("label: A", "label: A\n        backbone: vit_s61", "unknown backbone 'vit_s61': did you mean 'vit_s16'"),
        ("title: T", "title: T\n    experiment: table7", "unknown experiment 'table7': did you mean 'table"),
    ],
)
def test_a_mistake_in_a_file_is_named(tmp_path: Path, old: str, new: str, message: str) -> None:
    path = tmp_path / "published" / "mine.yaml"
    path.parent.mkdir()
    text = """summary: mine
dataset: voc12
tables:
  t:
    title: T
    split: val
    stage: bpm
    columns: [{heading: one}, {heading: two}]
    rows:
      - label: A
        scores: 1.0 –
        source: somewhere
"""
    path.write_text(text)
    (score,) = published(Registry([str(path)]), "mine")
    assert (score.table.publication, score.printed, score.source) == ("mine", "1.0", "somewhere")
    path.write_text(text.replace(old, new))
    with pytest.raises(UserError, match=message):
        published(Registry([str(path)]), "mine")
