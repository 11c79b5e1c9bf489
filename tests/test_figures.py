"""Figures: what is drawn against numbers worked out by hand, read from the artists rather than from pixels."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from safetensors.numpy import save

from harness.data.base import Dataset, save_mask, voc_palette
from harness.errors import UserError
from harness.metrics import Confusions, confusion
from harness.report.dataframe import frame
from harness.report.figures import (
    Drawn,
    class_bars,
    confusion_matrix,
    extreme_images,
    heatmaps_figure,
    learning_curves,
    qualitative_figure,
    threshold_curves,
)
from harness.results.store import Store
from harness.run.record import split_metrics
from harness.strict import digest
from tests.stores import publish
from tests.test_report import record

PALETTE = np.array(voc_palette()).reshape(-1, 3)

TRUTH = {"a": [[0, 0, 1, 1]] * 2, "b": [[0, 0, 2, 2]] * 2, "c": [[0, 255, 1, 2]] * 2}
GOOD = TRUTH | {"c": [[0, 0, 1, 2]] * 2}
BAD = {"a": [[0, 0, 0, 0]] * 2, "b": [[0, 0, 1, 1]] * 2, "c": [[0, 0, 1, 2]] * 2}


class Tiny(Dataset):
    name = "tiny"
    classes = ("background", "kite", "shell")

    def image_path(self, image_id: str) -> Path:
        return self.root / f"{image_id}.png"

    def mask_path(self, image_id: str) -> Path:
        return self.root / f"{image_id}-mask.png"


@pytest.fixture
def tiny(tmp_path: Path) -> Tiny:
    """Three images of 2 x 4 pixels."""
    (tmp_path / "tiny").mkdir()
    dataset = Tiny(tmp_path / "tiny")
    for number, (image_id, mask) in enumerate(TRUTH.items()):
        Image.new("RGB", (4, 2), (40 * number, 90, 90)).save(dataset.image_path(image_id))
        save_mask(dataset.mask_path(image_id), np.array(mask, np.uint8))
    return dataset


@pytest.fixture
def store(tmp_path: Path) -> Store:
    made = Store(tmp_path / "results", create=True)
    labels = [[1, 1, 0], [1, 0, 1], [1, 1, 1]]
    given = {"ids": list(TRUTH), "sizes": [[2, 4]] * 3, "labels": labels}
    publish(made, "labels", digest("labels"), {"labels.json": json.dumps(given).encode()})
    return made


def add(
    store: Store, method: str, masks: dict[str, Any], seed: int = 0, refine: str = "none",
    sweep: Sequence[float] = (0.1, 0.3, 0.2), losses: Sequence[float] = (),
) -> None:  # fmt: skip
    """Add a cell that is done, with artefacts of every stage."""
    model, made = digest([method, seed]), digest([method, seed, refine])
    arrays = {image_id: np.array(mask, np.uint8) for image_id, mask in masks.items()}
    folder = store.work(f"masks-{made}")
    folder.mkdir()
    for image_id, mask in arrays.items():
        save_mask(folder / f"{image_id}.png", mask)
    publish(store, "mask", made, {path.name: path.read_bytes() for path in folder.iterdir()})
    counted = [confusion(np.array(TRUTH[image_id], np.uint8), mask, [0, 1, 2]) for image_id, mask in arrays.items()]
    Confusions.gather(counted, 3).save(folder / "confusion.npy")
    files = {"confusion.npy": (folder / "confusion.npy").read_bytes(), "ids.json": json.dumps(list(masks)).encode()}
    publish(store, "evaluate", made, files)
    if store.artefact("curve", model) is None:
        curve = {"pxap": 0.25, "ap": [0.2, 0.3], "sweep": list(sweep), "threshold": 0.0}
        publish(store, "curve", model, {"curve.json": json.dumps(curve).encode()})
        maps = {f"map:{image_id}": np.array([[[4, 0]], [[1, 2]], [[0, 8]]], np.float16) for image_id in masks}
        about = json.dumps({"output": "probability", "background": True}).encode()
        publish(store, "score", model, {"scores-0000.safetensors": save(maps), "scores.json": about})
    place = {
        "labels": digest("labels"), "score": model, "curve": model, "mask": [made], "evaluate": [made],
    }  # fmt: skip
    done = record(method, 0.5, seed, "tiny", refine=refine)
    curves = [{"epoch": epoch, "lr": 0.1, "bce": loss} for epoch, loss in enumerate(losses, 1)]
    done |= {
        "curves": curves,
        "key": made,
        "classes": list(Tiny.classes),
        "artefacts": {"fit": model, "splits": {"val": place}},
    }
    store.write_record(done | {"metrics": {"val": split_metrics(store, place, "pooled")}})


def drawn(result: Drawn) -> Any:
    """Return the figure, after a look at its files."""
    assert [path.suffix for path in result.files] == [".png", ".svg"]
    assert result.files[0].read_bytes().startswith(b"\x89PNG")
    assert b"<svg" in result.files[1].read_bytes()
    return result.figure


def rows(store: Store) -> pd.DataFrame:
    return frame(store.records())


def headings(figure: Any) -> list[str]:
    return [axis.get_title() for axis in figure.axes if axis.get_title()]


def images(figure: Any, column: int) -> list[np.ndarray]:
    """Return what is drawn in a column of panels, top to bottom."""
    columns = figure.axes[0].get_subplotspec().get_gridspec().ncols
    panels = [axis for axis in figure.axes if axis.get_subplotspec() and axis.get_label() != "<colorbar>"]
    return [np.asarray(axis.images[0].get_array()) for axis in panels[column::columns]]


def test_bars_are_means_over_seeds_with_their_spread_and_the_unknown_is_told(tmp_path: Path) -> None:
    records = [record("vitpcm", 0.4, 0), record("vitpcm", 0.6, 1), record("cam", 0.2)]
    records[2]["metrics"]["val"]["iou"][1] = None
    result = class_bars(frame(records), tmp_path / "bars", "val")
    bars, thin = (box for box in drawn(result).axes[0].containers if hasattr(box, "patches"))
    assert [bar.get_width() for bar in bars] == pytest.approx([50, 50, 50])  # background, kite, mean
    (spread,) = bars.errorbar.lines[2]
    assert spread.get_segments()[0][:, 0] == pytest.approx([50 - 200**0.5, 50 + 200**0.5])  # of 40 and 60
    assert thin.errorbar is None
    assert np.isnan(thin[1].get_width())
    assert "cam: in neither truth nor prediction: kite" in result.left_out


def test_more_methods_than_colours_leave_the_lowest_out(tmp_path: Path) -> None:
    records = [record(f"method{number}", 0.1 + number / 20) for number in range(9)]
    oracle = record("sanity-oracle", 1.0) | {"supervision": ["masks"]}
    result = class_bars(frame([*records, oracle]), tmp_path / "bars", "val")
    assert result.left_out == ("below the best 7: method1, method0, sanity-oracle",)


def test_several_seeds_are_a_mean_with_a_band_and_one_is_a_thin_line(store: Store, tmp_path: Path) -> None:
    add(store, "vitpcm", GOOD, 0, losses=[0.8, 0.6])
    add(store, "vitpcm", GOOD, 1, losses=[0.6, 0.2])
    add(store, "vitpcm", GOOD, 1, "crf:vitpcm")  # the same training
    add(store, "cam", BAD, losses=[0.9, 0.5, 0.4])
    add(store, "dino", BAD)
    result = learning_curves(rows(store), tmp_path / "learning")
    loss, rate = drawn(result).axes[:2]
    assert (loss.get_title(), rate.get_title()) == ("loss: bce", "learning rate")
    lines = {line.get_label(): line for line in loss.lines}
    assert lines.keys() == {"vitpcm", "cam"}
    assert lines["vitpcm"].get_xydata().ravel() == pytest.approx([1, 0.7, 2, 0.4])
    assert lines["cam"].get_ydata() == pytest.approx([0.9, 0.5, 0.4])
    assert lines["cam"].get_linewidth() < lines["vitpcm"].get_linewidth()
    (band,) = loss.collections
    low, high = band.get_paths()[0].vertices[:, 1].min(), band.get_paths()[0].vertices[:, 1].max()
    assert (low, high) == pytest.approx((0.4 - 0.08**0.5, 0.7 + 0.02**0.5))  # ± std of 0.6, 0.2 and of 0.8, 0.6
    assert result.left_out == ("does not train: dino",)


def test_a_record_of_a_time_without_curves_is_left_out_of_them(store: Store, tmp_path: Path) -> None:
    add(store, "vitpcm", GOOD, losses=[0.8, 0.6])
    found = rows(store)
    for one in found.record:
        del one["curves"]
    assert learning_curves(found, tmp_path / "learning").left_out == ("recorded without its curves: vitpcm",)


def test_what_a_refiner_learned_is_a_figure_of_its_own(store: Store, tmp_path: Path) -> None:
    add(store, "vitpcm", GOOD, losses=[0.8, 0.6])
    add(store, "vitpcm", GOOD, refine="irn")
    found = rows(store)
    refined = found.record[found.refine == "irn"].iloc[0]
    refined["artefacts"]["fit_refiner"] = digest("irn")
    refined["stages"] = [{"stage": "fit_refiner", "curves": [{"epoch": 1, "lr": 0.1, "pairs": 0.7}]}]
    (pairs, rate) = drawn(learning_curves(found, tmp_path / "learning", "fit_refiner")).axes[:2]
    assert (pairs.get_title(), rate.get_title()) == ("loss: pairs", "learning rate")
    assert [(line.get_label(), *line.get_ydata()) for line in pairs.lines] == [("vitpcm +irn", 0.7)]


def test_threshold_curves_peak_where_their_dot_is(store: Store, tmp_path: Path) -> None:
    add(store, "vitpcm", GOOD, sweep=[0.2, 0.4, 0.6, 0.1])
    add(store, "vitpcm", GOOD, refine="crf:vitpcm")
    (axis,) = drawn(threshold_curves(rows(store), store, tmp_path / "t", "val")).axes
    curve, dot, fixed = axis.lines
    assert curve.get_xydata().ravel() == pytest.approx([0, 20, 0.25, 40, 0.5, 60, 0.75, 10])
    assert dot.get_xydata().ravel() == pytest.approx([0.5, 60])
    assert curve.get_label() == "vitpcm (PxAP 25.0)"
    assert list(fixed.get_xdata()) == [0.4, 0.4]  # the protocol's


def test_a_confusion_matrix_is_in_per_cent_of_its_rows_over_all_seeds(store: Store, tmp_path: Path) -> None:
    add(store, "vitpcm", GOOD, 0)
    add(store, "vitpcm", GOOD | {"a": [[0, 255, 1, 2]] * 2}, 1)
    add(store, "cam", BAD)
    result = confusion_matrix(rows(store), store, tmp_path / "c", "val")
    axis = drawn(result).axes[0]
    # Background has 10 pixels in each seed, 2 of them none of these in the second; kite has 6, 2 of them shell.
    expected = [[90, 0, 0, 10], [0, 100 * 10 / 12, 100 * 2 / 12, 0], [0, 0, 100, 0]]
    assert np.asarray(axis.images[0].get_array()) == pytest.approx(np.array(expected))
    assert [text.get_text() for text in axis.texts] == ["90", "10", "83", "17", "100"]
    assert [text.get_text() for text in axis.get_xticklabels()][-1] == "none of these"
    assert result.left_out == ("scores less: cam",)


def test_figure_4_draws_each_present_class_the_argmax_and_what_refines_it(
    store: Store, tiny: Tiny, tmp_path: Path
) -> None:
    add(store, "vitpcm", GOOD)
    add(store, "vitpcm", BAD, refine="crf:vitpcm")
    add(store, "cam", BAD)
    result = heatmaps_figure(rows(store), tiny, store, tmp_path / "h", "val", images=["b", "c"])
    figure = drawn(result)
    assert headings(figure) == [
        "image", "background", "shell", "argmax", "+crf:vitpcm", "ground truth", "background", "kite", "shell",
    ]  # fmt: skip
    heats = [axis.images[1].get_array() for axis in figure.axes if len(axis.images) == 2]
    assert len(heats) == 5
    assert np.asarray(heats[0])[:, [0, 3]] == pytest.approx(np.array([[1, 0]] * 2))  # background: 4 and 0 over 4
    assert np.asarray(heats[3])[:, [0, 3]] == pytest.approx(np.array([[0.5, 1]] * 2))  # kite: 1 and 2 over 2
    for column, masks in ((4, GOOD), (5, BAD), (6, TRUTH)):
        for shown, image_id in zip(images(figure, column), ("b", "c"), strict=True):
            assert np.array_equal(shown, PALETTE[np.array(masks[image_id])])
    assert result.left_out == ("scores less: cam",)


def test_figure_6_has_a_line_for_each_image_and_a_column_for_each_method(
    store: Store, tiny: Tiny, tmp_path: Path
) -> None:
    add(store, "cam", BAD)
    add(store, "vitpcm", GOOD)
    results = rows(store)
    figure = drawn(qualitative_figure(results, tiny, store, tmp_path / "q", "val", images=["c", "a"]))
    assert headings(figure) == ["image", "ground truth", "vitpcm", "cam"]  # the better first
    for column, masks in ((1, TRUTH), (2, GOOD), (3, BAD)):
        for shown, image_id in zip(images(figure, column), ("c", "a"), strict=True):
            assert np.array_equal(shown, PALETTE[np.array(masks[image_id])])
    (colours,) = figure.legends
    assert [text.get_text() for text in colours.texts] == ["background", "kite", "shell", "not labelled"]
    with pytest.raises(UserError, match=r"no image 'd' was scored on val: known: a, b, c"):
        qualitative_figure(results, tiny, store, tmp_path / "q", "val", images=["d"])

    def lot(seed: int) -> list[str]:
        figure = qualitative_figure(results, tiny, store, tmp_path / "q", "val", count=2, seed=seed).figure
        return [axis.get_ylabel() for axis in figure.axes if axis.get_ylabel()]

    assert lot(1) == lot(1)
    assert len({tuple(lot(seed)) for seed in range(6)}) > 1


def test_extremes_are_by_the_images_own_score_and_each_image_is_there_once(
    store: Store, tiny: Tiny, tmp_path: Path
) -> None:
    add(store, "vitpcm", GOOD)
    add(store, "cam", BAD)
    figure = drawn(extreme_images(rows(store), tiny, store, tmp_path / "e", "val", count=1))
    assert [axis.get_ylabel() for axis in figure.axes if axis.get_ylabel()] == ["best\nc", "worst\na", "disagree\nb"]
    # a: kite 0 and background 1/2; b: kite and shell 0, background 1.
    assert [axis.get_xlabel() for axis in figure.axes if axis.get_xlabel()] == [
        "100.0", "100.0", "100.0", "25.0", "100.0", "33.3",
    ]  # fmt: skip
    alone = rows(store)
    alone = alone[alone.method == "cam"]
    assert extreme_images(alone, tiny, store, tmp_path / "e", "val", 1).left_out == (
        "there is one method only: disagreement",
    )


def test_one_damaged_mask_is_left_out_and_the_rest_is_drawn(store: Store, tiny: Tiny, tmp_path: Path) -> None:
    add(store, "vitpcm", GOOD)
    add(store, "cam", BAD)
    (store.need("mask", digest(["cam", 0, "none"])).path / "a.png").write_bytes(b"")
    result = qualitative_figure(rows(store), tiny, store, tmp_path / "q", "val", images=["a", "b"])
    drawn(result)
    assert result.left_out == ("no mask artefact: cam",)
