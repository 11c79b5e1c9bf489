from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from harness.data.base import open_mask, open_rgb, save_mask, voc_palette
from harness.data.index import SplitIndex, index_split
from harness.data.toy import Toy, ToyHard
from harness.data.voc import VOC12, VOC12Animals
from harness.errors import UserError
from harness.inputs import open_dataset


class Small(Toy):
    """A few toy images, to break."""

    name = "small"
    sizes = {"train": 6, "val": 3}


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("small") / "small"
    Small(root).prepare()
    return root


@pytest.fixture
def small(drawn: Path, tmp_path: Path) -> Small:
    """A copy of the drawn images."""
    return Small(Path(shutil.copytree(drawn, tmp_path / "copy")))


def check(dataset: Toy, split: str = "train", source: str = "masks", cache: Path | None = None) -> SplitIndex:
    return index_split(dataset, split, label_source=source, masks=True, cache=cache)


def test_toy_is_the_same_every_time(drawn: Path, tmp_path: Path) -> None:
    again = Small(tmp_path / "again")
    again.prepare()
    assert check(again).digest == check(Small(drawn)).digest
    assert check(again).digest != check(again, "val").digest


def test_toy_masks_hold_every_class_and_images_vary() -> None:
    dataset = open_dataset(Toy, None)
    index = check(dataset, "val")  # type: ignore[arg-type]
    assert {label for image in index.images for label in image.labels} == {1, 2, 3, 4}
    assert len({(image.height, image.width) for image in index.images}) > 40
    assert {len(image.labels) for image in index.images} >= {1, 2, 3}


def test_toy_hard_has_more_classes_and_images() -> None:
    assert len(ToyHard.classes) > len(Toy.classes)
    assert ToyHard.sizes["train"] > Toy.sizes["train"]


def test_a_second_drawing_beside_the_first_changes_nothing(small: Small) -> None:
    before = sorted((path.name, path.stat().st_mtime_ns) for path in small.root.rglob("*"))
    small.prepare()
    assert before == sorted((path.name, path.stat().st_mtime_ns) for path in small.root.rglob("*"))


def test_labels_from_xml_equal_labels_from_masks(small: Small) -> None:
    by_mask = [image.labels for image in check(small).images]
    by_xml = [image.labels for image in check(small, source="xml").images]
    assert by_mask == by_xml


def test_labels_from_a_file(small: Small) -> None:
    rows = ["id," + ",".join(small.classes[1:])]
    rows += [f"{image_id},0,1,0,0" for image_id in small.ids("train")]
    (small.root / "image_labels.csv").write_text("\n".join(rows) + "\n")
    assert {image.labels for image in check(small, source="file").images} == {(2,)}
    with pytest.raises(UserError, match="no line for val_0000"):
        check(small, "val", source="file")


def test_missing_annotations_say_what_to_do(small: Small) -> None:
    shutil.rmtree(small.root / "Annotations")
    with pytest.raises(UserError, match=r"Annotations/train_0000\.xml is missing .*label_source=masks"):
        check(small, source="xml")


def _truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:500])


def _colour(path: Path) -> None:
    Image.fromarray(np.repeat(open_mask(path)[..., None], 3, 2)).save(path)


def _small_mask(path: Path) -> None:
    save_mask(path, np.zeros((7, 9), np.uint8))


def _undefined(path: Path) -> None:
    mask = open_mask(path).copy()
    mask[0, 0] = 77
    save_mask(path, mask)


@pytest.mark.parametrize(
    ("folder", "suffix", "spoil", "message"),
    [
        ("JPEGImages", "jpg", _truncate, "train_0001: cannot be decoded: .*[Tt]runcated"),
        ("JPEGImages", "jpg", Path.unlink, r"train_0001: JPEGImages/train_0001\.jpg is missing"),
        ("JPEGImages", "jpg", lambda path: path.write_text("hello"), "train_0001: cannot be decoded"),
        ("SegmentationClass", "png", _truncate, "train_0001: cannot be decoded"),
        ("SegmentationClass", "png", _colour, "train_0001: holds RGB colours, not class indices"),
        ("SegmentationClass", "png", _small_mask, r"train_0001: mask is 7x9, image \d+x\d+"),
        ("SegmentationClass", "png", _undefined, "train_0001: mask holds undefined index 77"),
        ("SegmentationClass", "png", Path.unlink, r"train_0001: SegmentationClass/train_0001\.png is missing"),
    ],
)
def test_a_bad_image_is_named_by_id_before_anything_runs(
    small: Small, folder: str, suffix: str, spoil, message: str
) -> None:  # type: ignore[no-untyped-def]
    spoil(small.root / folder / f"train_0001.{suffix}")
    with pytest.raises(UserError, match=message) as error:
        check(small)
    assert "1 of 6 images cannot be used" in str(error.value)
    assert "\n" not in str(error.value)


