"""Figures of images: a method's heat-maps and masks, methods side by side, and the images at the extremes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from harness.data.base import Dataset
from harness.errors import UserError, closest
from harness.metrics import mean_iou
from harness.report.figures.canvas import Drawn, LeftOut, finish, nothing
from harness.report.figures.panels import Kept, Panel, draw_panels, heated, image, truth
from harness.report.figures.series import Series, contenders, scored
from harness.results.store import Store, UnusableArtefactError
from harness.run.record import split_confusions

HEATMAPS = 4  # of an image, the background's among them
COLUMNS = 6  # methods side by side


def heatmaps_figure(
    results: pd.DataFrame, dataset: Dataset, store: Store, path: Path, split: str,
    images: Sequence[str] = (), count: int = 4, seed: int = 0,
) -> Drawn:  # fmt: skip
    """Draw Figure 4: image, a heat-map for each present class, the argmax, and what refiners make of it.

    Parameters
    ----------
    results : DataFrame
        Rows of one dataset, as `load_results` gives them; drawn is the first seed of the best-scoring method and
        settings without a refiner, with what refines the same score maps.
    dataset : Dataset
    store : Store
        Holds score maps and masks.
    path : Path
        Where to write, without a suffix.
    split : str
    images : sequence of str
        Image ids; where there are none, `count` images are drawn by lot.
    count, seed : int

    Returns
    -------
    Drawn
        Left out are other methods and settings, classes beyond the first few, and what is gone.

    Raises
    ------
    UserError
        For an image that the split does not hold.
    """
    left = LeftOut()
    found = contenders(scored(results, split), left)
    plain = [one for one in found if one.rows.refine.iloc[0] == "none"]
    caption = f"images of {split}, and of each: score maps, baseline pseudo-mask, refined masks"
    if not plain:
        return nothing(path, caption, left, f"nothing without a refiner is scored on {split}")
    best = plain[0]
    score = best.record["artefacts"]["splits"][split]["score"]
    refined = [one for one in found if one not in plain and one.record["artefacts"]["splits"][split]["score"] == score]
    titles = {best.label: "argmax"} | {one.label: f"+{one.rows.refine.iloc[0]}" for one in refined}
    left.add("scores less", *(one.label for one in plain[1:]))
    caption = (
        f"{best.label} on {split}, seed {best.record['spec']['seed']}: score map of each class that the image labels "
        "name, and of the background where there is one; the masks that follow"
    )
    kept = _kept([best, *refined], split, store, left)
    if best.label not in kept:
        return nothing(path, caption, left)
    base = kept[best.label]
    lines = []
    chosen = _choose(base.ids, split, images, count, seed)
    for image_id in chosen:
        shown = image(dataset, image_id)
        heats = _heats(base, image_id, shown.image, left)
        masks = [_mask(one, image_id, titles[label], left) for label, one in kept.items()]
        lines.append((shown, heats, [*masks, truth(dataset, image_id)]))
    if not any(heats or any(masks[:-1]) for _, heats, masks in lines):
        return nothing(path, caption, left)
    most = max(len(heats) for _, heats, _ in lines)
    rows = [[shown, *heats, *[None] * (most - len(heats)), *masks] for shown, heats, masks in lines]
    return finish(draw_panels(rows, chosen, dataset.classes), path, caption, left)


def qualitative_figure(
    results: pd.DataFrame, dataset: Dataset, store: Store, path: Path, split: str,
    images: Sequence[str] = (), count: int = 5, seed: int = 0,
) -> Drawn:  # fmt: skip
    """Draw Figure 6: a line for each image, a column for each method, the best first, and the ground truth.

    Parameters
    ----------
    results : DataFrame
        Rows of one dataset, as `load_results` gives them; the first seed of each method and settings is drawn.
    dataset : Dataset
    store : Store
        Holds the masks.
    path : Path
        Where to write, without a suffix.
    split : str
    images : sequence of str
        Image ids; where there are none, `count` images are drawn by lot, the same in every report.
    count, seed : int

    Returns
    -------
    Drawn
        Left out are methods beyond the best few, and what is gone.

    Raises
    ------
    UserError
        For an image that the split does not hold.
    """
    caption = f"pseudo-masks of the same images of {split}, of the first seed of each method"
    left = LeftOut()
    kept = _best(contenders(scored(results, split), left), split, store, left)
    if not kept:
        return nothing(path, caption, left, f"nothing is scored on {split}")
    chosen = _choose(_common(kept), split, images, count, seed)
    if not images:
        caption += f"; images drawn by lot, seed {seed}"
    lines = [_line(dataset, kept, image_id, left) for image_id in chosen]
    if not any(panel for line in lines for panel in line[2:]):
        return nothing(path, caption, left, "the methods share no image")
    return finish(draw_panels(lines, chosen, dataset.classes), path, caption, left)


def extreme_images(
    results: pd.DataFrame, dataset: Dataset, store: Store, path: Path, split: str, count: int = 2
) -> Drawn:
    """Draw the best images, the worst, and those on which methods disagree most.

    An image's score is the mean IoU of the classes that occur in it or in its mask, and the mean of that over methods;
    their disagreement is the difference of the highest and the lowest. Each image is drawn once.

    Parameters
    ----------
    results : DataFrame
        Rows of one dataset, as `load_results` gives them; the first seed of each method and settings counts.
    dataset : Dataset
    store : Store
        Holds confusion matrices and masks.
    path : Path
        Where to write, without a suffix.
    split : str
    count : int
        Of each of the three.

    Returns
    -------
    Drawn
        Left out are methods beyond the best few, and what is gone.
    """
    caption = (
        f"the images of {split} with the best and the worst mIoU of their own, mean over methods, and those on which "
        "methods differ most; first seeds; under each mask its mIoU"
    )
    left = LeftOut()
    found = contenders(scored(results, split), left)
    kept = _best(found, split, store, left)
    scores = _scores(found, kept, split, store, left)
    kept = {label: kept[label] for label in scores}
    if scores.empty:
        return nothing(path, caption, left, f"nothing is scored on {split}")
    places: dict[str, str] = {}
    for name, order in (
        ("best", scores.mean(axis=1).sort_values(ascending=False, kind="stable")),
        ("worst", scores.mean(axis=1).sort_values(kind="stable")),
        ("disagree", (scores.max(axis=1) - scores.min(axis=1)).sort_values(ascending=False, kind="stable")),
    ):
        if name == "disagree" and len(kept) < 2:
            left.add("there is one method only", "disagreement")
            continue
        places |= dict.fromkeys([image_id for image_id in order.index if image_id not in places][:count], name)
    lines = []
    for image_id in places:
        below = {label: f"{100 * scores.at[image_id, label]:.1f}" for label in kept}
        lines.append(_line(dataset, kept, image_id, left, below))
    names = [f"{name}\n{image_id}" for image_id, name in places.items()]
    return finish(draw_panels(lines, names, dataset.classes), path, caption, left)


def _best(found: Sequence[Series], split: str, store: Store, left: LeftOut) -> dict[str, Kept]:
    """Return what the best few methods have kept, by label."""
    kept = _kept(found, split, store, left)
    left.add(f"below the best {COLUMNS}", *list(kept)[COLUMNS:])
    return dict(list(kept.items())[:COLUMNS])


def _kept(found: Sequence[Series], split: str, store: Store, left: LeftOut) -> dict[str, Kept]:
    kept = {}
    for one in found:
        try:
            kept[one.label] = Kept(one.record, split, store)
        except UnusableArtefactError as error:
            left.add(f"no {error.stage} artefact", one.label)
    return kept


def _scores(
    found: Sequence[Series], kept: dict[str, Kept], split: str, store: Store, left: LeftOut
) -> pd.DataFrame:  # fmt: skip
    """Return each image's own mIoU, a column for each method, of the images that all were scored on."""
    columns = {}
    for series in found:
        if series.label not in kept:
            continue
        place = series.record["artefacts"]["splits"][split]
        try:
            values = mean_iou(split_confusions(store, place).counts())
        except UnusableArtefactError as error:
            left.add(f"no {error.stage} artefact", series.label)
            continue
        columns[series.label] = pd.Series(values, kept[series.label].ids)
    return pd.concat(columns, axis=1, join="inner").dropna() if columns else pd.DataFrame()


