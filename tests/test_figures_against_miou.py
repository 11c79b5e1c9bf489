"""Figures of numbers against mIoU: parameters, as the paper's Figure 5 has them, and minutes of training."""

from __future__ import annotations

import copy
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from harness.errors import UserError
from harness.registry import Registry
from harness.report.accounting import Accounts, accounts
from harness.report.dataframe import frame, load_results, once
from harness.report.figures import cost_figure, parameters_figure
from harness.report.figures.series import scored
from harness.report.published import Score, published
from harness.strict import parse
from tests.test_figures import drawn
from tests.test_report import record

ROOT = Path(__file__).parent.parent
PUBLISHED = published(Registry())


def offsets(figure: Any, hollow: bool) -> set[tuple[float, float]]:
    """Return parameters and mIoU of each marker that is hollow, or that is not."""
    return {
        tuple(np.round(marker.get_offsets()[0], 3))
        for marker in figure.axes[0].collections
        if len(marker.get_offsets()) and bool(len(marker.get_facecolor())) != hollow
    }


def test_figure_5_sums_the_networks_on_the_way(tmp_path: Path) -> None:
    ours = [record("vitpcm", 0.5, 0, "voc12"), record("vitpcm", 0.6, 1, "voc12"), record("cam", 0.3, 0, "toy")]
    bare = record("sanity-random", 0.1, 0, "voc12") | {"parameters": {"total": 0}}
    result = parameters_figure(frame([*ours, bare]), PUBLISHED, tmp_path / "p")
    points = offsets(drawn(result), hollow=True)
    for point in (
        (23.55 + 24.90 + 25.06, 63.5),  # IRN
        (23.55 + 24.90 + 44.05, 68.1),  # AdvCAM
        (105.36 + 106.48 + 124.22, 64.5),  # SEAM
        (21.75 + 106.48 + 124.04, 71.9),  # MCTformer
        (105.15, 49.6),  # SC-CAM's maps
        (105.15 + 106.48 + 44.05, 66.1),  # SC-CAM
        (23.600, 61.8),  # ViT-PCM, maps of S and of B, and a segmentation network
        (89.059, 66.0),
        (89.059 + 44.05, 70.3),
    ):
        assert tuple(np.round(point, 3)) in points
    assert not any(miou in (66.2, 43.3) for _, miou in points)  # MCIS, whose saliency is not counted; L_MCE alone
    assert offsets(result.figure, hollow=False) == {(23.6, 55.0)}
    left = dict(line.split(": ", 1) for line in result.left_out)
    assert left["no star, for no baseline pseudo-masks on val are published"].split(", ")[0] == "AdvCAM"
    assert "MCIS" in left["needs a saliency detector that nobody has counted"]
    assert "WeakTr ViT-S" in left["parameters not known"]
    assert left["no parameters"] == "sanity-random"
    assert accounts().convention in result.caption


@pytest.mark.parametrize("dataset", ["voc12", "voc12-animals"])
def test_names_in_figure_5_cover_neither_each_other_nor_a_marker(dataset: str, tmp_path: Path) -> None:
    results = load_results(ROOT / "results" / "reference" / "sensitivity")
    figure = parameters_figure(results, PUBLISHED, tmp_path / "p", dataset).figure
    (axis,) = figure.axes
    renderer = figure.canvas.get_renderer()
    boxes = [text.get_window_extent(renderer) for text in axis.texts]
    assert len(boxes) > 10
    assert not any(one.overlaps(other) for one, other in combinations(boxes, 2))
    places = axis.transData.transform(list(offsets(figure, hollow=True) | offsets(figure, hollow=False)))
    assert not any(box.contains(*place) for box in boxes for place in places)
    assert all(axis.get_window_extent().contains(*corner) for box in boxes for corner in (box.min, box.max))