def test_every_bad_image_is_counted(small: Small) -> None:
    for path in (small.root / "JPEGImages").glob("train*"):
        _truncate(path)
    with pytest.raises(UserError, match="6 of 6 images cannot be used: .*train_0005"):
        check(small)


@pytest.mark.parametrize("mode", ["L", "CMYK", "RGBA", "LA", "P", "1", "I;16"])
def test_any_mode_becomes_rgb(tmp_path: Path, mode: str) -> None:
    path = tmp_path / ("x.jpg" if mode == "CMYK" else "x.png")
    image = Image.new(mode, (5, 4))
    image.save(path)
    array = open_rgb(path)
    assert array.shape == (4, 5, 3)
    assert array.dtype == np.uint8


def test_transparency_becomes_white_and_exif_turns_upright(tmp_path: Path) -> None:
    Image.new("RGBA", (2, 2), (200, 0, 0, 0)).save(tmp_path / "clear.png")
    assert (open_rgb(tmp_path / "clear.png") == 255).all()
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (8, 4)).save(tmp_path / "turned.jpg", exif=exif)
    assert open_rgb(tmp_path / "turned.jpg").shape == (8, 4, 3)


def test_the_check_pass_remembers_files_and_sees_changes(small: Small, tmp_path: Path) -> None:
    first = check(small, cache=tmp_path)
    assert check(small, cache=tmp_path).digest == first.digest
    mask = open_mask(small.mask_path("train_0000")).copy()
    mask[0, 0] = 255
    save_mask(small.mask_path("train_0000"), mask)
    assert check(small, cache=tmp_path).digest != first.digest
    (tmp_path / "files-small.json").write_text("not json")
    assert check(small, cache=tmp_path).digest != first.digest


def test_an_id_twice_and_an_empty_split_are_refused(small: Small) -> None:
    lists = small.root / "ImageSets" / "Segmentation"
    (lists / "train.txt").write_text("train_0000\ntrain_0000\n")
    with pytest.raises(UserError, match="the id train_0000 stands here twice"):
        check(small)
    (lists / "train.txt").write_text("\n")
    with pytest.raises(UserError, match="is empty"):
        check(small)


def test_voc_is_found_from_any_of_its_folders(tmp_path: Path) -> None:
    inner = tmp_path / "VOCdevkit" / "VOC2012"
    (inner / "JPEGImages").mkdir(parents=True)
    assert {VOC12(root).folder for root in (tmp_path, tmp_path / "VOCdevkit", inner)} == {inner}
    with pytest.raises(UserError, match="no split files"):
        open_dataset(VOC12, tmp_path)
    with pytest.raises(UserError, match="holds no voc12"):
        open_dataset(VOC12, inner / "JPEGImages")
    with pytest.raises(UserError, match="needs its folder: --root"):
        open_dataset(VOC12, None)
    with pytest.raises(UserError, match="no folder"):
        open_dataset(VOC12, tmp_path / "none")


def test_the_augmented_masks_come_first_where_they_stand(tmp_path: Path) -> None:
    (tmp_path / "JPEGImages").mkdir()
    assert VOC12(tmp_path).mask_path("x").parent.name == "SegmentationClass"
    (tmp_path / "SegmentationClassAug").mkdir()
    assert VOC12(tmp_path).mask_path("x").parent.name == "SegmentationClassAug"


def test_voc12_animals_has_its_lists_and_classes() -> None:
    dataset = VOC12Animals(Path("/nowhere"))
    assert [len(dataset.ids(split)) for split in ("train", "train_aug", "val")] == [158, 1000, 300]
    assert set(dataset.ids("train")) <= set(dataset.ids("train_aug"))
    assert not set(dataset.ids("train_aug")) & set(dataset.ids("val"))
    assert [dataset.classes[i] for i in dataset.class_ids(())] == [
        "background",
        "cat",
        "cow",
        "dog",
        "horse",
        "person",
        "sheep",
    ]
    assert dataset.class_ids(("dog",)) == [0, 12]
    with pytest.raises(UserError, match=r"no class 'hors': did you mean 'horse'"):
        dataset.class_ids(("hors",))


def test_the_voc_palette() -> None:
    palette = np.array(voc_palette()).reshape(256, 3)
    assert palette[[0, 1, 2, 15, 20, 255]].tolist() == [
        [0, 0, 0], [128, 0, 0], [0, 128, 0], [192, 128, 128], [0, 64, 128], [224, 224, 192],
    ]  # fmt: skip
