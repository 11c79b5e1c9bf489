"""The archive for VOC's server: complete, in its form, and of masks that no ground truth has touched."""

from __future__ import annotations

import copy
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from harness.data.base import save_mask, voc_palette
from harness.data.voc import VOC12
from harness.results.store import Store
from harness.strict import digest
from tests.conftest import Run
from tests.stores import publish

COUNT = VOC12.official["test"]
FOLDER = "results/VOC2012/Segmentation/comp6_test_cls"


def png(folder: Path, value: int) -> bytes:
    path = folder / f"{value}.png"
    if not path.exists():
        save_mask(path, np.full((4, 6), value, np.uint8))
    return path.read_bytes()


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store with one cell on VOC 2012 test, whose masks all show what their number says."""
    folder = tmp_path_factory.mktemp("results")
    store = Store(folder, create=True)
    ids = [f"2008_{number:06d}" for number in range(COUNT)]
    publish(store, "labels", digest("labels"), {"labels.json": str({"ids": ids}).replace("'", '"').encode()})
    place: dict[str, Any] = {"labels": digest("labels")}
    for stage, shift in (("mask", 0), ("segment", 1)):
        place[stage] = []
        for shard in range(0, COUNT, 256):
            masks = {f"{ids[n]}.png": png(folder, (n + shift) % 21) for n in range(shard, min(shard + 256, COUNT))}
            place[stage].append(digest([stage, shard]))
            publish(store, stage, place[stage][-1], masks)
    spec = {"dataset": "voc12", "protocol": {"eval_splits": ["val", "test"]}}
    record = {
        "key": digest("cell"), "title": "a cell", "status": "done", "ended": "", "spec": spec, "metrics": {},
        "classes": list(VOC12.classes),
        "pictures": {"test": COUNT}, "applied": {"gating": {"test": "none"}}, "verifier": {},
        "artefacts": {"splits": {"test": place}},
    }  # fmt: skip
    store.write_record(record)
    return folder


def variant(results: Path, **changes: Any) -> str:
    """Add the cell with changes; return its key."""
    store = Store(results)
    record = copy.deepcopy(store.record(digest("cell"))) or {}
    for path, value in changes.items():
        *outer, last = path.split("__")
        target = record
        for name in outer:
            target = target[name]
        target.pop(last) if value is None else target.update({last: value})
    record["key"] = digest(sorted(changes))
    store.write_record(record)
    return str(record["key"])


@pytest.mark.parametrize(("changes", "shift"), [({}, 1), ({"verifier": None}, 0)])
def test_the_archive_holds_every_mask_of_the_verifier_or_else_of_the_method(
    here: Run, results: Path, tmp_path: Path, changes: dict[str, Any], shift: int
) -> None:
    run = variant(results, **changes)
    found = here("export", "voc-test", run, "--out", "out", "--results", str(results))
    assert found.returncode == 0, found.stderr
    with tarfile.open(tmp_path / "out" / "comp6_test_cls.tar.gz") as packed:
        names = packed.getnames()
        assert {member.uname for member in packed.getmembers()} == {""}
        kept = packed.extractfile(names[5])
        assert kept is not None
        image = Image.open(kept)
        image.load()
    assert names == [f"{FOLDER}/2008_{number:06d}.png" for number in range(COUNT)]
    assert (np.asarray(image) == 5 + shift).all()
    assert image.mode == "P"
    assert image.getpalette()[:63] == voc_palette()[:63]
    assert len(list((tmp_path / "out" / FOLDER).iterdir())) == COUNT


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"verifier": None, "applied__gating": {"test": "gt"}}, "gated by ground-truth image labels"),
        ({"spec__dataset": "voc12-animals"}, "is of voc12-animals, and the server is VOC's"),
        ({"spec__protocol": {"eval_splits": ["val"]}}, "has no masks of test: run it with"),
        ({"pictures__test": 12}, f"has 12 of the {COUNT} images"),
        ({"classes": ["background", "cat"]}, "knows 2 of 21 classes"),
        ({"status": "failed"}, "is failed: nothing to hand in"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_the_server_must_not_get_is_refused(
    here: Run, results: Path, tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    run = variant(results, **changes)
    found = here("export", "voc-test", run, "--out", "out", "--results", str(results))
    assert found.returncode == 2
    assert message in found.stderr
    assert len(found.stderr.splitlines()) <= 2
    assert not (tmp_path / "out").exists()


def test_a_folder_with_something_in_it_and_an_unknown_form_are_refused(
    here: Run, results: Path, tmp_path: Path
) -> None:
    (tmp_path / "out" / FOLDER).mkdir(parents=True)
    (tmp_path / "out" / FOLDER / "mine.png").touch()
    found = here("export", "voc-test", digest("cell"), "--out", "out", "--results", str(results))
    assert (found.returncode, "is not empty: --out names another folder" in found.stderr) == (2, True)
    found = here("export", "voc-tset", digest("cell"), "--out", "out", "--results", str(results))
    assert (found.returncode, "did you mean 'voc-test'" in found.stderr) == (2, True)
