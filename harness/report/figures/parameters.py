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
from harness.report.figures.canvas import (
    COLOURS,
    PAGE,
    SMALL,
    Drawn,
    LeftOut,
    finish,
    legend,
    new_figure,
    nothing,
    tidy,
)
from harness.report.figures.series import scored
from harness.report.published import Score

_BLUE, _RED, _BLACK = COLOURS[0], COLOURS[1], COLOURS[-1]
_MARKERS = {"bpm": ("*", 90), "segmentation": ("s", 26)}  # and their areas
MEASURED = 12  # methods and settings, the best ones
_BESIDE = 12  # points; a name that is farther away has a line to its marker
_TICKS = [tick * 10.0**power for power in range(-2, 4) for tick in (1, 2, 5)]


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
        As `load_results` gives them; the best few without a refiner are drawn, filled, with their records' `total`.
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
    axis.set_xscale("log")
    axis.set_xlim(*_room([p.millions for p in points]))
    low, high = min(p.miou - p.spread for p in points), max(p.miou + p.spread for p in points)
    axis.set_ylim(max(0, low - 0.08 * (high - low) - 1), high + 0.08 * (high - low) + 1)
    ticks = [tick for tick in _TICKS if axis.get_xlim()[0] <= tick <= axis.get_xlim()[1]]
    axis.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
    axis.minorticks_off()
    axis.set_xlabel("parameters of all networks in the pipeline (million)", fontsize=SMALL + 1)
    axis.set_ylabel(f"mIoU on {dataset} {split} (%)", fontsize=SMALL + 1)
    tidy(axis, "both")
    _join(axis, points)
    _mark(axis, points)
    legend(figure, _keys(axis, points))
    figure.draw_without_rendering()  # settles where everything is
    left.add("no room for the names of", *_name(axis, points))
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
    for series in scored(results, split):
        total = series.rows.parameters.iloc[0]
        if not total or np.isnan(total):
            left.add("no parameters", series.label)
            continue
        if len(points) == MEASURED:
            left.add(f"below the best {MEASURED}", series.label)
            continue
        spread = 100 * series.rows.miou.std(ddof=1) if len(series.rows) > 1 else 0.0
        points.append(Point(series.label, "bpm", total / 1e6, 100 * series.miou, spread, _BLACK, measured=True))
    return points


def _room(millions: Sequence[float]) -> tuple[float, float]:
    """Return limits of a logarithmic axis that leave room for names, and show three ticks at least."""
    low, high = min(millions) / 1.4, max(millions) * 1.7
    more = max(1.0, (10 * low / high) ** 0.5)
    return low / more, high * more


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


def _name(axis: Any, points: Sequence[Point]) -> list[str]:
    """Write each point's name as near to it as there is room, with a line if not beside it; return those without."""
    unnamed = []
    renderer = axis.figure.canvas.get_renderer()
    scale = axis.figure.dpi / 72
    places = axis.transData.transform([(point.millions, point.miou) for point in points])
    frame = axis.get_window_extent()
    taken = [(x - 4 * scale, y - 4 * scale, x + 4 * scale, y + 4 * scale) for x, y in places]
    angles = np.deg2rad([0, 180, 90, 270, 30, 330, 150, 210, 60, 300, 120, 240])
    order = sorted(range(len(points)), key=lambda n: (points[n].millions, points[n].miou))
    for number in order:
        point, (x, y) = points[number], places[number]
        note = axis.text(
            point.millions, point.miou, point.name, fontsize=SMALL - 1, ha="center", va="center", color=point.colour,
            bbox={"facecolor": "white", "edgecolor": "none", "alpha": 0.7, "pad": 0.3}, in_layout=False,
        )  # fmt: skip
        size = note.get_window_extent(renderer)
        wide, high = size.width / 2, size.height / 2
        for away, angle in product(range(7, 120, 5), angles):
            # The nearest side of the text is `away` points from the point.
            right, up = np.cos(angle), np.sin(angle)
            middle = (x + right * (away * scale + wide), y + up * (away * scale + high))
            box = (middle[0] - wide, middle[1] - high, middle[0] + wide, middle[1] + high)
            inside = frame.x0 < box[0] and box[2] < frame.x1 and frame.y0 < box[1] and box[3] < frame.y1
            if inside and not any(_overlap(box, other) for other in taken):
                break
        else:
            note.remove()
            unnamed.append(point.name)
            continue
        taken.append(box)
        where = axis.transData.inverted().transform(middle)
        note.set_position(where)
        if away > _BESIDE:
            axis.plot(*zip((point.millions, point.miou), where, strict=True), color=point.colour, linewidth=0.4)
    return unnamed


def _overlap(one: Sequence[float], other: Sequence[float]) -> bool:
    return one[0] < other[2] and other[0] < one[2] and one[1] < other[3] and other[1] < one[3]
