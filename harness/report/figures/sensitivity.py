"""What the protocol is worth, as a figure."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from harness.report.figures.canvas import COLOURS, new_figure, save
from harness.report.sensitivity import order


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
