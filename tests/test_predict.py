"""What `predict` shows and takes, and what `evaluate` refuses, by the right values."""

from __future__ import annotations

import io
import struct
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from harness.errors import UserError
from harness.external import read_maps
from harness.inputs import Inputs
from harness.predict import contact_sheet, images_in
from harness.registry import Registry
from harness.run.plan import Plan, plan_cells
from harness.spec import Grid, expand
from tests.data.drawn import draw, draw_voc

REGISTRY = Registry()


@pytest.fixture
def voc(tmp_path: Path) -> Path:
    return draw_voc(tmp_path / "voc")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "scores").mkdir()
    return tmp_path / "scores"


def test_every_image_stands_on_the_contact_sheet(tmp_path: Path) -> None:
    colours = [(200, 0, 0), (0, 200, 0), (0, 0, 200), (200, 200, 0), (0, 200, 200), (200, 0, 200), (90, 90, 90)]
    images = [(f"$\\{n}_$", np.full((30, 40, 3), colour, np.uint8), ["a"]) for n, colour in enumerate(colours)]
    contact_sheet(images, tmp_path / "sheet.png")
    seen = {tuple(pixel) for pixel in np.asarray(Image.open(tmp_path / "sheet.png").convert("RGB")).reshape(-1, 3)}
    assert seen >= set(colours)


def test_images_are_those_that_can_be_opened_and_the_rest_is_counted(tmp_path: Path) -> None:
    for name in ("b.JPG", "a.png", "c.heic", "d.HEIC", "e.gif", "notes", ".hidden.png"):
        (tmp_path / name).touch()
    paths, others = images_in(tmp_path)
    assert [path.name for path in paths] == ["a.png", "b.JPG"]
    assert others == {".heic": 2, ".gif": 1, "notes": 1}
    (tmp_path / "a.jpg").touch()
    with pytest.raises(UserError, match=r"a\.jpg and a\.png would have the same mask, a\.png: rename one"):
        images_in(tmp_path)


def evaluated(voc: Path, scores: Path) -> Plan:
    settings = {"external.kind": "scores", "external.folder": str(scores), "protocol.eval_splits": "val"}
    cells = expand([Grid(methods="external", datasets="voc12", set=settings)], REGISTRY)
    return plan_cells(cells, Inputs(REGISTRY, voc / "none", voc))


def maps(height: int = 10, width: int = 12) -> np.ndarray:
    return np.full((20, height, width), 0.5, np.float32)


def test_two_files_of_one_id_are_refused(voc: Path, folder: Path) -> None:
    np.save(folder / "v0.npy", maps())
    plan = evaluated(voc, folder)
    assert [planned.cell.spec.protocol.label_source for planned in plan.cells] == ["masks"]
    assert "voc12 has no annotations here: its image labels are derived from the masks" in plan.notes
    np.savez(folder / "v0.npz", scores=maps())
    with pytest.raises(UserError, match=r"v0: has 2 files: v0\.npy, v0\.npz; keep one"):
        evaluated(voc, folder)


def test_maps_with_swapped_sides_are_remarked_on(voc: Path, folder: Path) -> None:
    draw(voc / "JPEGImages" / "v1.jpg")
    (voc / "SegmentationClassAug" / "v1.png").write_bytes((voc / "SegmentationClassAug" / "v0.png").read_bytes())
    (voc / "ImageSets" / "Segmentation" / "val.txt").write_text("v0\nv1\n")
    for image_id in ("v0", "v1"):
        np.save(folder / f"{image_id}.npy", maps(6, 5))
    assert any("are they transposed?" in note for note in evaluated(voc, folder).notes)
    for image_id in ("v0", "v1"):
        np.save(folder / f"{image_id}.npy", maps(5, 6))
    assert not any("are they transposed?" in note for note in evaluated(voc, folder).notes)


def false_header(shape: tuple[int, ...]) -> bytes:
    text = f"{{'descr': '<f4', 'fortran_order': False, 'shape': {shape}, }}".ljust(117) + "\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text.encode()


def zipped(**arrays: np.ndarray) -> bytes:
    file = io.BytesIO()
    np.savez(file, **arrays)
    return file.getvalue()


@pytest.mark.parametrize(
    ("name", "data", "why"),
    [
        ("a.npy", b"", "empty file"),
        ("a.npz", b"", "empty file"),
        ("a.npy", false_header((20, 1 << 20, 1 << 20)), "."),
        ("a.npy", false_header((20, 4, 4)), "."),
        ("a.npy", b"not an array", "."),
        ("a.npz", zipped(scores=maps())[:100], "."),
        ("a.npz", zipped(other=maps()), "holds other, expected an array called scores"),
        ("a.npz", zipped(scores=maps()[:2], classes=np.array([0.0, 1.0])), "its classes are float64 of shape"),
        ("a.npz", zipped(scores=maps()[:2], classes=np.array([1, 1])), "name one twice"),
        ("a.npz", zipped(scores=maps()[:2], classes=np.array([0, 20])), "do not name 2 of 0..19"),
        ("a.npy", np.lib.format.magic(9, 9) + b"\0" * 100, "."),
    ],
)
def test_odd_files_of_scores_are_refused_in_one_line(tmp_path: Path, name: str, data: bytes, why: str) -> None:
    (tmp_path / name).write_bytes(data)
    with pytest.raises((ValueError, OSError), match=why):
        read_maps(tmp_path / name, 21, False, "activation")
