"""Small wrong inputs, drawn here, each with the line that it must end in, or the remark that it must get."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from harness.data.base import open_mask, open_rgb
from harness.errors import UserError
from harness.inputs import Inputs
from harness.registry import Registry
from harness.run.plan import Plan, plan_cells
from harness.spec import Grid, expand
from tests.data.drawn import FLAGS, draw, draw_mask, draw_voc

REGISTRY = Registry()


@pytest.fixture
def voc(tmp_path: Path) -> Path:
    return draw_voc(tmp_path / "voc")


@pytest.fixture
def mine(tmp_path: Path) -> Path:
    root = tmp_path / "mine"
    for number in range(3):
        draw(root / "images" / f"p{number}.png", 60 * number)
        draw_mask(root / "masks" / f"p{number}.png", 1)
    (root / "labels.csv").write_text("id,cat,dog\np0,1,0\np1,0,1\np2,1,0\n")
    return root


def planned(root: Path, dataset: str, methods: str = "sanity-labels", **changes: object) -> Plan:
    grid = Grid(methods=methods, datasets=dataset, set=changes)
    return plan_cells(expand([grid], REGISTRY), Inputs(REGISTRY, root / "none", root))


def from_file(voc: Path) -> Plan:
    return planned(voc, "voc12", **{"protocol.label_source": "file"})


@pytest.mark.parametrize(
    ("change", "line", "why"),
    [
        (lambda text: text.replace(",1", ",1.0"), 2, "each class needs 0 or 1, not '1.0'"),
        (lambda text: text.replace(",1", ",true"), 2, "each class needs 0 or 1, not 'true'"),
        (lambda text: text.replace(",1", ",2"), 2, "each class needs 0 or 1, not '2'"),
        (lambda text: text.replace(",1", ","), 2, "each class needs 0 or 1, not nothing"),
        (lambda text: text + f"t0{FLAGS}\n", 5, "this id stands here twice: t0"),
        (lambda text: text.replace(",", ";"), 1, "it is separated by ';' instead of ','"),
        (lambda text: text.replace(",", "\t"), 1, "it is separated by '\\t' instead of ','"),
        (lambda text: text.replace("t1,0", "t1"), 3, "20 values for 21 columns"),
        (lambda text: text.replace("t1,0", "t1,0,0"), 3, "22 values for 21 columns"),
        (
            lambda text: text.replace("id,aeroplane,bicycle", "id,bicycle,bicycle"),
            1,
            "column 'bicycle' stands here twice",
        ),
        (lambda text: text.replace("t1,", ",", 1), 3, "no id"),
        (lambda text: text.replace("t1,0", 't1,"0'), 4, "not a table"),
        (lambda text: "", 1, "does not begin with a line of columns"),
    ],
)
def test_a_wrong_table_of_labels_is_named_with_its_line_in_every_layout(
    voc: Path, mine: Path, change: Callable[[str], str], line: int, why: str
) -> None:
    path = voc / "image_labels.csv"
    path.write_text(change(path.read_text()))
    with pytest.raises(UserError) as error:
        from_file(voc)
    problem, *sample = str(error.value).splitlines()
    assert f"image_labels.csv:{line}: " in problem
    assert why in problem
    assert sample == ["id,aeroplane,bicycle,…", "2007_000032,1,0,…"]


@pytest.mark.parametrize("change", [lambda data: b"\xef\xbb\xbf" + data, lambda data: data.replace(b"\n", b"\r\n\r\n")])
def test_a_mark_of_bytes_and_other_ends_of_lines_are_read(voc: Path, change: Callable[[bytes], bytes]) -> None:
    path = voc / "image_labels.csv"
    before = from_file(voc).cells[0].key
    path.write_bytes(change(path.read_bytes()))
    assert from_file(voc).cells[0].key == before


@pytest.mark.parametrize("encoding", ["utf-16", "latin-1"])
def test_other_encodings_are_refused(mine: Path, encoding: str) -> None:
    path = mine / "labels.csv"
    path.write_bytes(path.read_text().replace("cat", "kätzchen").encode(encoding))
    with pytest.raises(UserError, match=r"labels\.csv: byte \d+ is not UTF-8: save the file as UTF-8"):
        planned(mine, "folder")


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("t0 -1\nt1  1\n", ":1: expected one id a line, .* VOC's list of a class, with flags"),
        ("t0\n/JPEGImages/t1.jpg /SegmentationClassAug/t1.png\n", ":2: expected one id a line, .* as DeepLab's"),
        ("t0.jpg\n", ":1: expected one id a line, .* as DeepLab's"),
        ("t0\nt0\n", ":2: the id t0 stands here twice"),
    ],
)
def test_lists_of_another_kind_are_known_by_their_looks(voc: Path, text: str, why: str) -> None:
    (voc / "ImageSets" / "Segmentation" / "train.txt").write_text(text)
    with pytest.raises(UserError, match=r"train\.txt" + why):
        from_file(voc)


def test_images_of_val_that_are_trained_on_are_counted_in_the_remark_and_the_record(voc: Path) -> None:
    lists = voc / "ImageSets" / "Segmentation"
    (lists / "val.txt").write_text("v0\nt1\nv1\n")  # t1 by its id, v1 by its content
    for folder, suffix in (("JPEGImages", "jpg"), ("SegmentationClassAug", "png")):
        (voc / folder / f"v1.{suffix}").write_bytes((voc / folder / f"t0.{suffix}").read_bytes())
    path = voc / "image_labels.csv"
    path.write_text(path.read_text() + f"v1{FLAGS}\n")
    plan = from_file(voc)
    assert "2 images of voc12/val are in train_aug too, which is trained on" in plan.notes
    assert plan.cells[0].about["overlaps"] == {"val": 2}


def test_suffixes_in_capitals_are_found(voc: Path, mine: Path) -> None:
    (voc / "JPEGImages" / "t0.jpg").rename(voc / "JPEGImages" / "t0.JPG")
    (mine / "images" / "p0.png").rename(mine / "images" / "p0.PNG")
    (mine / "masks" / "p0.png").rename(mine / "masks" / "p0.PNG")
    assert from_file(voc).cells
    assert planned(mine, "folder", "sanity-oracle").cells


def test_two_images_of_one_id_are_refused(mine: Path) -> None:
    draw(mine / "images" / "p0.jpg")
    with pytest.raises(UserError, match="p0: has 2 files: p0.jpg, p0.png; keep one"):
        planned(mine, "folder")


def test_too_many_classes_are_refused_before_the_run(mine: Path) -> None:
    names = [f"c{number}" for number in range(255)]
    (mine / "labels.csv").write_text(f"id,{','.join(names)}\np0{',1' * 255}\n")
    with pytest.raises(UserError, match="folder has 255 classes; an indexed mask holds at most 254"):
        planned(mine, "folder")


def test_a_split_without_a_labelled_pixel_is_refused(mine: Path) -> None:
    for number in range(3):
        draw_mask(mine / "masks" / f"p{number}.png", 255, 255)
    with pytest.raises(UserError, match="folder/train has no labelled pixel of the classes that count"):
        planned(mine, "folder", "sanity-oracle")


def test_an_oracle_of_a_dataset_without_masks_is_refused(mine: Path) -> None:
    for path in (mine / "masks").iterdir():
        path.unlink()
    (mine / "masks").rmdir()
    with pytest.raises(UserError, match="sanity-oracle is made of masks, and dataset folder has none here"):
        planned(mine, "folder", "sanity-oracle")


def test_masks_that_are_jpegs_are_refused_whatever_they_are_called(mine: Path) -> None:
    Image.fromarray(np.zeros((10, 12), np.uint8)).save(mine / "masks" / "p0.png", "JPEG")
    with pytest.raises(UserError, match="p0: is a JPEG, which blurs class indices"):
        planned(mine, "folder", "sanity-oracle")


@pytest.mark.parametrize("mode", ["1", "RGB", "RGBA", "I;16"])
def test_masks_of_other_modes_are_refused_by_name(tmp_path: Path, mode: str) -> None:
    Image.new(mode, (4, 4)).save(tmp_path / "mask.png")
    with pytest.raises(ValueError, match=f"holds {mode} colours, not class indices"):
        open_mask(tmp_path / "mask.png")


def test_remarks_on_masks_that_mean_something_else_than_they_seem_to(mine: Path) -> None:
    for number in range(3):
        draw_mask(mine / "masks" / f"p{number}.png", 255)
    (mine / "labels.csv").write_text("id,split,cat\np0,train,1\np1,train,1\np2,val,1\n")
    exif = Image.Exif()
    exif[0x0112] = 3
    Image.new("RGB", (12, 10)).save(mine / "images" / "p0.png", exif=exif)
    notes = planned(mine, "folder", "sanity-oracle").notes
    assert "the masks of folder/train hold only 0 and 255, which is not labelled: did you mean 1?" in notes
    assert "1 images of folder/train are turned by their EXIF tag: their masks must be upright" in notes
    unscored = "labels.csv has images that are not scored: 1 of val; --set protocol.eval_splits=train,val scores them"
    assert unscored in notes


def test_sixteen_bits_are_scaled_and_ranges_that_are_not_known_are_refused(tmp_path: Path) -> None:
    values = np.array([[0, 257, 32896, 65535]], np.uint16)
    Image.fromarray(values).save(tmp_path / "grey.png")
    assert open_rgb(tmp_path / "grey.png").tolist() == [[[0] * 3, [1] * 3, [128] * 3, [255] * 3]]
    for kind in (np.int32, np.float32):
        Image.fromarray(values.astype(kind)).save(tmp_path / "odd.tiff")
        with pytest.raises(ValueError, match="whose range is not known: save it with 8 or 16 bits"):
            open_rgb(tmp_path / "odd.tiff")


@pytest.mark.parametrize(
    ("mode", "colour", "seen"),
    [("CMYK", (0, 255, 255, 0), (254, 0, 0)), ("LA", (50, 0), (255, 255, 255)), ("RGBA", (9, 9, 9, 255), (9, 9, 9))],
)
def test_other_modes_are_shown_as_they_look(
    tmp_path: Path, mode: str, colour: tuple[int, ...], seen: tuple[int, ...]
) -> None:
    path = tmp_path / ("image.tiff" if mode == "CMYK" else "image.png")
    Image.new(mode, (2, 2), colour).save(path)
    assert open_rgb(path)[0, 0].tolist() == pytest.approx(seen, abs=1)
