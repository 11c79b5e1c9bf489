from __future__ import annotations

import csv
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as pycoco
from pycocotools.coco import COCO

from harness.data.base import open_mask
from harness.data.coco import COCO14, COCO_CLASSES, COCO14Smallest, COCO14VitPCM
from harness.data.prepare.coco import Annotation, paint, read_annotations
from harness.data.prepare.recipe import Preparation
from harness.errors import UserError
from tests.conftest import Run
from tests.data import official
from tests.data.official import Server, serving

HEIGHT, WIDTH = 260, 300
CATEGORY_IDS = [
    i for i in range(1, 91) if i not in (12, 26, 29, 30, 45, 66, 68, 69, 71, 83)
]  # the gaps of the official file
COUNTS = {"train": 4, "val": 2, "train_vitpcm": 2, "val_vitpcm": 2}


def square(top: int, left: int, side: int) -> list[float]:
    """A polygon that is not aligned with the pixels."""
    return [left + 0.3, top + 0.6, left + side + 0.2, top + 0.4, left + side + 0.7, top + side, left, top + side + 0.5]


def runs(area: np.ndarray, *, packed: bool) -> dict[str, Any]:
    """COCO's run-length encoding of (H, W) bool: of columns, beginning with what is not in it."""
    if packed:
        found = pycoco.encode(np.asfortranarray(area.astype(np.uint8)))
        return {"size": list(found["size"]), "counts": found["counts"].decode()}
    flat = area.ravel(order="F").astype(int)
    edges = np.flatnonzero(np.diff(flat)) + 1
    counts = np.diff([0, *edges, flat.size]).tolist()
    return {"size": list(area.shape), "counts": counts if not flat[0] else [0, *counts]}


def area(rows: slice, columns: slice, height: int = HEIGHT, width: int = WIDTH) -> np.ndarray:
    found = np.zeros((height, width), bool)
    found[rows, columns] = True
    return found


def painted(part: str) -> list[dict[str, Any]]:
    """Overlaps, crowds in both encodings, several polygons, a narrow image, one that a single class fills, none."""
    crowd = runs(area(slice(0, 120), slice(0, 150)), packed=False)
    packed = runs(area(slice(100, 260), slice(60, 200)), packed=True)
    rows: list[dict[str, Any]] = [
        {
            "size": (HEIGHT, WIDTH),
            "annotations": [
                (1, 0, [square(20, 20, 150)]),
                (18, 0, [square(60, 60, 40), square(200, 220, 30)]),
                (90, 0, [square(150, 100, 80)]),
                (1, 1, crowd),
                (44, 0, [[-10.0, 240.0, 40.0, 200.0, 80.0, 300.0]]),
            ],
        },
        {
            "size": (HEIGHT, WIDTH),
            "annotations": [(3, 1, packed), (62, 0, [square(90, 90, 60)]), (3, 0, [square(0, 0, 9)])],
        },
    ]
    if part == "train":
        whole = runs(area(slice(None), slice(None)), packed=False)
        rows += [
            {"size": (255, WIDTH), "annotations": [(17, 0, [square(5, 5, 99)])]},
            {"size": (HEIGHT, WIDTH), "annotations": [(23, 0, whole)]},
            {"size": (HEIGHT, WIDTH), "annotations": []},
        ]
    return rows


def instances(part: str) -> dict[str, Any]:
    images, annotations = [], []
    start = {"train": 9, "val": 42}[part]
    for number, row in enumerate(painted(part), start):
        height, width = row["size"]
        name = f"COCO_{part}2014_{number:012d}.jpg"
        images.append({"id": number, "file_name": name, "height": height, "width": width})
        for category, crowd, segmentation in row["annotations"]:
            annotations.append(
                {
                    "id": len(annotations) + 1, "image_id": number, "category_id": category, "iscrowd": crowd,
                    "segmentation": segmentation, "area": 1.0, "bbox": [0, 0, 1, 1],
                }
            )  # fmt: skip
    categories = [{"id": i, "name": name} for i, name in zip(CATEGORY_IDS, COCO_CLASSES[1:], strict=True)]
    return {"images": images, "annotations": annotations, "categories": categories}


