"""Figures of classes: IoU of each, and which is taken for which."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd

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
    swatch,
    tidy,
)
from harness.report.figures.series import Series, colours, contenders, scored
from harness.results.store import Store, UnusableArtefactError
from harness.run.record import split_confusions


def class_bars(results: pd.DataFrame, path: Path, split: str) -> Drawn:
    """Draw the IoU of every class, and their mean, as a bar for each method.

    Parameters
    ----------
    results : DataFrame
        Rows of one dataset, as `load_results` gives them.
    path : Path
        Where to write, without a suffix.
    split : str

    Returns
    -------
    Drawn
        Left out are all but the best few, and bars of classes that occur in neither truth nor prediction.
    """
    caption = f"IoU of each class on {split}; line: ± a standard deviation, where there are several seeds"
    left = LeftOut()
    found = scored(results, split)
    shown = found[: len(COLOURS)]
    if not shown:
        return nothing(path, caption, left, f"nothing is scored on {split}")
    left.add(f"below the best {len(shown)}", *(one.label for one in found[len(COLOURS) :]))
    names = list(shown[0].rows.iou.iloc[0])
    bar = 0.8 / len(shown)
    figure = new_figure(PAGE, 1.0 + (len(names) + 1) * max(0.2, 0.06 * len(shown)))
    axis = figure.subplots()
    own = [COLOURS[number] for number in colours(shown)]
    for number, (series, colour) in enumerate(zip(shown, own, strict=True)):
        table = _ious(series)
        where = np.array([*range(len(names)), len(names) + 0.3]) + (number + 0.5) * bar - 0.4
        means = table.mean(axis=1)
        spread = table.std(axis=1, ddof=1).to_numpy() if table.shape[1] > 1 else None
        whiskers = None if spread is None else [np.minimum(spread, means), spread]  # none below 0
        axis.barh(
            where,
            means,
            bar,
            xerr=whiskers,
            color=colour,
            error_kw={"linewidth": 0.8, "ecolor": "0.4"},
            label=series.label,
        )
        unknown = [name for name in names if np.isnan(means[name])]
        left.add(f"{series.label}: in neither truth nor prediction", *unknown)
    axis.set_yticks([*range(len(names)), len(names) + 0.3], [*names, "mean (mIoU)"])
    axis.invert_yaxis()
    axis.margins(y=0.01)
    axis.axhline(len(names) - 0.35, color="0.6", linewidth=0.6)
    axis.set_xlabel(f"IoU on {split} (%)", fontsize=SMALL + 1)
    tidy(axis, "x")
    legend(figure, [swatch(colour, one.label) for one, colour in zip(shown, own, strict=True)])
    return finish(figure, path, caption, left)


def confusion_matrix(results: pd.DataFrame, store: Store, path: Path, split: str) -> Drawn:
    """Draw how the pixels of each true class are predicted, in per cent of its row; the last column is none of these.

    Parameters
    ----------
    results : DataFrame
        Rows of one dataset, as `load_results` gives them; the best-scoring method and settings are drawn, over all of
        their seeds.
    store : Store
        Holds the confusion matrices.
    path : Path
        Where to write, without a suffix.
    split : str

    Returns
    -------
    Drawn
        Left out are other methods and settings, and seeds and classes without pixels.
    """
    left = LeftOut()
    found = contenders(scored(results, split), left)
    if not found:
        return nothing(path, "confusion matrix", left, f"nothing is scored on {split}")
    series, names = found[0], list(found[0].rows.iou.iloc[0])
    caption = f"{series.label} on {split}: pixels of each true class by predicted class, in % of the row"
    left.add("scores less", *(one.label for one in found[1:]))
    total = np.zeros((len(names), len(names) + 1), np.int64)
    for row in series.rows.itertuples():
        try:
            total += split_confusions(store, row.record["artefacts"]["splits"][split]).total()
        except UnusableArtefactError as error:
            left.add(f"no {error.stage} artefact", f"{series.label} seed {row.seed}")
    if not total.any():
        return nothing(path, caption, left)
    pixels = total.sum(1, keepdims=True)
    share = np.divide(100 * total, pixels, out=np.full(total.shape, np.nan), where=pixels > 0)
    left.add("no pixels", *(name for name, count in zip(names, pixels[:, 0], strict=True) if not count))
    side = min(PAGE, 2.4 + 0.42 * len(names))
    figure = new_figure(side, 0.85 * side)
    axis = figure.subplots()
    image = axis.imshow(share, cmap="Blues", vmin=0, vmax=100)
    for row, column in zip(*np.nonzero(share >= 1), strict=True):  # a NaN is no number to print
        value = share[row, column]
        axis.text(
            column, row, f"{value:.0f}", ha="center", va="center", fontsize=5 if len(names) > 12 else SMALL,
            color="white" if value > 60 else "black",
        )  # fmt: skip
    columns = [*names, "none of these"]
    axis.set_xticks(range(len(columns)), columns, rotation=45, ha="right", rotation_mode="anchor")
    axis.set_yticks(range(len(names)), names)
    axis.tick_params(labelsize=SMALL, length=0)
    axis.axvline(len(names) - 0.5, color="0.4", linewidth=0.8)
    axis.set_xlabel("predicted", fontsize=SMALL + 1)
    axis.set_ylabel("true", fontsize=SMALL + 1)
    axis.set_title(series.label, fontsize=SMALL + 2)
    bar = figure.colorbar(image, ax=axis, shrink=0.6, aspect=30)
    bar.set_label("% of the true class", fontsize=SMALL)
    bar.ax.tick_params(labelsize=SMALL)
    return finish(figure, path, caption, left)


def _ious(series: Series) -> pd.DataFrame:
    """Return IoU in per cent, a column for each seed; the last row is the mIoU."""
    rows = series.rows
    table = 100 * pd.DataFrame([*rows.iou], index=rows.seed, dtype=float).T
    table.loc["mIoU"] = 100 * rows.miou.to_numpy()
    return table
