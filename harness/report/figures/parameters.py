"""Figure 5: parameters against mIoU."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from harness.report.accounting import UNKNOWN, accounts
from harness.report.dataframe import once
from harness.report.figures.canvas import (
    COLOURS,
    PAGE,
    SMALL,
    Drawn,
    LeftOut,
    finish,
    legend,
    logarithmic,
    new_figure,
    nothing,
    tidy,
)
from harness.report.figures.names import Named, write_names
from harness.report.figures.series import scored, series_of
from harness.report.published import Score
from harness.strict import canonical

_BLUE, _RED, _BLACK = COLOURS[0], COLOURS[1], COLOURS[-1]
_MARKERS = {"bpm": ("*", 90), "segmentation": ("s", 26)}  # and their areas
MEASURED = 12  # methods and settings, the best ones


@dataclass(frozen=True)
class Point:
    """A method in the figure.

    Attributes
    ----------
    name : str
    stage : {"bpm", "segmentation"}
    millions, miou, spread : float
        Parameters; mIoU and its standard deviation over seeds, in per cent.
    colour : str
    measured : bool
        Whether by a record, and not by somebody else.
    """

    name: str
    stage: str
    millions: float
    miou: float
    spread: float
    colour: str
    measured: bool


def parameters_figure(
    results: pd.DataFrame, scores: Sequence[Score], path: Path, dataset: str = "voc12", split: str = "val"
) -> Drawn:
    """Draw Figure 5: the parameters of all networks in the pipeline against its mIoU.

    A star is a baseline pseudo-mask, a square the output of a segmentation network; a line joins those of one method.

    Parameters
    ----------
    results : DataFrame
        As `load_results` gives them; the best few without a refiner are drawn, filled, with their records' `total`, and
        what was trained on their masks with its `pipeline`.
    scores : sequence of Score
        From `harness.report.published.published`; drawn hollow, with the parameters of `configs/parameters.yaml`.
    path : Path
        Where to write, without a suffix.
    dataset, split : str

    Returns
    -------
    Drawn
        Left out are scores of methods whose parameters are not known, and stars that nobody has published.
    """
    left = LeftOut()
    ours = _measured(results[(results.dataset == dataset) & (results.refine == "none")], split, left)
    points = [*_published(scores, dataset, split, left), *ours]
    caption = (
        f"parameters against mIoU on {dataset} {split}. Star: baseline pseudo-masks; square: output of a segmentation "
        "network; hollow: published, each under its source's protocol; filled: measured here. Counted: "
        f"{accounts().convention}"
    )
    if not points:
        return nothing(path, caption, left, f"nothing of {dataset} {split}")
    figure = new_figure(PAGE, 4.6)
    axis = figure.subplots()
    logarithmic(axis, [p.millions for p in points])
    low, high = min(p.miou - p.spread for p in points), max(p.miou + p.spread for p in points)
    axis.set_ylim(max(0, low - 0.08 * (high - low) - 1), high + 0.08 * (high - low) + 1)
    axis.set_xlabel("parameters of all networks in the pipeline (million)", fontsize=SMALL + 1)
    axis.set_ylabel(f"mIoU on {dataset} {split} (%)", fontsize=SMALL + 1)
    tidy(axis, "both")
    _join(axis, points)
    _mark(axis, points)
    legend(figure, _keys(axis, points))
    figure.draw_without_rendering()  # settles where everything is
    named = [Named(point.name, point.millions, point.miou, point.colour) for point in points]
    left.add("no room for the names of", *write_names(axis, named))
    return finish(figure, path, caption, left)


def _published(scores: Sequence[Score], dataset: str, split: str, left: LeftOut) -> list[Point]:
    """Return published scores; the same one from two sources once."""
    known = accounts()
    points: dict[tuple[str, str, float], Point] = {}
    for score in scores:
        if (score.dataset, score.split, score.metric) != (dataset, split, "miou") or score.stage not in _MARKERS:
            continue
        name, account = known.of(score) or (f"{score.label} {score.network}".strip(), None)
        networks = account.networks(score.stage) if account else ()
        if not networks:
            what = name if score.stage == "segmentation" else f"{name} (BPM)"
            left.add(account.unknown if account else UNKNOWN, what)
            continue
        colour = _RED if account and account.paper else _BLUE
        point = Point(name, score.stage, known.millions(networks), score.value, 0, colour, measured=False)
        points.setdefault((name, score.stage, round(score.value, 1)), point)
    stars = {point.name for point in points.values() if point.stage == "bpm"}
    without = sorted({point.name for point in points.values()} - stars)
    left.add(f"no star, for no baseline pseudo-masks on {split} are published", *without)
    return list(points.values())


def _measured(results: pd.DataFrame, split: str, left: LeftOut) -> list[Point]:
    points: list[Point] = []
    rows = results[results.split == split]
    verified = rows[rows.verified.notna()]
    squares = verified.groupby(
        [
            [series_of(record) for record in verified.record],
            [canonical(record["spec"]["verifier"]) for record in verified.record],
        ]
    )
    for series in scored(once(rows), split):
        total = series.rows.parameters.iloc[0]
        if not total or np.isnan(total):
            left.add("no parameters", series.label)
            continue
        if sum(point.stage == "bpm" for point in points) == MEASURED:
            left.add(f"below the best {MEASURED}", series.label)
            continue
        points.append(_point(series.label, "bpm", total, series.rows.miou))
        points += [
            _point(series.label, "segmentation", own.pipeline.iloc[0], own.verified)
            for (key, _), own in squares
            if key == series_of(series.record)
        ]
    return points


def _point(label: str, stage: str, parameters: float, scores: pd.Series) -> Point:
    spread = 100 * scores.std(ddof=1) if len(scores) > 1 else 0.0
    return Point(label, stage, parameters / 1e6, 100 * scores.mean(), spread, _BLACK, measured=True)


def _join(axis: Any, points: Sequence[Point]) -> None:
    """Draw a line from the stars of a method to its squares."""
    for star, square in product(points, points):
        if (star.stage, square.stage) == ("bpm", "segmentation") and star.name == square.name:
            axis.plot(
                [star.millions, square.millions], [star.miou, square.miou], color=star.colour, linewidth=0.8,
                alpha=0.6, zorder=1,
            )  # fmt: skip


def _mark(axis: Any, points: Sequence[Point]) -> None:
    """Draw the markers."""
    for point in points:
        marker, area = _MARKERS[point.stage]
        axis.scatter(
            point.millions, point.miou, marker=marker, s=area, zorder=3, linewidth=0.9, edgecolor=point.colour,
            facecolor=point.colour if point.measured else "none",
        )  # fmt: skip
        if point.spread:
            axis.errorbar(point.millions, point.miou, point.spread, color=point.colour, linewidth=0.8, capsize=2)


def _keys(axis: Any, points: Sequence[Point]) -> list[Any]:
    """Return the legend's markers, of what there is."""
    kinds = {
        ("bpm", False): "baseline pseudo-masks, published",
        ("segmentation", False): "segmentation network, published",
        ("bpm", True): "baseline pseudo-masks, measured here",
        ("segmentation", True): "segmentation network, measured here",
    }
    keys = []
    for (stage, measured), label in kinds.items():
        if any((point.stage, point.measured) == (stage, measured) for point in points):
            colour = _BLACK if measured else _BLUE
            marker, area = _MARKERS[stage]
            face = colour if measured else "none"
            keys.append(axis.scatter([], [], marker=marker, s=area, edgecolor=colour, facecolor=face, label=label))
    if any(point.colour == _RED for point in points):
        keys += axis.plot([], [], color=_RED, label="the paper's own method")
    return keys
