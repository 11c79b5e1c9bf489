"""Panels of images: what a cell has kept of a split, and how images, heat-maps and masks stand side by side."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
from PIL import Image

from harness.data.base import IGNORE, Dataset, open_mask, open_rgb, voc_palette
from harness.report.figures.canvas import PAGE, SMALL, legend, new_figure, swatch
from harness.results.record import Record
from harness.results.store import Store
from harness.stages import SHARD

_WIDEST = 1.6  # inches of a panel
_HEAT = "inferno"


@dataclass(frozen=True)
class Panel:
    """An image in a figure.

    Attributes
    ----------
    image : ndarray
        (H, W, 3) uint8, or a mask's (H, W) uint8 class indices.
    heat : ndarray or None
        (H, W) in [0, 1], to lie over it.
    title, below : str
    """

    image: np.ndarray
    heat: np.ndarray | None = None
    title: str = ""
    below: str = ""


class Kept:
    """What a cell has kept of a split.

    Parameters
    ----------
    record : dict
        Of a cell that is done.
    split : str
    store : Store

    Attributes
    ----------
    ids : list of str
        The split's images.

    Raises
    ------
    UnusableArtefactError
        Here and from every method, if what it needs is gone or damaged.
    """

    def __init__(self, record: Record, split: str, store: Store) -> None:
        self.store, self.place, self.names = store, record["artefacts"]["splits"][split], record["classes"]
        given = store.need("labels", self.place["labels"]).json("labels.json")
        self.ids: list[str] = given["ids"]
        self._labels = dict(zip(self.ids, given["labels"], strict=True))
        self._shards = {image_id: number // SHARD for number, image_id in enumerate(self.ids)}

    def present(self, image_id: str) -> list[str]:
        """Return the foreground classes of an image, by its image labels."""
        return [name for name, flag in zip(self.names[1:], self._labels[image_id][1:], strict=True) if flag]

    def mask(self, image_id: str) -> np.ndarray:
        """Return (H, W) uint8 class indices of the dataset."""
        mask = self.store.need("mask", self.place["mask"][self._shards[image_id]])
        return open_mask(mask.file(f"{image_id}.png"))

    def heats(self, image_id: str) -> dict[str, np.ndarray]:
        """Return the (h, w) score map of each class, the background's too if it has one; none from a giver of masks."""
        from harness.stages.score import read_scores  # torch, which figures of records do without

        score = self.store.need("score", self.place["score"])
        about = score.json("scores.json")
        if about["output"] == "labels":
            return {}
        maps = next(maps for name, maps, _ in read_scores(score, self._shards[image_id]) if name == image_id)
        return dict(zip(self.names if about["background"] else self.names[1:], maps, strict=True))


def truth(dataset: Dataset, image_id: str) -> Panel:
    """Return the panel of an image's ground truth."""
    return Panel(open_mask(dataset.mask_path(image_id)), title="ground truth")


def image(dataset: Dataset, image_id: str) -> Panel:
    """Return the panel of an image itself."""
    return Panel(open_rgb(dataset.image_path(image_id)), title="image")


def heated(base: np.ndarray, heat: np.ndarray, title: str) -> Panel:
    """Return the panel of a score map over its image, as a share of the map's maximum."""
    share = heat.astype(np.float32) / max(float(heat.max()), 1e-6)
    height, width = base.shape[:2]
    return Panel(base, np.asarray(Image.fromarray(share).resize((width, height), Image.Resampling.BILINEAR)), title)


def draw_panels(
    lines: Sequence[Sequence[Panel | None]], names: Sequence[str], classes: Sequence[str], width: float = PAGE
) -> Any:
    """Return a figure of panels in lines.

    Parameters
    ----------
    lines : sequence of sequence of Panel or None
        All of one length; None leaves a place empty. Titles stand over the first line, and over every heat-map.
    names : sequence of str
        What stands to the left of each line.
    classes : sequence of str
        The dataset's, for the legend of the masks' colours.
    width : float
        Inches, at most.
    """
    side = min(_WIDEST, (width - 0.3) / len(lines[0]))
    tall = [max(panel.image.shape[0] / panel.image.shape[1] for panel in line if panel) for line in lines]
    figure = new_figure(side * len(lines[0]) + 0.3, side * sum(tall) + 0.25 * len(lines) + 0.6)
    figure.get_layout_engine().set(w_pad=0.02, h_pad=0.02, wspace=0.01, hspace=0.01)
    axes = figure.subplots(len(lines), len(lines[0]), squeeze=False, height_ratios=tall)
    warm = None
    for line, name, across in zip(lines, names, axes, strict=True):
        across[0].set_ylabel(name, fontsize=SMALL - 1)
        for panel, axis in zip(line, across, strict=True):
            axis.set_xticks([])
            axis.set_yticks([])
            axis.set_frame_on(False)
            if panel is None:
                continue
            warm = _show(axis, panel) or warm
            if line is lines[0] or panel.heat is not None:
                axis.set_title(textwrap.fill(panel.title, int(side * 16)), fontsize=SMALL, pad=3)
            axis.set_xlabel(panel.below, fontsize=SMALL - 1, labelpad=2)
    if warm is not None:
        bar = figure.colorbar(warm, ax=axes, location="bottom", shrink=0.35, aspect=40, pad=0.01)
        bar.set_label("score, as a share of the map's maximum", fontsize=SMALL - 1)
        bar.ax.tick_params(labelsize=SMALL - 1)
    shown = [np.unique(panel.image) for line in lines for panel in line if panel and panel.image.ndim == 2]
    meaning = dict(enumerate(classes)) | {IGNORE: "not labelled"}
    if shown:
        legend(figure, [swatch(_palette()[index] / 255, meaning[index]) for index in np.unique(np.concatenate(shown))])
    return figure


def _show(axis: Any, panel: Panel) -> Any:
    """Draw a panel; return what a colour bar describes, if it has heat."""
    if panel.image.ndim == 2:
        axis.imshow(_palette()[panel.image], interpolation="nearest")  # mixed colours would be other classes'
        return None
    axis.imshow(panel.image, alpha=1.0 if panel.heat is None else 0.35)
    if panel.heat is None:
        return None
    return axis.imshow(panel.heat, cmap=_HEAT, vmin=0, vmax=1, alpha=0.75)


@cache
def _palette() -> np.ndarray:
    return np.array(voc_palette(), np.uint8).reshape(-1, 3)