def test_a_network_trained_on_masks_is_a_square_beside_their_star(tmp_path: Path) -> None:
    """Two seeds, of one a verifier has been trained: a star of both, whose masks stand there once, and a square."""
    seeds = [record("cam", 0.3, 0), record("cam", 0.5, 1)]
    seeds[0]["artefacts"] = {"splits": {"val": {"evaluate": ["same"]}}}
    trained = copy.deepcopy(seeds[0])
    trained["spec"]["protocol"] |= {"verify": "deeplabv2:toy", "mask_split": "train"}
    trained["spec"]["verifier"] = {"recipe": "toy"}
    trained |= {"key": "0", "verification": {"val": {"miou": 0.42, "interval": [0.4, 0.5]}}}
    trained["verifier"] = {"pipeline": 30_000_000}
    results = frame([trained, *seeds])
    (series,) = scored(once(results), "val")
    assert (list(series.rows.seed), series.miou) == ([0, 1], pytest.approx(0.4))
    figure = drawn(parameters_figure(results, [], tmp_path / "p", "toy"))
    assert offsets(figure, hollow=False) == {(23.6, 40.0), (30.0, 42.0)}
    lines = [[*map(tuple, np.round(line.get_xydata(), 3))] for line in figure.axes[0].lines]
    assert [(23.6, 40.0), (30.0, 42.0)] in lines


def test_every_account_is_of_a_score_and_no_score_is_of_two() -> None:
    known = accounts()
    assert {name for account in known.methods.values() for name in (*account.bpm, *account.segmentation)} == set(
        known.networks
    )
    for name, account in known.methods.items():
        for fields in account.scores:
            assert any(_has(score, fields) for score in PUBLISHED), f"{name}: no score has {fields}"
    for score in PUBLISHED:
        if score.split == "val" and score.dataset == "voc12" and score.stage in ("bpm", "segmentation"):
            owners = [name for name, account in known.methods.items() if account.covers(score)]
            assert len(owners) < 2, f"{score.label} is of {owners}"


def test_a_network_that_is_not_counted_is_an_error() -> None:
    data = {"summary": "s", "convention": "c", "networks": {}, "methods": {"X": {"scores": [{}], "bpm": ["lost"]}}}
    with pytest.raises(UserError, match="method 'X' has a network that is not counted: lost"):
        parse(Accounts, data)


def _has(score: Score, fields: dict[str, str]) -> bool:
    return all(getattr(score, key) == value for key, value in fields.items())


def test_a_cost_is_of_all_trainings_behind_a_score(tmp_path: Path) -> None:
    """Minutes of a training, its parent's and its refiner's; of several seeds the means of both.

    What was trained elsewhere, if only one seed of it, cannot be set beside it.
    """

    def of(method: str, miou: float, *stages: tuple[str, float], device: str = "cpu", seed: int = 0) -> dict[str, Any]:
        facts = [{"stage": name, "seconds": seconds, "device": device} for name, seconds in stages]
        return record(method, miou, seed=seed) | {"stages": facts}

    results = frame([
        of("cam", 0.2, ("fit", 60.0), ("score", 999.0)),
        of("cam", 0.4, ("fit", 180.0), seed=1),
        of("recam", 0.4, ("fit", 60.0), ("fit", 90.0), ("fit_refiner", 30.0)),
        of("seam", 0.5, ("fit", 60.0), device="another"),
        of("ppc", 0.5, ("fit", 60.0)),
        of("ppc", 0.5, ("fit", 60.0), device="another", seed=1),
        of("dino", 0.2, ("score", 10.0)),
    ])  # fmt: skip
    result = cost_figure(results, tmp_path / "cost", "val")
    (axis,) = drawn(result).axes
    points = [(line.get_xdata()[0], line.get_ydata()[0]) for line in axis.lines if line.get_marker() == "o"]
    assert points == [(3.0, pytest.approx(40)), (2.0, pytest.approx(30))]
    assert {text.get_text() for text in axis.texts} == {"cam", "recam"}
    assert result.left_out == ("no training: dino", "on another device: ppc, seam")
    assert "on cpu" in result.caption
