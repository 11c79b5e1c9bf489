"""A background from saliency maps: the rules by hand, and a cell that is given a folder of maps."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from wsss_methods.saliency import Saliency, SaliencyParams

from harness import Folder
from harness.data.toy import Toy
from tests.conftest import TINY, Run


def best(rule: str, saliency: list[int], maps: list[list[float]], **settings: float) -> list[int]:
    """Return what a rule makes of one row of pixels: 0 the background, then the classes, then no label."""
    refiner = Saliency(SaliencyParams(rule=rule, **settings))  # type: ignore[arg-type]
    scores = getattr(refiner, rule)(np.array([saliency], np.uint8), np.array(maps, np.float32)[:, None])
    return list(scores.argmax(0)[0])


def test_edam_takes_what_is_not_salient_for_background_but_for_exact_peaks() -> None:
    assert best("edam", [0, 20, 21, 255], [[0.5, 1, 0.5, 0]]) == [0, 1, 1, 0]


def test_icd_leaves_open_what_saliency_and_classes_disagree_on() -> None:
    assert best("icd", [2, 3, 2, 3], [[0, 0.5, 0.5, 0]], background=2) == [0, 1, 2, 2]
    nearly_dark = [255, *[0] * 199]  # below 1 %: what a class claims is not background then
    assert best("icd", nearly_dark, [[0.5] * 100 + [0] * 100], background=2) == [1] * 100 + [0] * 100


def test_mcis_leaves_open_two_sure_classes_and_a_sure_class_on_a_background() -> None:
    # with a first and a last pixel that make the stretching of each map the identity
    saliency = [0, 204, 255, 26, 255]
    first, second = [0, 0.5, 0.995, 0.95, 1], [0, 0.1, 0.995, 0, 1]
    assert best("mcis", saliency, [first, second]) == [0, 1, 3, 1, 3]  # 0.95 beats 1 - 26 / 255
    assert best("mcis", [0, 8, 255], [[0, 0.96, 1]]) == [0, 2, 1]  # a background by 0.009, which 0.96 contradicts
    assert best("mcis", [0, 40, 255], [[0, 0.2, 1]]) == [0, 2, 1]  # a background that is salient
    nothing = best("mcis", [0] * 300, [[0.0] * 299 + [1.0]])
    assert nothing == [2] * 300  # less than 1 % of the image is foreground


def test_a_folder_counts_by_its_files_and_their_contents(tmp_path: Path) -> None:
    for name in "ab":
        (tmp_path / name).mkdir()
        (tmp_path / name / "1.png").write_bytes(b"one")
    first, second = (Folder.parse(str(tmp_path / name)) for name in "ab")
    assert first == second
    (tmp_path / "b" / "1.png").rename(tmp_path / "b" / "2.png")
    assert Folder.parse(str(tmp_path / "b")) != first
    folder = Folder.parse(str(tmp_path / "b"))
    assert list(folder.files()) == ["2"]
    assert folder.files() is folder.files()  # a folder of ten thousand maps is hashed once, and not for every image
    with pytest.raises(ValueError, match="no folder"):
        Folder.parse(str(tmp_path / "b" / "2.png"))


def test_a_run_is_given_maps_says_so_and_refuses_before_it_starts(here: Run, toy: Path, tmp_path: Path) -> None:
    run = (
        "run", "--methods", "cam", *TINY, "--limit", "2",
        "--set", "protocol.eval_splits=train", "--refine", "saliency:edam", "--results", "results",
    )  # fmt: skip
    bare = here(*run)
    assert bare.returncode == 2
    assert "saliency:edam on toy/train: needs saliency maps: --input saliency=FOLDER" in bare.stderr
    maps, dataset = tmp_path / "maps", Toy(toy)
    maps.mkdir()
    first, second = dataset.ids("train")[:2]
    Image.open(dataset.mask_path(first)).point([0] * 256).save(maps / f"{first}.png")
    lacking = here(*run, "--input", "saliency=maps")
    assert lacking.returncode == 2
    assert f"no saliency map of 1 of 2 images, as {second}" in lacking.stderr
    Image.open(dataset.mask_path(second)).point([0] * 256).save(maps / f"{second}.png")
    done = here(*run, "--input", "saliency=maps", "--json")
    assert done.returncode == 0, done.stderr
    (record,) = [json.loads(path.read_text()) for path in (tmp_path / "results" / "records").iterdir()]
    assert record["supervision"] == ["image_labels", "saliency"]
    assert record["spec"]["refiner"]["saliency"].keys() == {"folder", "sha256"}
    (mask,) = {path.parent for path in (tmp_path / "results" / "artefacts" / "mask").rglob(f"{first}.png")}
    assert (np.array(Image.open(mask / f"{first}.png")) == 0).mean() > 0.9  # but for exact peaks
    shown = here("show", record["key"], "--reproduce", "--results", "results")
    assert "saliency.saliency=FOLDER" in shown.stdout


def test_an_input_that_nothing_takes_is_refused(here: Run) -> None:
    ran = here("run", "--methods", "cam", "--input", "saliency=.")
    assert ran.returncode == 2
    assert "--input saliency: no method or refiner of this run takes it" in ran.stderr
