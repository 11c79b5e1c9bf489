"""Images for the page, from what a run leaves behind."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from harness.data.base import open_mask, open_rgb
from harness.data.toy import Toy
from harness.report.dataframe import load_results
from harness.report.overlays import images_of
from harness.results.store import Store
from tests.conftest import TINY, Run


def test_images_have_ground_truth_and_every_mask_that_is_still_there(here: Run, toy: Path, tmp_path: Path) -> None:
    ran = here("run", "--methods", "cam,sanity-random", "--refine", "none,crf:vitpcm", *TINY)
    assert ran.returncode == 0, ran.stderr
    results, store, dataset = load_results(tmp_path / "results"), Store(tmp_path / "results"), Toy(toy)
    shown = list(images_of(results, dataset, "val", store, 3))
    assert len(shown) == 3
    for image in shown:
        assert image.caption == "toy, val, protocol strict, version 2"
        assert [name for name, _ in image.overlays] == ["ground truth", "cam BPM", "cam +crf:vitpcm"]
        assert np.array_equal(image.overlays[0][1], open_mask(dataset.mask_path(image.id)))
        assert isinstance(image.photo, Path)
        assert {mask.shape for _, mask in image.overlays} == {open_rgb(image.photo).shape[:2]}
    record = results[(results.method == "cam") & (results.refine == "none")].iloc[0].record
    (key,) = record["artefacts"]["splits"]["val"]["mask"]
    stored = store.need("mask", key).file(f"{shown[0].id}.png")
    assert np.array_equal(shown[0].overlays[1][1], open_mask(stored))
    store.discard("mask", key)
    left = next(images_of(results, dataset, "val", store, 3))
    assert [name for name, _ in left.overlays] == ["ground truth", "cam +crf:vitpcm"]
