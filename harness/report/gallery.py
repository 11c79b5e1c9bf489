"""Pictures: image, ground truth, a heat-map per present class, BPM and refined masks, method by method."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from PIL import Image

from harness.data.base import Dataset, open_mask, open_rgb, voc_palette
from harness.stages import SHARD
from harness.stages.score import read_scores
from harness.store import Store

HEATMAPS = 2


@dataclass
class _Line:
    """The pictures of one method for one image."""

    title: str
    heatmaps: list[tuple[str, np.ndarray]]
    masks: list[tuple[str, np.ndarray]]


def draw(results: pd.DataFrame, dataset: Dataset, split: str, store: Store, path: Path, count: int = 4) -> bool:
    """Draw some pictures of a split, evenly spread over it, for every method with artefacts; False if there are none.

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
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    rows = results[(results.split == split) & ~results.method.str.startswith("sanity")]
    rows = rows[rows.seed == rows.seed.min()]
    cells = [group for _, group in rows.groupby(["method", "backbone", rows.settings.astype(str)], sort=True)]
    if not cells:
        return False
    place = cells[0].record.iloc[0]["artefacts"]["splits"][split]
    labels = store.artefact("labels", place["labels"])
    if labels is None:
        return False
    given = labels.json("labels.json")
    names = cells[0].record.iloc[0]["classes"]
    busiest = np.argsort([-sum(row[1:]) for row in given["labels"]], kind="stable")[: max(count, len(given["ids"]) // 4)]
    chosen = sorted(busiest[np.linspace(0, len(busiest) - 1, min(count, len(busiest))).astype(int)])
    width = 2 + HEATMAPS + max(len(group) for group in cells)
    figure = Figure(figsize=(1.7 * width, 1.75 * len(chosen) * len(cells)), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(len(chosen) * len(cells), width, squeeze=False)
    for axis in axes.flat:
        axis.set_axis_off()
    for n, index in enumerate(chosen):
        image_id = given["ids"][index]
        picture = open_rgb(dataset.image_path(image_id))
        truth = open_mask(dataset.mask_path(image_id))
        present = [i for i, flag in enumerate(given["labels"][index]) if flag and i][:HEATMAPS]
        for m, group in enumerate(cells):
            line = _line(group, split, int(index), image_id, present, names, picture.shape[:2], store)
            shown = axes[n * len(cells) + m]
            if m == 0:
                _show(shown[0], picture, image_id)
                _show(shown[1], _colour(truth), "ground truth")
            for axis, (title, heat) in zip(shown[2:], line.heatmaps, strict=False):
                axis.imshow(picture, alpha=0.35)
                axis.imshow(heat, cmap="inferno", vmin=0, vmax=1, alpha=0.75)
                axis.set_title(title, fontsize=7)
            for axis, (title, mask) in zip(shown[2 + HEATMAPS :], line.masks, strict=False):
                _show(axis, _colour(mask), f"{line.title} {title}")
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110, metadata={"Software": None})
    return True


def _line(
    group: pd.DataFrame, split: str, index: int, image_id: str, present: list[int], names: list[str],
    size: tuple[int, ...], store: Store,
) -> _Line:  # fmt: skip
    shard = index // SHARD
    heatmaps: list[tuple[str, np.ndarray]] = []
    masks = []
    first = group.iloc[0]
    for row in group.sort_values("refine", key=lambda column: column != "none").itertuples():
        place: dict[str, Any] = row.record["artefacts"]["splits"][split]
        score = store.artefact("score", place["score"])
        if score is not None and not heatmaps:
            maps = next(maps for name, maps, _ in read_scores(score, shard) if name == image_id)
            offset = 0 if score.json("scores.json")["background"] else 1
            heatmaps = [(f"{names[c]}", _resize(maps[c - offset], size)) for c in present]
        mask = store.artefact("mask", place["mask"][shard])
        if mask is not None:
            masks.append(("BPM" if row.refine == "none" else f"+{row.refine}", open_mask(mask.file(f"{image_id}.png"))))
    return _Line(first.method, heatmaps, masks)


def _resize(heat: np.ndarray, size: tuple[int, ...]) -> np.ndarray:
    heat = heat.astype(np.float32) / max(float(heat.max()), 1e-6)
    return np.asarray(Image.fromarray(heat).resize((size[1], size[0]), Image.Resampling.BILINEAR))


def _colour(mask: np.ndarray) -> np.ndarray:
    return np.array(voc_palette(), np.uint8).reshape(-1, 3)[mask]


def _show(axis: Any, picture: np.ndarray, title: str) -> None:
    axis.imshow(picture)
    axis.set_title(title, fontsize=7)