def _common(kept: dict[str, Kept]) -> list[str]:
    first, *others = kept.values()
    return [image_id for image_id in first.ids if all(image_id in one.ids for one in others)]


def _choose(ids: Sequence[str], split: str, wanted: Sequence[str], count: int, seed: int) -> list[str]:
    for image_id in wanted:
        if image_id not in ids:
            raise UserError(f"no image '{image_id}' was scored on {split}: {closest(image_id, ids)}")
    if wanted:
        return list(wanted)
    lot = np.random.default_rng(seed).permutation(len(ids))[:count]
    return [ids[number] for number in sorted(lot)]


def _line(
    dataset: Dataset, kept: dict[str, Kept], image_id: str, left: LeftOut, below: dict[str, str] | None = None
) -> list[Panel | None]:
    """Return image, ground truth, and the mask of each method."""
    masks = [_mask(one, image_id, label, left, (below or {}).get(label, "")) for label, one in kept.items()]
    return [image(dataset, image_id), truth(dataset, image_id), *masks]


def _mask(kept: Kept, image_id: str, title: str, left: LeftOut, below: str = "") -> Panel | None:
    try:
        return Panel(kept.mask(image_id), title=title, below=below)
    except UnusableArtefactError as error:
        left.add(f"no {error.stage} artefact", title)
        return None


def _heats(kept: Kept, image_id: str, base: np.ndarray, left: LeftOut) -> list[Panel]:
    """Return the heat-maps of an image's first few classes, the background's first."""
    try:
        heats = kept.heats(image_id)
    except UnusableArtefactError as error:
        left.add(f"no {error.stage} artefact", "heat-maps")
        return []
    if not heats:
        left.add("it gives masks and no scores", "heat-maps")
    present = [name for name in [kept.names[0], *kept.present(image_id)] if name in heats]
    left.add(f"no room in {image_id}", *present[HEATMAPS:])
    return [heated(base, heats[name], name) for name in present[:HEATMAPS]]
