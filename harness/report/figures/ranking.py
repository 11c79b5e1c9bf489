"""The ranking as a figure: bars join methods that the images cannot tell apart."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from harness.report.figures.canvas import COLOURS, PAGE, SMALL, Drawn, LeftOut, finish, new_figure, nothing, tidy
from harness.report.ranking import ranked, runs
from harness.results.store import Store


def ranking_figure(results: pd.DataFrame, store: Store, path: Path, split: str) -> Drawn:
    """Draw methods by mIoU with intervals over images, every seed, and a bar beside those that cannot be told apart.

    Parameters
    ----------
    results : DataFrame
        Rows of one dataset and protocol, as `load_results` gives them.
    store : Store
        Holds the confusion matrices.
    path : Path
        Where to write, without a suffix.
    split : str

    Returns
    -------
    Drawn
        Left out are floors and ceilings, and methods whose matrices are gone.
    """
    caption = (
        f"mIoU on {split} with 95 % intervals over images, the mean over seeds; small points: each seed; a bar on the "
        "right joins methods whose paired difference over the same images is not distinguishable from 0"
    )
    left, without = LeftOut(), list[str]()
    found = ranked(results, split, store, without)
    left.add("without confusion matrices of these images", *without)
    if len(found.series) < 2:
        return nothing(path, caption, left, "fewer than two methods to rank")
    figure = new_figure(PAGE, 0.9 + 0.28 * len(found.series))
    axis = figure.subplots()
    for place, one in enumerate(found.methods):
        colour = COLOURS[one.series.preferred]
        seeds = one.miou if len(one.miou) > 1 else one.miou[:0]
        axis.plot(found.intervals[place], [place, place], color=colour, linewidth=2, solid_capstyle="butt")
        axis.plot(found.miou[place], place, "o", color=colour, markersize=6)
        axis.plot(seeds, [place] * len(seeds), ".", color=colour, markersize=5, alpha=0.7)
    low, edge = found.intervals.min(), found.intervals.max()
    step = 0.02 * (edge - low or 1)
    for number, (first_of, last_of) in enumerate(runs(found.tied), 1):
        beside = edge + (number + 0.5) * step
        axis.plot([beside, beside], [first_of - 0.15, last_of + 0.15], color="0.25", linewidth=2.5, clip_on=False)
    axis.set_yticks(range(len(found.series)), [one.label for one in found.series], fontsize=SMALL)
    axis.set_ylim(len(found.series) - 0.5, -0.5)
    axis.set_xlabel(f"mIoU on {split} (%)", fontsize=SMALL + 1)
    tidy(axis, "x")
    return finish(figure, path, caption, left)
