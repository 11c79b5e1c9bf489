"""Figures of records."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd

from harness.report.sensitivity import order

COLOURS = ("#0b6e99", "#d1495b", "#66a182", "#8d6a9f", "#edae49", "#2e4057")  # readable side by side, in print too


def save(figure: Any, path: Path) -> None:
    """Write a figure without a date or a version in it: the same figure is the same bytes."""
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110, metadata={"Software": None})


def new_figure(width: float, height: float) -> Any:
    """Return an empty figure of some inches, drawn without a window."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def draw_sensitivity(shared: pd.DataFrame, path: Path) -> None:
    """Draw the mIoU of each model on the last split under every protocol, with a line at `strict`.

    Parameters
    ----------
    shared : DataFrame
        Records of one dataset, from `harness.report.sensitivity.shared`.
    path : Path
        The PNG to write.
    """
    rows = shared[shared.split == shared.split.iloc[-1]]
    changes = sorted(set(rows.change), key=order, reverse=True)
    figure = new_figure(9, 1 + 0.22 * len(changes))
    axis = figure.subplots()
    for colour, (model, own) in zip(COLOURS, rows.groupby("model"), strict=False):
        means = 100 * own.groupby("change").miou.mean()
        axis.axvline(means[""], color=colour, linewidth=1, alpha=0.5)
        axis.scatter(
            means, [changes.index(change) for change in means.index], color=colour, s=22, label=model, zorder=3
        )
    axis.set_yticks(range(len(changes)), [change.partition(" with ")[0] or "strict" for change in changes], fontsize=7)
    axis.set_xlabel(f"mIoU on {rows.split.iloc[0]} (%)")
    axis.set_title(f"{rows.dataset.iloc[0]}: one training, many protocols", fontsize=10)
    axis.grid(axis="y", alpha=0.2)
    axis.spines[["top", "right"]].set_visible(False)
    figure.legend(loc="outside lower center", ncols=3, frameon=False)
    save(figure, path)
