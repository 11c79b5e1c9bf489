"""Tables against numbers worked out by hand."""

from __future__ import annotations

import copy
from typing import Any

import pytest

from harness.protocol import Protocol
from harness.registry import Registry
from harness.report.dataframe import frame, newest
from harness.report.figures.series import coloured, colours, scored
from harness.report.formats import FORMATS, markdown
from harness.report.notes import mark
from harness.report.of_experiment import named, only
from harness.report.sensitivity import sensitivity, shared
from harness.report.tables import Table, by_protocol, comparison, unfinished
from harness.spec import Experiment, expand
from harness.strict import parse


def record(method: str, miou: float, seed: int = 0, dataset: str = "toy", **protocol: Any) -> dict[str, Any]:
    """A record of a cell that is done, with the given score on val, and ten points more on train."""
    declared = Protocol(
        name="strict", label_source="masks", fit_split="train", eval_splits=("train", "val"), **protocol
    )
    metrics = {
        split: {
            "miou": value, "interval": [value - 0.02, value + 0.03], "pixacc": value / 2, "macc": 0.1, "coverage": 1.0,
            "pxap": 0.25, "iou": [value, value],
        }
        for split, value in (("train", miou + 0.1), ("val", miou))
    }  # fmt: skip
    return {
        "key": f"{method}{seed}{protocol}", "title": method, "status": "done", "ended": "", "spec": {
            "method": method, "params": {"epochs": 3}, "backbone": "vit_s16", "weights": "random", "dataset": dataset,
            "protocol": declared.model_dump(mode="json"), "seed": seed, "limit": None,
        },
        "origins": {f"protocol.{name}": "--set" for name in protocol}, "timm": "vit_small", "checkpoint": None,
        "weights": {"source": "random", "sha256": "", "file": ""}, "supervision": ["image_labels"],
        "applied": {"background": str(declared.background)}, "ground_truth": [], "classes": ["background", "kite"],
        "data": {"train": "a", "val": "b"}, "pictures": {"train": 4, "val": 2}, "metrics": metrics,
        "parameters": {"total": 23_600_000}, "artefacts": {"fit": f"{method}{seed}"},
        "stages": [{"stage": "fit", "key": "", "seconds": 90.0, "memory_mb": {}, "device": "cpu", "bytes": 0}],
    }  # fmt: skip


def cell(table: Table, method: str, column: str) -> str:
    row = next(row for row in table.rows if row[0].split(" [")[0] == method)
    return row[table.columns.index(column)]


def test_one_seed_has_an_interval_and_several_have_a_spread() -> None:
    rows = [record("vitpcm", 0.5), record("cam", 0.3, 0), record("cam", 0.4, 1), record("cam", 0.5, 2)]
    (table,) = comparison(frame(rows))
    assert cell(table, "vitpcm", "val mIoU") == "50.0 [48.0–53.0]"
    assert cell(table, "cam", "val mIoU") == "40.0 ± 10.0 [38.0–43.0]"
    assert cell(table, "cam", "seeds") == "0,1,2"
    assert "all methods: backbone (timm id) vit_s16 (vit_small); params 23.60 M; weights random" in table.notes
    assert [row[0] for row in table.rows] == ["vitpcm", "cam"]


def test_two_versions_of_a_method_are_two_rows_and_not_a_spread() -> None:
    rows = [record("cam", 0.3, 0), record("cam", 0.5, 0), record("cam", 0.6, 1), record("vitpcm", 0.2)]
    for row, version in zip(rows, ("0123456789abcdef", "f" * 16, "f" * 16, "0" * 16), strict=True):
        row["method_version"] = version
        row["key"] += version
    (table,) = comparison(frame(rows))
    column = table.columns.index("val mIoU")
    assert [(row[0], row[column].partition(" [")[0]) for row in table.rows] == [
        ("cam [a]", "55.0 ± 7.1"), ("cam [b]", "30.0"), ("vitpcm", "20.0"),
    ]  # fmt: skip
    assert "[b] source version 0123456789ab; other rows of cam are of another source" in table.notes


def test_unlike_protocols_never_share_a_table() -> None:
    tables = comparison(frame([record("vitpcm", 0.5), record("cam", 0.6, background="fixed:0.2")]))
    assert len(tables) == 2
    assert all(len(table.rows) == 1 for table in tables)
    assert "background=fixed:0.2" in "".join(table.title for table in tables)
    other_images = record("cam", 0.6)
    other_images["data"]["val"] = "c"
    assert len(comparison(frame([record("vitpcm", 0.5), other_images]))) == 2


