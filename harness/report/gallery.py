"""Pictures: image, ground truth, and for each method a heat-map per present class, BPM and refined masks."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from PIL import Image

from harness.data.base import Dataset, open_mask, open_rgb, voc_palette
from harness.report.figures import new_figure, save
from harness.stages import SHARD
from harness.stages.score import read_scores
from harness.store import Store

HEATMAPS = 2  # per method: classes shown
METHODS = 3  # side by side

Panel = tuple[str, np.ndarray, np.ndarray | None]  # title, picture, heat


def draw(results: pd.DataFrame, dataset: Dataset, split: str, store: Store, path: Path, count: int = 4) -> bool:
    """Draw some pictures of a split, for the best-scoring settings of each method.

    Pictures are spread evenly over the quarter of the split that shows the most classes: the same ones for everybody.

    Parameters
    ----------
    results : DataFrame
        Rows of one dataset and protocol, as `load_results` gives them.
    dataset : Dataset
    split : str
    store : Store
    path : Path
        The PNG to write.
    count : int
        How many pictures.

    Returns
    -------
    bool
        False if no method has its artefacts any more.
    """
    cells = _best(results[results.split == split])
    labels = store.artefact("labels", _place(cells[0].iloc[0], split)["labels"]) if cells else None
    if labels is None:
        return False
    given = labels.json("labels.json")
    lines = [
        _panels(cells, dataset, split, given, int(index), store) for index in _choose(np.array(given["labels"]), count)
    ]
    width = max(map(len, lines))
    figure = new_figure(1.35 * width, 1.5 * len(lines))
    axes = figure.subplots(len(lines), width, squeeze=False)
    for axis in axes.flat:
        axis.set_axis_off()
    for line, shown in zip(lines, axes, strict=True):
        for (title, picture, heat), axis in zip(line, shown, strict=False):
            axis.imshow(picture, alpha=1.0 if heat is None else 0.35)
            if heat is not None:
                axis.imshow(heat, cmap="inferno", vmin=0, vmax=1, alpha=0.75)
            axis.set_title(title, fontsize=7)
    save(figure, path)
    return True


def _best(rows: pd.DataFrame) -> list[pd.DataFrame]:
    """Return, for the best methods, the records of their best settings and first seed: one per refiner."""
    rows = rows[~rows.method.str.startswith("sanity") & (rows.seed == rows.seed.min())]
    groups = [group for _, group in rows.groupby(["method", "backbone", rows.settings.astype(str)], sort=True)]
    best: dict[tuple[str, str], pd.DataFrame] = {}
    for group in sorted(groups, key=lambda group: -group.miou.max()):
        best.setdefault((group.method.iloc[0], group.backbone.iloc[0]), group)
    return list(best.values())[:METHODS]


def _choose(labels: np.ndarray, count: int) -> list[int]:
    busiest = np.argsort(-labels[:, 1:].sum(1), kind="stable")[: max(count, len(labels) // 4)]
    return sorted(busiest[np.linspace(0, len(busiest) - 1, min(count, len(busiest))).astype(int)].tolist())


def _panels(
    cells: list[pd.DataFrame], dataset: Dataset, split: str, given: dict[str, Any], index: int, store: Store
) -> list[Panel]:
    """Return the panels of one picture."""
    image_id = given["ids"][index]
    picture = open_rgb(dataset.image_path(image_id))
    names = cells[0].iloc[0].record["classes"]
    present = [number for number, flag in enumerate(given["labels"][index]) if flag and number][:HEATMAPS]
    panels: list[Panel] = [
        (image_id, picture, None),
        ("ground truth", _colour(open_mask(dataset.mask_path(image_id))), None),
    ]
    for group in cells:
        method = group.method.iloc[0]
        heats = _heats(group.iloc[0], split, index, image_id, store)
        for number in range(HEATMAPS):
            if heats is not None and number < len(present):
                heat = heats[present[number] - 1]
                panels.append((f"{method}: {names[present[number]]}", picture, _resize(heat, picture.shape[:2])))
            else:
                panels.append(("", np.full((1, 1, 3), 255, np.uint8), None))
        for row in group.sort_values("refine", key=lambda column: column != "none").itertuples():
            mask = store.artefact("mask", _place(row, split)["mask"][index // SHARD])
            if mask is not None:
                title = f"{method} BPM" if row.refine == "none" else f"{method} +{row.refine.partition(':')[0]}"
                panels.append((title, _colour(open_mask(mask.file(f"{image_id}.png"))), None))
    return panels


def _heats(row: Any, split: str, index: int, image_id: str, store: Store) -> np.ndarray | None:
    """Return the foreground score maps of a picture."""
    score = store.artefact("score", _place(row, split)["score"])
    if score is None:
        return None
    maps = next(maps for name, maps, _ in read_scores(score, index // SHARD) if name == image_id)
    return maps[1:] if score.json("scores.json")["background"] else maps


def _place(row: Any, split: str) -> dict[str, Any]:
    return row.record["artefacts"]["splits"][split]


def _resize(heat: np.ndarray, size: tuple[int, ...]) -> np.ndarray:
    heat = heat.astype(np.float32) / max(float(heat.max()), 1e-6)
    return np.asarray(Image.fromarray(heat).resize((size[1], size[0]), Image.Resampling.BILINEAR))


def _colour(mask: np.ndarray) -> np.ndarray:
    return np.array(voc_palette(), np.uint8).reshape(-1, 3)[mask]
