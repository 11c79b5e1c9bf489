"""Images: image, ground truth, and for each method a heat-map per present class, BPM and refined masks."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

import numpy as np
import pandas as pd

from harness.data.base import Dataset
from harness.report.figures.canvas import save
from harness.report.figures.panels import Kept, Panel, draw_panels, heated, image, truth
from harness.results.store import Store, UnusableArtefactError

HEATMAPS = 2  # per method: classes shown
METHODS = 3  # side by side


def draw(results: pd.DataFrame, dataset: Dataset, split: str, store: Store, path: Path, count: int = 4) -> bool:
    """Draw some images of a split, for the best-scoring settings of each method.

    Images are spread evenly over the quarter of the split that shows the most classes: the same ones in every report.

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
        How many images.

    Returns
    -------
    bool
        False if no method has its artefacts any more.
    """
    cells = kept_cells(results[results.split == split], split, store)
    if not cells:
        return False
    base = next(iter(cells[0].values()))
    chosen = choose(base, count)
    lines = [_panels(cells, dataset, image_id) for image_id in chosen]
    save(draw_panels(lines, chosen, dataset.classes, width=1.35 * len(lines[0])), path)
    return True


def kept_cells(rows: pd.DataFrame, split: str, store: Store) -> list[dict[str, Kept]]:
    """Return what the best settings of each method have kept, with the first seed that they were run with.

    Returns
    -------
    list of dict
        For each method, best first: by what is written over its masks, BPM before refined ones.
    """
    rows = rows[~rows.method.str.startswith("sanity")]
    groups = [
        group[group.seed == group.seed.min()]
        for _, group in rows.groupby(["method", "backbone", rows.settings.astype(str)], sort=True)
    ]
    best: dict[tuple[str, str], pd.DataFrame] = {}
    for group in sorted(groups, key=lambda group: -group.miou.max()):
        best.setdefault((group.method.iloc[0], group.backbone.iloc[0]), group)
    shown = dict(list(best.items())[:METHODS])
    several = len({method for method, _ in shown}) < len(shown)
    cells = [
        _kept(group, f"{method} {backbone}" if several else method, split, store)
        for (method, backbone), group in shown.items()
    ]
    return [cell for cell in cells if cell]


def choose(kept: Kept, count: int) -> list[str]:
    """Return images of a split: spread evenly over the quarter that shows the most classes."""
    classes = np.array([len(kept.present(image_id)) for image_id in kept.ids])
    busiest = np.argsort(-classes, kind="stable")[: max(count, len(classes) // 4)]
    chosen = busiest[np.linspace(0, len(busiest) - 1, min(count, len(busiest))).astype(int)]
    return [kept.ids[number] for number in sorted(chosen)]


def _kept(group: pd.DataFrame, name: str, split: str, store: Store) -> dict[str, Kept]:
    kept = {}
    for row in group.sort_values("refine", key=lambda column: column != "none").itertuples():
        with suppress(UnusableArtefactError):
            kept[f"{name} BPM" if row.refine == "none" else f"{name} +{row.refine}"] = Kept(row.record, split, store)
    return kept


def _panels(cells: list[dict[str, Kept]], dataset: Dataset, image_id: str) -> list[Panel | None]:
    """Return the panels of one image."""
    shown = image(dataset, image_id)
    panels: list[Panel | None] = [shown, truth(dataset, image_id)]
    for kept in cells:
        panels += _heats(kept, image_id, shown.image)
        for title, one in kept.items():
            try:
                panels.append(Panel(one.mask(image_id), title=title))
            except UnusableArtefactError:
                panels.append(None)
    return panels


def _heats(cell: dict[str, Kept], image_id: str, base: np.ndarray) -> list[Panel | None]:
    """Return a heat-map for each of the first few classes of an image, and nothing where there is none."""
    title, kept = next(iter(cell.items()))
    try:
        heats = kept.heats(image_id)
    except UnusableArtefactError:
        heats = {}
    names = [name for name in kept.present(image_id) if name in heats][:HEATMAPS]
    found = [heated(base, heats[name], f"{title.rpartition(' ')[0]}: {name}") for name in names]
    return [*found, *[None] * (HEATMAPS - len(found))]
