"""Figures of curves: losses over epochs, and mIoU over background thresholds."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from harness.report.figures.canvas import (
    COLOURS,
    PAGE,
    SMALL,
    STYLES,
    Drawn,
    LeftOut,
    finish,
    legend,
    new_figure,
    nothing,
    tidy,
)
from harness.report.figures.series import Series, colours, scored
from harness.results.record import Record, curves_of
from harness.results.store import Store, UnusableArtefactError
from harness.strict import canonical

_DOTTED = 20  # a line of fewer points shows them


def learning_curves(results: pd.DataFrame, path: Path, stage: str = "fit") -> Drawn:
    """Draw every loss, and the learning rate, over the epochs: a panel for each, a line for each training.

    Parameters
    ----------
    results : DataFrame
        Rows of one dataset, as `load_results` gives them. A training that several rows share is drawn once.
    path : Path
        Where to write, without a suffix.
    stage : {"fit", "fit_refiner"}
        Whose training: the method's, or the refiner's.

    Returns
    -------
    Drawn
        Left out are methods that do not train, and records of a time when they held no curves.
    """
    caption = "losses and learning rate over the epochs; several seeds: mean ± a standard deviation"
    left = LeftOut()
    lines: list[tuple[Series, dict[str, pd.DataFrame]]] = []
    for series in _once(results, stage):
        curves = {row.seed: curves_of(row.record, stage) for row in series.rows.itertuples()}
        tables = {seed: pd.DataFrame(epochs).set_index("epoch") for seed, epochs in curves.items() if epochs}
        if tables:
            whole = pd.concat(tables, axis=1)
            names = dict.fromkeys(whole.columns.get_level_values(1))
            lines.append((series, {name: whole.xs(name, axis=1, level=1) for name in names}))
        else:
            known = None not in curves.values()
            left.add("does not train" if known else "recorded without its curves", series.label)
    lines, rest = lines[: len(COLOURS)], lines[len(COLOURS) :]
    left.add(f"below the best {len(COLOURS)}", *(series.label for series, _ in rest))
    if not lines:
        return nothing(path, caption, left, "nothing was trained")
    panels = sorted(dict.fromkeys(name for _, own in lines for name in own), key=lambda name: name == "lr")
    columns = min(3, len(panels))
    deep = -(-len(panels) // columns)
    figure = new_figure(PAGE, 0.6 + 1.9 * deep)
    axes = figure.subplots(deep, columns, squeeze=False).ravel()
    handles: dict[str, Any] = {}
    numbers = colours([series for series, _ in lines])
    for axis, name in zip(axes, panels, strict=False):
        for number, (series, own) in zip(numbers, lines, strict=True):
            if name in own:
                handles[series.label] = _line(axis, own[name], number, series.label)
        axis.set_title("learning rate" if name == "lr" else f"loss: {name}", fontsize=SMALL + 1)
        axis.set_xlabel("epoch", fontsize=SMALL)
        axis.locator_params(axis="x", integer=True, nbins=6)
        axis.ticklabel_format(axis="y", scilimits=(-3, 4))
        axis.yaxis.get_offset_text().set_fontsize(SMALL)
        tidy(axis)
    for axis in axes[len(panels) :]:
        axis.set_axis_off()
    legend(figure, [handles[series.label] for series, _ in lines])
    return finish(figure, path, caption, left)


def threshold_curves(results: pd.DataFrame, store: Store, path: Path, split: str) -> Drawn:
    """Draw the mIoU that every background threshold would give, with the best one as a dot.

    The dot is chosen on the split's own pixels. PxAP, in the legend, is the mean average precision of the score maps.

    Parameters
    ----------
    results : DataFrame
        Rows of one dataset, as `load_results` gives them. Rows that differ in their refiner share a curve.
    store : Store
        Holds the curves.
    path : Path
        Where to write, without a suffix.
    split : str

    Returns
    -------
    Drawn
        Left out are methods whose artefacts are gone, or that give masks and no score maps.
    """
    caption = (
        f"mIoU on {split}, before refinement, if a pixel is foreground where its best score is above a threshold; "
        "dot: the best, chosen on these pixels; dotted upright: the protocol's fixed one; several seeds: mean ± a "
        "standard deviation"
    )
    left = LeftOut()
    lines = []
    for series in _once(results, "curve", split):
        read = dict(_read(series, "curve", "curve.json", store, left, split))
        if read:
            lines.append((series, read))
    lines, rest = lines[: len(COLOURS)], lines[len(COLOURS) :]
    left.add(f"below the best {len(COLOURS)}", *(series.label for series, _ in rest))
    if not lines:
        return nothing(path, caption, left, f"no score maps of {split}")
    figure = new_figure(PAGE, 3.6)
    axis = figure.subplots()
    handles, fixed = [], set()
    for number, (series, read) in zip(colours([series for series, _ in lines]), lines, strict=True):
        table = 100 * pd.DataFrame({seed: curve["sweep"] for seed, curve in read.items()})
        table.index = np.arange(len(table)) / len(table)
        ap = [curve["pxap"] for curve in read.values() if curve["pxap"] is not None]
        label = f"{series.label} (PxAP {100 * np.mean(ap):.1f})" if ap else series.label
        handles.append(_line(axis, table, number, label))
        best = table.mean(axis=1)
        axis.plot(best.idxmax(), best.max(), "o", color=COLOURS[number], markersize=5, zorder=4)
        kind, _, value = series.record["applied"]["background"].partition(":")
        if kind == "fixed":
            fixed.add(float(value))
    for threshold in sorted(fixed):
        axis.axvline(threshold, color="0.4", linewidth=0.8, linestyle=":", zorder=1)
    axis.set_xlim(0, 1)
    axis.set_ylim(bottom=0)
    axis.set_xlabel("background threshold", fontsize=SMALL + 1)
    axis.set_ylabel(f"mIoU on {split} (%)", fontsize=SMALL + 1)
    tidy(axis)
    legend(figure, handles)
    return finish(figure, path, caption, left)


def _line(axis: Any, table: pd.DataFrame, number: int, label: str) -> Any:
    """Draw the only column of a table, or the mean of several within ± a standard deviation; return the line."""
    mean = table.mean(axis=1)
    colour, style = COLOURS[number], STYLES[number]
    several = table.shape[1] > 1
    if several:
        spread = table.std(axis=1, ddof=1).fillna(0)
        axis.fill_between(table.index, mean - spread, mean + spread, color=colour, alpha=0.2, linewidth=0)
    (line,) = axis.plot(
        table.index, mean, color=colour, linestyle=style, linewidth=1.8 if several else 1.0, label=label,
        marker="." if len(table) < _DOTTED else None, markersize=4,
    )  # fmt: skip
    return line


def _once(results: pd.DataFrame, stage: str, split: str = "") -> list[Series]:
    """Return what was scored, one row for each artefact of a stage: what was not refined goes first."""
    rows = results[results.split == split] if split else results[results.status == "done"]
    keys = [_key(record, stage, split) for record in rows.record]
    under = [canonical(record["spec"]["protocol"]) for record in rows.record]
    rows = rows.assign(made=keys, refined=rows.refine != "none", under=under, split=split).dropna(subset="made")
    return scored(rows.sort_values(["refined", "under"], kind="stable").drop_duplicates("made"), split)


def _key(record: Record, stage: str, split: str) -> str | None:
    place = record["artefacts"]["splits"][split] if split else record["artefacts"]
    return place.get(stage)


def _read(
    series: Series, stage: str, name: str, store: Store, left: LeftOut, split: str = ""
) -> Iterator[tuple[int, Any]]:
    """Yield seed and content of a JSON file of each cell; what is gone is left out."""
    for row in series.rows.itertuples():
        try:
            yield row.seed, store.need(stage, str(_key(row.record, stage, split))).json(name)
        except UnusableArtefactError:
            left.add(f"no {stage} artefact", f"{series.label} seed {row.seed}")