def test_a_score_names_the_records_that_it_comes_from() -> None:
    refined = record("cam", 0.5, refine="crf:vitpcm")
    refined["origins"] = {}
    (table,) = comparison(frame([record("cam", 0.3, 0), record("cam", 0.4, 1), refined]))
    column = table.columns.index
    assert table.sources[0, column("val mIoU")] == ["cam0{}", "cam1{}"]
    assert table.sources[0, column("val +crf:vitpcm")] == [refined["key"]]


def test_whole_and_limited_splits_stand_in_rows_of_their_own() -> None:
    limited = record("cam", 0.3, 1)
    limited["spec"]["limit"] = 24
    (table,) = comparison(frame([record("cam", 0.4), limited]))
    assert [row[0] for row in table.rows] == ["cam", "cam [a]"]
    assert table.notes[-1] == "[a] only the first 24 images of each split"
    (alone,) = comparison(frame([limited]))
    assert alone.rows[0][0] == "cam"  # what is so of every row is no mark of one
    assert "only the first 24 images of each split" in alone.notes[-1]


def test_the_score_that_one_came_for_stands_beside_the_name() -> None:
    refined = record("cam", 0.35, refine="crf:vitpcm")
    refined["origins"] = {}
    larger = record("vitpcm", 0.5) | {"parameters": {"total": 30_000_000}}
    (table,) = comparison(frame([record("cam", 0.3), refined, larger]))
    assert table.columns[:5] == ["method", "val mIoU", "val +crf:vitpcm", "train mIoU", "train +crf:vitpcm"]
    assert "params" in table.columns
    assert "seeds" not in table.columns


def test_floors_and_ceilings_stand_apart_below_and_are_never_the_best() -> None:
    (table,) = comparison(frame([record("sanity-background", 0.9), record("cam", 0.3), record("vitpcm", 0.5)]))
    assert [row[0] for row in table.rows] == ["vitpcm", "cam", "sanity-background"]
    assert (table.bounds, table.first_bound) == (1, 2)
    assert {row for row, _ in table.bold} == {0, 1}  # pxap is the same for both
    lines = markdown(table).splitlines()
    first = [line.split("|")[1].strip() for line in lines[4:8]]
    assert first == ["vitpcm", "cam", "*floors and ceilings*", "sanity-background"]
    (only,) = comparison(frame([record("sanity-background", 0.9)]))
    assert only.first_bound == -1


def test_an_experiment_names_its_rows_and_reads_records_of_before_a_setting() -> None:
    registry = Registry()
    grid = {"methods": "cam,vitpcm", "each": {"L_MCE": {"vitpcm.equivariance": False}, "+ L_ET": {}}}
    chosen = parse(Experiment, {"summary": "", "run": [grid]})
    specs = [one.spec.model_dump(mode="json") for one in expand(chosen.grids, registry)]
    data = {"train": "a", "val": "b"}
    rows = [record(one["method"], 0.3) | {"spec": one, "key": str(n), "data": data} for n, one in enumerate(specs)]
    del rows[0]["spec"]["params"]["epochs"]  # as records made before there was such a setting
    elsewhere = record("cam", 0.9)
    found = named(only(frame([*rows, elsewhere]), [chosen], registry), [chosen], registry)
    assert set(found.key) == {"0", "1", "2"}
    assert {(row.method, row.name_) for row in found.rename(columns={"name": "name_"}).itertuples()} == {
        ("cam", ""), ("vitpcm", "L_MCE"), ("vitpcm", "+ L_ET"),
    }  # fmt: skip
    (table,) = comparison(found)
    assert sorted(row[0].split(" [")[0] for row in table.rows) == ["+ L_ET", "L_MCE", "cam"]
    assert "settings" not in table.columns


def test_a_colour_is_a_method_s_own_in_every_figure() -> None:
    rows = [record("cam", 0.3), record("vitpcm", 0.5), record("dino", 0.2)]
    results = coloured(frame(rows))
    every = scored(results, "val")
    assert dict(zip([one.label for one in every], colours(every), strict=True)) == {"vitpcm": 0, "cam": 1, "dino": 2}
    assert colours(scored(results[results.method != "vitpcm"], "val")) == [1, 2]
    same = [every[0], every[0], every[1]]
    assert colours(same) == [0, 1, 2]  # never one colour twice


