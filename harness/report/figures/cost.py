"""What methods cost: the seconds of their trainings against mIoU."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from statistics import fmean

import pandas as pd

from harness.report.figures.canvas import (
    COLOURS,
    PAGE,
    SMALL,
    Drawn,
    LeftOut,
    finish,
    logarithmic,
    new_figure,
    nothing,
    tidy,
)
from harness.report.figures.names import Named, write_names
from harness.report.figures.series import contenders, scored
from harness.results.record import Record

_TRAININGS = ("fit", "fit_refiner")


def cost_figure(results: pd.DataFrame, path: Path, split: str) -> Drawn:
    """Draw the minutes of training against mIoU.

    Parameters
    ----------
    results : DataFrame
        Rows of one dataset and protocol, as `load_results` gives them.
    path : Path
        Where to write, without a suffix.
    split : str

    Returns
    -------
    Drawn
        Left out are floors and ceilings, methods that do not train, and trainings on other devices than most of them.
    """
    left = LeftOut()
    found = contenders(scored(results, split), left)
    costs = {one.label: fmean(map(training_seconds, one.rows.record)) for one in found}
    devices = {one.label: _devices(one.rows.record) for one in found}
    most = pd.Series([name for name in devices.values() if name], dtype=str).mode()
    device = most.iloc[0] if len(most) else ""
    caption = (
        f"minutes of all trainings behind a score, on {device}, against mIoU on {split}; of several seeds: the means"
    )
    left.add("no training", *(label for label, seconds in costs.items() if not seconds))
    left.add("on another device", *(label for label, name in devices.items() if name not in ("", device)))
    shown = [one for one in found if costs[one.label] and devices[one.label] == device]
    if len(shown) < 2:
        return nothing(path, caption, left, "nothing to compare: fewer than two trainings")
    figure = new_figure(PAGE, 4.2)
    axis = figure.subplots()
    points = []
    for one in shown:
        colour = COLOURS[one.preferred]
        points.append(Named(one.label, costs[one.label] / 60, 100 * one.miou, colour))
        axis.plot(points[-1].x, points[-1].y, "o", color=colour, markersize=5)
    logarithmic(axis, [point.x for point in points])
    axis.margins(y=0.1)
    axis.set_xlabel("minutes of training", fontsize=SMALL + 1)
    axis.set_ylabel(f"mIoU on {split} (%)", fontsize=SMALL + 1)
    tidy(axis, "both")
    figure.draw_without_rendering()  # settles where everything is
    left.add("no room for the names of", *write_names(axis, points))
    return finish(figure, path, caption, left)


def training_seconds(record: Record) -> float:
    """Return the seconds of all trainings behind a record: its own, those that it started from, and its refiner's."""
    return float(sum(stage["seconds"] for stage in record.get("stages", []) if stage["stage"] in _TRAININGS))


def _devices(records: Iterable[Record]) -> str:
    stages = [stage for record in records for stage in record.get("stages", []) if stage["stage"] in _TRAININGS]
    return ", ".join(dict.fromkeys(stage["device"] for stage in stages))