@pytest.fixture(scope="module")
def archives(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_archives(tmp_path_factory.mktemp("coco") / "archives")


def write_archives(folder: Path) -> Path:
    folder.mkdir()
    notes = {f"annotations/instances_{part}2014.json": official.dump(instances(part)) for part in ("train", "val")}
    official.write_zip(folder / "annotations_trainval2014.zip", notes | {"annotations/captions_val2014.json": b"{}"})
    for part in ("train", "val"):
        images = instances(part)["images"]
        files = {
            f"{part}2014/{row['file_name']}": official.image(row["id"], row["height"], row["width"]) for row in images
        }
        official.write_zip(folder / f"{part}2014.zip", files)
    return folder


@pytest.fixture(scope="module")
def sources(archives: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("sources") / "archives.yaml"
    return official.write_sources(path, "coco14", sorted(archives.iterdir()), COUNTS)


@pytest.fixture(scope="module")
def made(archives: Path, sources: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("made")
    for dataset in (COCO14, COCO14Smallest, COCO14VitPCM):
        assert not Preparation(dataset, root, sources).make(archives, workers=2).problems
    return root


@pytest.fixture
def server(archives: Path) -> Iterator[Server]:
    with serving(archives) as found:
        yield found


def expected(coco: COCO, image_id: int, rule: str) -> np.ndarray:
    """The mask by pycocotools' own reading of the file, decided for each set of annotations that a pixel lies in."""
    rows = coco.loadAnns(coco.getAnnIds(imgIds=image_id))
    areas = np.stack([coco.annToMask(row) for row in rows])
    covers, which = np.unique(areas.reshape(len(rows), -1).T, axis=0, return_inverse=True)
    values = []
    for cover in covers:
        here = np.flatnonzero(cover)
        objects = [i for i in here if rule == "vitpcm" or not rows[i]["iscrowd"]]
        if rule == "smallest":
            objects.sort(key=lambda i: areas[i].sum())
        value = 1 + CATEGORY_IDS.index(rows[objects[0]]["category_id"]) if objects else 255
        values.append(value if len(here) else 0)
    return np.array(values, np.uint8)[which].reshape(areas.shape[1:])


@pytest.mark.parametrize("dataset", [COCO14, COCO14Smallest, COCO14VitPCM])
@pytest.mark.parametrize("part", ["train", "val"])
def test_masks_equal_those_of_pycocotools_under_each_rule(made: Path, dataset: type[COCO14], part: str) -> None:
    coco = COCO(made / "annotations" / f"instances_{part}2014.json")
    opened, seen = dataset(made), set()
    for image_id in opened.ids(part):
        mask = open_mask(opened.mask_path(image_id))
        assert np.array_equal(mask, expected(coco, int(image_id.rpartition("_")[2]), dataset.rule))
        seen |= set(mask.ravel().tolist())
        with Image.open(opened.mask_path(image_id)) as image:
            assert image.mode == "P"
    assert ({1, 80} < seen, 255 in seen) == (True, dataset.rule != "vitpcm")


def test_the_rules_differ_where_objects_overlap() -> None:
    """On four pixels: an object of two, a crowd of all, an object of one on the first object; written out by hand."""
    rows = [((0, 2), 1, False), ((0, 4), 3, True), ((1, 2), 2, False)]
    annotations = tuple(
        Annotation(class_id, crowd, runs(area(slice(None), slice(*span), 1, 4), packed=False))
        for span, class_id, crowd in rows
    )
    assert paint(1, 4, annotations, "first").tolist() == [[1, 1, 255, 255]]
    assert paint(1, 4, annotations, "smallest").tolist() == [[1, 2, 255, 255]]
    assert paint(1, 4, annotations, "vitpcm").tolist() == [[1, 1, 3, 3]]
    assert paint(1, 4, (), "first").tolist() == [[0, 0, 0, 0]]


def test_both_public_lists(made: Path) -> None:
    """One keeps every image with an annotation; the other drops narrow ones and those of a single value."""
    dataset = COCO14(made)
    assert [int(name[-2:]) for name in dataset.ids("train")] == [9, 10, 11, 12]
    assert [int(name[-2:]) for name in dataset.ids("train_vitpcm")] == [9, 10]
    assert dataset.ids("val") == dataset.ids("val_vitpcm")
    assert dataset.official == {"train": 82_081, "val": 40_137, "train_vitpcm": 81_477, "val_vitpcm": 39_884}
    assert len(COCO_CLASSES) == len(set(COCO_CLASSES)) == 81


def test_image_labels_are_the_annotated_classes(made: Path) -> None:
    dataset = COCO14(made)
    names = {name: dataset.classes.index(name) for name in ("person", "dog", "toothbrush", "bottle", "car", "chair")}
    first, second, *_ = dataset.ids("train")
    assert dataset.image_labels(first, "file") == sorted(names[n] for n in ("person", "dog", "toothbrush", "bottle"))
    assert dataset.image_labels(second, "file") == sorted(names[n] for n in ("car", "chair"))
    with open(made / "image_labels.csv", newline="") as file:
        assert len(next(csv.reader(file))) == 81
    with pytest.raises(UserError, match="no image labels from 'xml': label_source is masks or file"):
        dataset.image_labels(first, "xml")


def test_the_masks_are_the_same_with_any_number_of_workers(
    made: Path, archives: Path, sources: Path, tmp_path: Path
) -> None:
    Preparation(COCO14, tmp_path, sources).make(archives, workers=1)
    for path in (made / "SegmentationClass-first").iterdir():
        assert path.read_bytes() == (tmp_path / "SegmentationClass-first" / path.name).read_bytes()


def test_from_nothing_by_download_to_a_run(here: Run, server: Server, archives: Path, tmp_path: Path) -> None:
    mine = official.write_sources(tmp_path / "mine.yaml", "coco14", sorted(archives.iterdir()), COUNTS, server.address)
    server.cuts = [100, 5000]
    run = ["run", "--methods", "sanity-random", "--dataset", "coco14", "--root", "data"]
    run += ["--set", "protocol.label_source=file"]
    found = here(*run)
    assert (found.returncode, "`harness prepare coco14 --root data` makes it" in found.stderr) == (2, True)
    done = here("prepare", "coco14", "--root", "data", "--sources", str(mine))
    assert done.returncode == 0, done.stderr
    assert "masks: first: the first annotation of a pixel wins" in done.stderr
    ran = here(*run)
    assert ran.returncode == 0, ran.stderr
    (record,) = (json.loads(path.read_text()) for path in Path("results/records").glob("*.json"))
    assert record["masks"]["set"].startswith("first: ")
    assert len(record["classes"]) == 81


def test_a_second_rule_needs_only_its_masks_and_problems_are_named(
    made: Path, archives: Path, sources: Path, tmp_path: Path
) -> None:
    root = Path(shutil.copytree(made, tmp_path / "copy"))
    shutil.rmtree(root / "SegmentationClass-smallest")
    found = Preparation(COCO14Smallest, root, sources).check()
    assert len(found.problems) == 6
    assert all("SegmentationClass-smallest/COCO_" in problem for problem in found.problems.values())
    assert not Preparation(COCO14, root, sources).check().problems
    assert not Preparation(COCO14Smallest, root, sources).make(archives, workers=1).problems
    (root / "image_labels.csv").write_text("id,person\n")
    problems = Preparation(COCO14, root, sources).check().problems
    assert len(problems) == 6
    assert all("has no line for" in problem for problem in problems.values())


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda data: data["categories"][0].update(name="unicorn"), "is not COCO's instances: ValueError"),
        (lambda data: data["annotations"][0].pop("iscrowd"), "is not COCO's instances: KeyError 'iscrowd'"),
        (lambda data: data.clear(), "is not COCO's instances: KeyError 'categories'"),
    ],
)
def test_annotations_of_another_form_are_refused(tmp_path: Path, spoil: Any, message: str) -> None:
    data = instances("val")
    spoil(data)
    (tmp_path / "x.json").write_bytes(official.dump(data))
    with pytest.raises(UserError, match=message):
        read_annotations(tmp_path / "x.json")


def test_an_annotation_that_cannot_be_painted_is_named(archives: Path, tmp_path: Path) -> None:
    mine = Path(shutil.copytree(archives, tmp_path / "mine"))
    data = {part: instances(part) for part in ("train", "val")}
    data["val"]["annotations"][3]["segmentation"]["size"] = [7, 7]
    notes = {f"annotations/instances_{part}2014.json": official.dump(data[part]) for part in data}
    official.write_zip(mine / "annotations_trainval2014.zip", notes)
    sources = official.write_sources(tmp_path / "s.yaml", "coco14", sorted(mine.iterdir()), COUNTS)
    with pytest.raises(UserError, match=r"1 images cannot be painted: COCO_val2014_0+42: ValueError an encoding of"):
        Preparation(COCO14, tmp_path / "root", sources).make(mine, workers=1)
    assert not (tmp_path / "root" / "SegmentationClass-first").exists()
    with pytest.raises(UserError, match="--masks is for voc12"):
        Preparation(COCO14, tmp_path / "other", sources).make(mine, tmp_path / "x.zip")