def test_a_figure_belongs_to_one_protocol_as_a_table_does() -> None:
    rows = [record("cam", 0.3), record("vitpcm", 0.5, background="fixed:0.2"), record("dino", 0.3)]
    assert [(name, set(own.method)) for name, own in by_protocol(frame(rows))] == [
        ("strict", {"vitpcm"}), ("strict-2", {"cam", "dino"}),
    ]  # fmt: skip


def test_an_oracle_is_marked_and_never_the_best() -> None:
    oracle = record("sanity-oracle", 0.9)
    oracle["supervision"] = ["masks"]
    oracle["ground_truth"] = [
        {"what": "pixels", "split": split, "for": "the scores themselves", "allowed": False}
        for split in ("train", "val")
    ]
    (table,) = comparison(frame([record("vitpcm", 0.5), oracle]))
    column = table.columns.index("val mIoU")
    assert [table.rows[row][0] for row, where in table.bold if where == column] == ["vitpcm"]
    assert "[a] ground truth used: pixels of train and val, for the scores themselves" in table.notes
    assert "**50.0 [48.0–53.0]**" in markdown(table)


def test_a_refiner_is_a_column_and_what_was_not_run_says_so() -> None:
    refined = record("vitpcm", 0.55, refine="crf:vitpcm")
    refined["origins"] = {}
    (table,) = comparison(frame([record("vitpcm", 0.5), refined, record("cam", 0.4)]))
    assert cell(table, "vitpcm", "val +crf:vitpcm").startswith("55.0")
    assert cell(table, "cam", "val +crf:vitpcm") == "not run"


def test_a_part_of_an_official_split_is_no_score_of_it() -> None:
    (table,) = comparison(frame([record("cam", 0.4, dataset="voc12")]))
    assert "val: 2 of 1449 official images, so these are not voc12 scores" in table.notes


def test_cells_without_a_score_say_why() -> None:
    failed = {**record("cam", 0.4), "status": "failed", "reason": "RuntimeError: no luck"}
    unscored = {**record("vitpcm", 0.4), "metrics": {}}
    table = unfinished(frame([failed, unscored, record("dino", 0.2)]))
    assert table is not None
    assert [row[2] for row in table.rows] == [
        "RuntimeError: no luck", "no ground truth to score against; its masks are made",
    ]  # fmt: skip
    assert table.sources == {(0, 3): [failed["key"]], (1, 3): [unscored["key"]]}


def test_sensitivity_takes_differences_seed_by_seed_and_only_within_a_training() -> None:
    rows = [
        record("cam", 0.3, 0), record("cam", 0.4, 1), record("cam", 0.36, 0, flip="mean"),
        record("cam", 0.5, 1, flip="mean"), record("dino", 0.2), record("vitpcm", 0.9, 0, flip="mean"),
    ]  # fmt: skip
    results = frame(copy.deepcopy(rows))
    assert set(shared(results).method) == {"cam"}  # dino has one protocol, vitpcm no base
    (table,) = sensitivity(results)
    assert table.rows[1][table.columns.index("cam vit_s16 val")] == "43.0 (+8.0)"
    assert any("8.0 points are protocol" in note for note in table.notes)


def test_a_score_of_fewer_seeds_than_its_neighbours_says_so() -> None:
    rows = [record("cam", miou, seed) for seed, miou in enumerate((0.3, 0.4, 0.5))]
    rows += [record("cam", 0.36, 1, refine="crf:irn"), record("vitpcm", 0.6), record("vitpcm", 0.62, refine="crf:irn")]
    (table,) = comparison(frame(rows))
    assert cell(table, "cam", "val mIoU") == "40.0 ± 10.0 [38.0–43.0]"
    assert cell(table, "cam", "val +crf:irn") == "36.0 [34.0–39.0] [a]"
    assert "[a] of seed 1 only" in table.notes
    assert cell(table, "vitpcm", "val +crf:irn") == "62.0 [60.0–65.0]"
    (moved,) = sensitivity(frame([*rows[:4], record("cam", 0.2, 0, flip="mean"), record("cam", 0.4, 2, flip="mean")]))
    found = {row[0]: row[moved.columns.index("cam vit_s16 val")] for row in moved.rows}
    assert found == {
        "protocol strict": "40.0", "flip=mean": "30.0 (-10.0) [a]", "refine=crf:irn": "36.0 (-4.0) [b]",
    }  # fmt: skip
    assert moved.notes[-2:] == ["[a] of seeds 0,2 only", "[b] of seed 1 only"]


