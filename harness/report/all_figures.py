"""Every figure of a report, one after the other."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd

from harness.errors import UserError
from harness.inputs import open_dataset
from harness.registry import Registry
from harness.report import figures, gallery
from harness.report.dataframe import once
from harness.report.figures import Drawn
from harness.report.figures.series import coloured
from harness.report.notes import protocol_name
from harness.report.overlays import PageImage, images_of
from harness.report.published import published
from harness.report.sensitivity import shared
from harness.report.tables import by_protocol, last_split
from harness.results.store import Store

if TYPE_CHECKING:
    from harness.data.base import Dataset


def album(
    found: pd.DataFrame, kind: str, registry: Registry, store: Store, folder: Path, root: Path | None, images: int
) -> Iterator[Drawn]:
    """Draw the figures of a report.

    Parameters
    ----------
    found : DataFrame
        As `load_results` gives it.
    kind : str
        The experiment's `report`.
    registry : Registry
    store : Store
    folder : Path
        Where the files are written.
    root : Path or None
        The folder of a dataset that needs one.
    images : int
        How many images a figure of images shows; 0 draws none of these.

    Yields
    ------
    Drawn
    """
    if kind == "sensitivity":
        for name, rows in shared(found).groupby("dataset"):
            path = folder / f"sensitivity-{name}.png"
            figures.draw_sensitivity(rows, path)
            yield Drawn(path.stem, None, (path,), f"{name}: mIoU of one training under every protocol", ())
        return
    scored = found[found.split != ""]
    for name, rows in coloured(once(scored)).groupby("dataset"):
        last = last_split(rows)
        yield figures.parameters_figure(scored, published(registry), folder / f"parameters-{name}", str(name), last)
        dataset, problem = _open(str(name), registry, root) if images else (None, "")
        if problem:
            yield Drawn(f"images-{name}", None, (), f"{name}: figures of images", (problem,))
        for title, own in by_protocol(rows):
            under = protocol_name(own.record.iloc[0])
            for drawn in _of_protocol(own, store, folder, f"{name}-{title}", dataset, images):
                yield replace(drawn, caption=f"{name}, {under}: {drawn.caption}")


def _of_protocol(
    rows: pd.DataFrame, store: Store, folder: Path, name: str, dataset: Dataset | None, images: int
) -> Iterator[Drawn]:
    split = last_split(rows)
    yield figures.ranking_figure(rows, store, folder / f"ranking-{name}", split)
    yield figures.cost_figure(rows, folder / f"cost-{name}", split)
    yield figures.class_bars(rows, folder / f"classes-{name}", split)
    yield figures.confusion_matrix(rows, store, folder / f"confusion-{name}", split)
    yield figures.learning_curves(rows, folder / f"learning-{name}")
    if any(record["artefacts"].get("fit_refiner") for record in rows.record):
        yield figures.learning_curves(rows, folder / f"learning-refiners-{name}", "fit_refiner")
    yield figures.threshold_curves(rows, store, folder / f"thresholds-{name}", split)
    if dataset is None:
        return
    path = folder / f"gallery-{name}.png"
    if gallery.draw(rows, dataset, split, store, path, images):
        yield Drawn(path.stem, None, (path,), f"{name}, {split}: images, ground truth, heat-maps and masks", ())
    yield figures.heatmaps_figure(rows, dataset, store, folder / f"heatmaps-{name}", split, count=images)
    yield figures.qualitative_figure(rows, dataset, store, folder / f"qualitative-{name}", split, count=images)
    yield figures.extreme_images(rows, dataset, store, folder / f"extremes-{name}", split)


def images_of_all(found: pd.DataFrame, registry: Registry, store: Store, root: Path | None) -> Iterator[PageImage]:
    """Yield images with masks to lay over them, for each dataset and protocol of a report's page.

    A dataset that cannot be opened has none; `album` says why.
    """
    for name, rows in found[found.split != ""].groupby("dataset"):
        dataset, _ = _open(str(name), registry, root)
        if dataset is not None:
            for _, own in by_protocol(rows):
                yield from images_of(own, dataset, last_split(own), store)


def _open(name: str, registry: Registry, root: Path | None) -> tuple[Dataset | None, str]:
    try:
        return open_dataset(registry.load("dataset", name), root), ""
    except UserError as error:
        return None, str(error)
