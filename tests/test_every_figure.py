"""What every figure keeps to: equal bytes for equal input, nothing where there is nothing, colours for all eyes."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from itertools import combinations
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from harness.data.base import Dataset
from harness.report.dataframe import frame, load_results
from harness.report.figures import (
    COLOURS,
    Drawn,
    class_bars,
    confusion_matrix,
    cost_figure,
    extreme_images,
    heatmaps_figure,
    learning_curves,
    parameters_figure,
    qualitative_figure,
    threshold_curves,
)
from harness.results.store import Store
from tests.test_figures import BAD, GOOD, Tiny, add, drawn, rows, store, tiny
from tests.test_figures_against_miou import PUBLISHED, ROOT

__all__ = ["store", "tiny"]  # fixtures

Figure = Callable[[pd.DataFrame, Dataset, Store, Path], Drawn]
FIGURES: dict[str, Figure] = {
    "parameters": lambda found, _, __, path: parameters_figure(found, PUBLISHED, path),
    "bars": lambda found, _, __, path: class_bars(found, path, "val"),
    "heatmaps": lambda found, data, store, path: heatmaps_figure(found, data, store, path, "val"),
    "qualitative": lambda found, data, store, path: qualitative_figure(found, data, store, path, "val"),
    "extremes": lambda found, data, store, path: extreme_images(found, data, store, path, "val"),
    "learning": lambda found, _, store, path: learning_curves(found, path),
    "thresholds": lambda found, _, store, path: threshold_curves(found, store, path, "val"),
    "cost": lambda found, _, store, path: cost_figure(found, path, "val"),
    "confusion": lambda found, _, store, path: confusion_matrix(found, store, path, "val"),
}
FROM_RECORDS = {"parameters", "bars", "learning", "cost"}


@pytest.mark.parametrize("name", FIGURES)
def test_the_same_input_gives_the_same_bytes(name: str, store: Store, tiny: Tiny, tmp_path: Path) -> None:
    add(store, "vitpcm", GOOD, losses=[0.8, 0.6])
    add(store, "cam", BAD, losses=[0.9, 0.7])
    results = rows(store)
    once = FIGURES[name](results, tiny, store, tmp_path / "one.v1")
    again = FIGURES[name](results.iloc[::-1], tiny, store, tmp_path / "two.v1")
    drawn(once)
    assert [path.name for path in again.files] == ["two.v1.png", "two.v1.svg"]
    assert [path.read_bytes() for path in once.files] == [path.read_bytes() for path in again.files]
    assert b"<dc:date" not in once.files[1].read_bytes()


def test_another_process_draws_the_same_bytes(tmp_path: Path) -> None:
    script = """
import sys
from pathlib import Path
from harness.registry import Registry
from harness.report.figures import parameters_figure
from harness.report.dataframe import frame
from harness.report.published import published
parameters_figure(frame([]), published(Registry()), Path(sys.argv[1]))
assert "torch" not in sys.modules
"""
    command = [sys.executable, "-c", script, str(tmp_path / "other")]
    subprocess.run(command, check=True, env=os.environ | {"PYTHONHASHSEED": "7"}, timeout=120)
    for path in parameters_figure(frame([]), PUBLISHED, tmp_path / "here").files:
        assert path.read_bytes() == path.with_stem("other").read_bytes()


@pytest.mark.parametrize("name", sorted(FIGURES.keys() - FROM_RECORDS))
def test_records_without_artefacts_are_told_and_break_nothing(name: str, tiny: Tiny, tmp_path: Path) -> None:
    folder = ROOT / "results" / "reference" / "demo"
    result = FIGURES[name](load_results(folder), tiny, Store(folder), tmp_path / "figure")
    assert (result.figure, result.files) == (None, ())
    assert any(line.startswith("no ") and "artefact" in line for line in result.left_out)
    assert not list(tmp_path.glob("figure*"))


@pytest.mark.parametrize("name", FIGURES)
def test_nothing_scored_is_no_figure(name: str, store: Store, tiny: Tiny, tmp_path: Path) -> None:
    if name == "parameters":
        assert parameters_figure(rows(store), [], tmp_path / "p").left_out == ("nothing of voc12 val",)
        return
    result = FIGURES[name](rows(store), tiny, store, tmp_path / "figure")
    assert result.files == ()
    assert result.left_out[0].startswith(("nothing", "no score maps"))


# Machado, Oliveira and Fernandes (2009), severity 1, of linear RGB.
SIGHT = {
    "usual": np.eye(3),
    "protanopia": np.array([[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216],
                            [-0.003882, -0.048116, 1.051998]]),
    "deuteranopia": np.array([[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413],
                              [-0.011820, 0.042940, 0.968881]]),
    "tritanopia": np.array([[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602],
                            [0.004733, 0.691367, 0.303900]]),
}  # fmt: skip


@pytest.mark.parametrize("sight", SIGHT)
def test_colours_are_told_apart_by_all_eyes(sight: str) -> None:
    seen = [_lab(SIGHT[sight] @ _linear(colour)) for colour in COLOURS]
    assert min(np.linalg.norm(one - other) for one, other in combinations(seen, 2)) > 10


def _linear(colour: str) -> np.ndarray:
    share = np.array([int(colour[n : n + 2], 16) for n in (1, 3, 5)]) / 255
    return np.where(share <= 0.04045, share / 12.92, ((share + 0.055) / 1.055) ** 2.4)


def _lab(linear: np.ndarray) -> np.ndarray:
    """Return CIE Lab under D65."""
    to_xyz = np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]])
    xyz = to_xyz @ linear.clip(0, 1) / [0.9505, 1.0, 1.089]
    f = np.where(xyz > (6 / 29) ** 3, np.cbrt(xyz), xyz / (3 * (6 / 29) ** 2) + 4 / 29)
    return np.array([116 * f[1] - 16, 500 * (f[0] - f[1]), 200 * (f[1] - f[2])])