def test_what_was_changed_of_every_protocol_is_no_part_of_the_sensitivity_to_it() -> None:
    rows = [record("cam", miou, size=448, **changed) for miou, changed in ((0.3, {}), (0.4, {"flip": "mean"}))]
    (table,) = sensitivity(frame(rows))
    assert [row[0] for row in table.rows] == ["protocol strict", "flip=mean"]
    assert "all with size=448" in table.notes


@pytest.mark.parametrize("empty", [[], [{**record("cam", 0.4), "status": "skipped", "reason": "no"}]])
def test_nothing_done_is_no_table(empty: list[dict[str, Any]]) -> None:
    assert comparison(frame(empty)) == []


def test_footnotes_go_on_after_z() -> None:
    assert [mark(number) for number in (0, 25, 26, 51, 52, 26 + 26**2)] == ["a", "z", "aa", "az", "ba", "aaa"]


def test_a_refiner_is_called_by_its_name_and_its_settings_are_a_note() -> None:
    """Of several of one preset those settings tell them apart in which they differ."""
    settings = {"epochs": 8, "crop": 224}
    irn = record("cam", 0.5, refine="irn")
    irn["spec"]["refiner"] = settings
    (table,) = comparison(frame([record("cam", 0.4), irn]))
    assert "val +irn [a]" in table.columns
    assert "[a] irn with crop=224, epochs=8" in table.notes
    (both,) = comparison(frame([record("cam", 0.4), irn, record("cam", 0.6, refine="irn")]))
    assert {"val +irn", "val +irn(crop=224, epochs=8)"} < set(both.columns)
    assert "irn with" not in " ".join(both.notes)
    soft = record("cam", 0.6, refine="irn")
    soft["spec"]["refiner"] = {"epochs": 8, "beta": 5, "crop": 224}
    (both,) = comparison(frame([irn, soft]))
    assert {"val +irn [a]", "val +irn(beta=5) [a]"} < set(both.columns)
    assert "[a] irn with crop=224, epochs=8" in both.notes


def test_of_a_cell_that_was_run_again_by_a_newer_stage_the_newest_record_counts() -> None:
    """A failure does not replace a score, and another source of the method is another row."""
    first, again = record("cam", 0.4), record("cam", 0.6) | {"key": "again", "ended": "2026-02-01T00:00:00Z"}
    failed = record("cam", 0.4) | {"key": "failed", "ended": "2026-03-01T00:00:00Z", "status": "failed", "metrics": {}}
    other = record("cam", 0.5) | {"key": "other", "method_version": "0" * 16}
    assert set(newest(frame([again, first, failed, other])).key) == {"again", "other"}
    assert set(newest(frame([record("cam", 0.4, seed=seed) for seed in (0, 1)])).seed) == {0, 1}
    labels = [series.label for series in scored(frame([first, other]), "val")]
    assert labels == ["cam (other)", f"cam ({first['key'][:8]})"]


def test_masks_of_two_folders_of_one_name_are_two_rows() -> None:
    def brought(key: str, miou: float, maps: str) -> dict[str, Any]:
        artefacts = {"fit": None, "splits": {"val": {"score": maps}}}
        return record("external", miou) | {"key": key, "artefacts": artefacts}

    found = frame([brought("first", 0.4, "a" * 20), brought("other", 0.6, "b" * 20)])
    assert len(newest(found)) == len(found)
    (table,) = comparison(found)
    assert [row[table.columns.index("val mIoU")] for row in table.rows] == ["60.0 [58.0–63.0]", "40.0 [38.0–43.0]"]
    assert sum(note.endswith("other rows of external are of another folder") for note in table.notes) == 2
    assert len(scored(found, "val")) == 2


def test_tables_whose_titles_begin_alike_are_files_of_their_own() -> None:
    """A name ends after 80 characters: what differs later must not make one file write over another."""
    titles = ["x" * 80 + "a", "x" * 80 + "b", "short", "short", "short-2"]
    files = FORMATS["csv"]([Table(title, [title], []) for title in titles])
    assert [text.strip() for text in files.values()] == titles
    assert [*files][2:] == ["short.csv", "short-2.csv", "short-2-2.csv"]
