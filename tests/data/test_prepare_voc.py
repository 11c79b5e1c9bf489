from __future__ import annotations

import json
import shlex
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from harness.data.base import open_mask, save_mask
from harness.data.index import index_split
from harness.data.prepare.job import Draft
from harness.data.prepare.recipe import Preparation
from harness.data.prepare.sources import read_sources
from harness.data.prepare.voc import BUILT, repair_options
from harness.data.voc import VOC12, VOC12Animals
from harness.errors import UserError
from tests.conftest import Run
from tests.data import official
from tests.data.official import SBD_ONLY, VOC_TRAIN, VOC_VAL, Server, serving

COUNTS = {"train": 2, "train_aug": 5, "val": 2}
AUG = sorted((*VOC_TRAIN, *SBD_ONLY))


@pytest.fixture(scope="module")
def archives(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("archives")
    official.write_tar(folder / "VOCtrainval_11-May-2012.tar", official.voc_files())
    official.write_tar(folder / "benchmark.tgz", official.sbd_files(), {"benchmark_RELEASE/link": "/etc/passwd"})
    return folder


@pytest.fixture(scope="module")
def sources(archives: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("sources") / "archives.yaml"
    return official.write_sources(path, "voc12", sorted(archives.iterdir()), COUNTS)


@pytest.fixture(scope="module")
def made(archives: Path, sources: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("made")
    found = Preparation(VOC12, root, sources).make(archives, workers=2)
    assert not found.problems
    return root


@pytest.fixture
def copy(made: Path, tmp_path: Path) -> Path:
    """A copy of the prepared dataset, to break."""
    return Path(shutil.copytree(made, tmp_path / "copy"))


@pytest.fixture
def server(archives: Path) -> Iterator[Server]:
    with serving(archives) as found:
        yield found


def test_the_masks_are_vocs_where_there_are_any_and_sbds_elsewhere(made: Path) -> None:
    dataset = VOC12(made)
    assert dataset.ids("train_aug") == AUG
    for number, name in enumerate((*VOC_TRAIN, *VOC_VAL)):
        assert np.array_equal(open_mask(dataset.mask_path(name)), official.voc_mask(number))
    for number, name in enumerate(SBD_ONLY):
        assert np.array_equal(open_mask(dataset.mask_path(name)), official.sbd_mask(number))
        with Image.open(dataset.mask_path(name)) as image:
            assert image.mode == "P"
    assert dataset.image_labels(SBD_ONLY[0], "xml") == [8, 15]
    assert not (dataset.folder / "SegmentationClassAug.part").exists()


def test_what_was_made_from_what_is_written_down(made: Path, archives: Path) -> None:
    note = json.loads((VOC12(made).folder / "prepared-voc12.json").read_text())
    assert note["pictures"] == COUNTS
    assert note["archives"].keys() == {path.name for path in archives.iterdir()}
    assert note["archives"]["benchmark.tgz"]["vouched_by"] == "md5"
    assert len(note["archives"]["benchmark.tgz"]["sha256"]) == 64
    index = index_split(VOC12(made), "train_aug", label_source="xml", masks=True)
    assert note["masks"]["pixels"]["train_aug"] == index.mask_digest


def test_the_masks_are_the_same_with_any_number_of_workers(
    made: Path, archives: Path, sources: Path, tmp_path: Path
) -> None:
    Preparation(VOC12, tmp_path, sources).make(archives, workers=1)
    for path in (VOC12(made).folder / "SegmentationClassAug").iterdir():
        assert path.read_bytes() == (VOC12(tmp_path).folder / "SegmentationClassAug" / path.name).read_bytes()


def test_from_nothing_by_download_to_a_run(
    here: Run, harness: Run, server: Server, archives: Path, tmp_path: Path
) -> None:
    """The connection is cut, the first mirror of one archive gives another file; then the run names its masks."""
    (tmp_path / "mirror").mkdir()
    mine = official.write_sources(tmp_path / "mine.yaml", "voc12", sorted(archives.iterdir()), COUNTS, server.address)
    mine.write_text(mine.read_text().replace("urls:\n", f"urls:\n      - {server.address}/none\n", 1))
    server.cuts = [0, 300, 500]
    run = ["run", "--methods", "sanity-random", "--dataset", "voc12", "--root", "my data", "--protocol", "psa"]
    found = here(*run)
    assert found.returncode == 2
    command = found.stderr.splitlines()[-1].split("`")[1]
    assert command == "harness prepare voc12 --root 'my data'"
    done = harness(*shlex.split(command)[1:], "--sources", str(mine))
    assert done.returncode == 0, done.stderr
    assert "train_aug: 5 images" in done.stderr
    assert "complete and verified; next: harness run --dataset voc12 --root 'my data'" in done.stderr
    assert any(span for _, span in server.asked)
    ran = here(*run)
    assert ran.returncode == 0, ran.stderr
    (record,) = (json.loads(path.read_text()) for path in Path("results/records").glob("*.json"))
    assert record["masks"]["set"].startswith("SegmentationClassAug of VOC 2012 and SBD")
    note = json.loads((VOC12(Path("my data")).folder / "prepared-voc12.json").read_text())
    assert record["masks"]["pixels"]["train"] == note["masks"]["pixels"]["train"]


def test_a_second_time_nothing_is_done_and_a_repaired_dataset_is_whole_again(
    copy: Path, archives: Path, sources: Path
) -> None:
    folder = VOC12(copy).folder
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*.*")}
    assert not Preparation(VOC12, copy, sources).make(copy / "no archives needed").problems
    assert before == {path: path.stat().st_mtime_ns for path in folder.rglob("*.*")}
    (folder / "JPEGImages" / f"{SBD_ONLY[0]}.jpg").write_bytes(b"\0" * 100)
    (folder / "SegmentationClassAug" / f"{SBD_ONLY[1]}.png").unlink()
    save_mask(folder / "SegmentationClassAug" / f"{SBD_ONLY[2]}.png", np.zeros((24, 32), np.uint8))
    (folder / "SegmentationClass" / f"{VOC_VAL[0]}.png").write_bytes(b"")
    assert len(Preparation(VOC12, copy, sources).check().problems) == 2
    assert not Preparation(VOC12, copy, sources).make(archives, workers=1).problems
    changed = {path.name for path in before if path.stat().st_mtime_ns != before[path]}
    expected = {f"{SBD_ONLY[0]}.jpg", f"{SBD_ONLY[1]}.png", f"{SBD_ONLY[2]}.png", f"{VOC_VAL[0]}.png"}
    assert changed == {*expected, "train_aug.txt", "prepared-voc12.json"}


def test_a_kill_in_the_middle_leaves_no_half_set_of_masks(archives: Path, sources: Path, tmp_path: Path) -> None:
    folder = tmp_path / "VOCdevkit" / "VOC2012"
    half = folder / "SegmentationClassAug.part"
    half.mkdir(parents=True)
    (folder / "prepared-voc12.json").write_text(json.dumps({"masks": {"name": BUILT}}))
    official_mask = official.png(official.sbd_mask(0))
    (half / f"{SBD_ONLY[0]}.png").write_bytes(official_mask)
    (half / f"{SBD_ONLY[1]}.png").write_bytes(official_mask[:60])
    (half / f".123-{SBD_ONLY[2]}.png").write_bytes(b"half")
    assert not Preparation(VOC12, tmp_path, sources).make(archives, workers=1).problems
    assert (folder / "SegmentationClassAug" / f"{SBD_ONLY[0]}.png").read_bytes() == official_mask
    assert len(list((folder / "SegmentationClassAug").iterdir())) == 7


def test_check_names_every_problem_and_the_command_that_repairs_it(
    here: Run, copy: Path, sources: Path, tmp_path: Path
) -> None:
    check = ["prepare", "voc12", "--root", str(copy), "--sources", str(sources), "--check"]
    assert here(*check).returncode == 0
    folder = VOC12(copy).folder
    palette = list(range(256)) * 3
    (folder / "SegmentationClassAug" / f"{AUG[0]}.png").write_bytes(official.png(official.voc_mask(0), palette))
    (folder / "SegmentationClassAug" / f"{AUG[1]}.png").write_bytes(official.png(np.zeros((3, 3), np.uint8)))
    (folder / "Annotations" / f"{AUG[2]}.xml").write_text("<annotation>")
    (folder / "Annotations" / f"{AUG[3]}.xml").write_bytes(official.annotation("unicorn"))
    (folder / "JPEGImages" / f"{AUG[4]}.jpg").unlink()
    (folder / "ImageSets" / "Segmentation" / "val.txt").write_text(VOC_VAL[0])
    found = here(*check, "--json")
    assert found.returncode == 1
    problems = json.loads(found.stdout)["problems"]
    for name, expected in {
        AUG[0]: "the palette of its mask is not VOC's",
        AUG[1]: "mask is 3x3, image 24x32",
        AUG[2]: "its XML cannot be read",
        AUG[3]: "unknown class 'unicorn'",
        AUG[4]: f"JPEGImages/{AUG[4]}.jpg is missing",
        "val": "1 images instead of 2",
    }.items():
        assert expected in problems[name]
    assert f"6 problems; repaired by: harness prepare voc12 --root {copy}" in here(*check).stderr
    assert (
        "cannot be used" in here("run", "--methods", "sanity-random", "--dataset", "voc12", "--root", str(copy)).stderr
    )


def test_masks_that_were_exchanged_are_noticed(copy: Path, sources: Path) -> None:
    save_mask(VOC12(copy).mask_path(SBD_ONLY[0]), np.zeros((24, 32), np.uint8))
    problems = Preparation(VOC12, copy, sources).check().problems
    assert problems == {"train_aug": "its masks are not the ones that were prepared"}


def test_an_unprepared_root_is_told_the_command_whatever_is_missing(here: Run, copy: Path) -> None:
    remedy = f"`harness prepare voc12 --root {copy}` makes it"
    run = ["run", "--methods", "sanity-random", "--dataset", "voc12", "--root", str(copy)]
    folder = VOC12(copy).folder
    (folder / "JPEGImages" / f"{VOC_TRAIN[0]}.jpg").unlink()
    assert remedy in here(*run).stderr
    (folder / "ImageSets" / "Segmentation" / "train_aug.txt").unlink()
    (folder / "ImageSets" / "Segmentation" / "train.txt").unlink()
    assert remedy in here(*run).stderr
    shutil.rmtree(folder)
    assert remedy in here(*run).stderr
    assert "`harness prepare voc12 --root DIR` makes it" in here(*run[:-2]).stderr


def test_circulated_masks_are_taken_as_they_are_named_and_hashed(archives: Path, sources: Path, tmp_path: Path) -> None:
    files = {f"SegmentationClassAug/{name}.png": official.png(official.sbd_mask(1)) for name in (*AUG, *VOC_VAL)}
    junk = {f"__MACOSX/SegmentationClassAug/._{AUG[0]}.png": b"x"}
    circulated = official.write_zip(tmp_path / "SegmentationClassAug.zip", files | junk)
    root = tmp_path / "root"
    found = Preparation(VOC12, root, sources).make(archives, circulated)
    assert not found.problems
    assert found.masks["name"].startswith("SegmentationClassAug.zip, sha256 ")
    assert VOC12(root).mask_path(AUG[0]).read_bytes() == files[f"SegmentationClassAug/{AUG[0]}.png"]
    assert "benchmark.tgz" not in json.loads((VOC12(root).folder / "prepared-voc12.json").read_text())["archives"]
    VOC12(root).mask_path(AUG[0]).unlink()
    assert repair_options(found.masks["name"]) == " --masks SegmentationClassAug.zip"
    assert Preparation(VOC12, root, sources).make(archives).problems  # nobody mixes SBD's masks in
    assert not Preparation(VOC12, root, sources).make(archives, circulated).problems
    other = official.write_zip(tmp_path / "other.zip", files)
    with pytest.raises(UserError, match=r"holds other masks \(SegmentationClassAug.zip, sha256 .*remove it first"):
        Preparation(VOC12, root, sources).make(archives, other)


def test_masks_of_unknown_origin_are_left_alone_and_called_so(
    made: Path, archives: Path, sources: Path, tmp_path: Path
) -> None:
    there = Draft(tmp_path / "VOCdevkit" / "VOC2012" / "SegmentationClassAug")
    for path in (VOC12(made).folder / "SegmentationClassAug").iterdir():
        shutil.copy(path, there.path)
    there.publish()
    found = Preparation(VOC12, tmp_path, sources).make(archives)
    assert (found.problems, found.masks["name"]) == ({}, "SegmentationClassAug, found in the folder")
    assert repair_options(found.masks["name"]) == repair_options("SegmentationClassAug") != ""


def test_masks_of_two_origins_are_never_mixed(archives: Path, sources: Path, tmp_path: Path) -> None:
    """What a preparation with SBD has left behind is not built upon with masks that are brought."""
    root = tmp_path / "root"
    part = root / "VOCdevkit" / "VOC2012" / "SegmentationClassAug.part"
    part.mkdir(parents=True)
    (part.parent / "prepared-voc12.json").write_text(json.dumps({"masks": {"name": BUILT}}))
    save_mask(part / f"{SBD_ONLY[0]}.png", official.sbd_mask(0))
    names = {*AUG, *VOC_VAL} - {SBD_ONLY[0]}
    few = {f"{name}.png": official.png(official.sbd_mask(1)) for name in names}
    found = Preparation(VOC12, root, sources).make(archives, official.write_zip(tmp_path / "few.zip", few))
    assert found.problems == {"train_aug": "4 images instead of 5"}


def spoilt(archives: Path, folder: Path, change: Callable[[dict[str, bytes]], None], **more: dict[str, str]) -> Path:
    """Archives of which SBD's is another one."""
    shutil.copytree(archives, folder)
    files = official.sbd_files()
    change(files)
    official.write_tar(folder / "benchmark.tgz", files, **more)
    return folder


CLS = "benchmark_RELEASE/dataset/cls"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda files: files.pop(f"{CLS}/{SBD_ONLY[0]}.mat"), f"cls/{SBD_ONLY[0]}.mat is missing"),
        (lambda files: files.pop("benchmark_RELEASE/dataset/val.txt"), "val.txt is missing"),
        (lambda files: files.update({f"{CLS}/{SBD_ONLY[0]}.mat": b"no"}), f"cls/{SBD_ONLY[0]}.mat cannot be read"),
        (
            lambda files: files.update({f"{CLS}/{SBD_ONLY[0]}.mat": official.sbd_mat(np.full((4, 4), 33, np.uint8))}),
            "holds no class indices",
        ),
        (lambda files: files.update({f"{CLS}/../../../../evil.mat": b"no"}), "is refused: .*evil.mat.* is no name"),
        (lambda files: files.update({f"{CLS}/huge.mat": b"\0" * 20_000_000}), "unpacks to more than 10,000,000 bytes"),
    ],
)  # fmt: skip
def test_an_archive_that_is_not_what_it_should_be_is_refused(
    archives: Path, tmp_path: Path, change: Callable[[dict[str, bytes]], None], message: str
) -> None:
    mine = spoilt(archives, tmp_path / "mine", change)
    sources = official.write_sources(tmp_path / "s.yaml", "voc12", sorted(mine.iterdir()), COUNTS)
    with pytest.raises(UserError, match=message):
        Preparation(VOC12, tmp_path / "root", sources).make(mine, workers=1)
    assert not (tmp_path / "root" / "VOCdevkit" / "VOC2012" / "SegmentationClassAug").exists()
    assert not list(tmp_path.rglob("evil*"))


def test_a_link_inside_is_refused(archives: Path, tmp_path: Path) -> None:
    mine = spoilt(archives, tmp_path / "mine", lambda files: None, links={f"{CLS}/x.mat": "/etc/passwd"})
    sources = official.write_sources(tmp_path / "s.yaml", "voc12", sorted(mine.iterdir()), COUNTS)
    with pytest.raises(UserError, match="is a link or a device"):
        Preparation(VOC12, tmp_path / "root", sources).make(mine, workers=1)


def test_a_wrong_or_missing_archive_of_ones_own_is_named(archives: Path, sources: Path, tmp_path: Path) -> None:
    mine = spoilt(archives, tmp_path / "mine", lambda files: files.update(more=b"x"))
    with pytest.raises(UserError, match=r"benchmark\.tgz has [\d,]+ bytes instead of|benchmark\.tgz has md5"):
        Preparation(VOC12, tmp_path / "root", sources).make(mine)
    (mine / "benchmark.tgz").unlink()
    with pytest.raises(UserError, match=r"has no benchmark\.tgz \(md5 [0-9a-f]{32}; from http"):
        Preparation(VOC12, tmp_path / "root", sources).make(mine)


def test_an_archive_nobody_vouches_for_is_hashed_and_said(archives: Path, sources: Path, tmp_path: Path) -> None:
    mine = tmp_path / "mine.yaml"
    mine.write_text("\n".join(line for line in sources.read_text().splitlines() if "md5" not in line))
    said: list[str] = []
    Preparation(VOC12, tmp_path / "root", mine).make(archives, say=said.append)
    assert sum("nothing vouches for it; its sha256 is" in line for line in said) == 2


def test_two_preparations_of_one_folder_do_not_meet(made: Path, sources: Path) -> None:
    from harness.results.lease import locked

    with locked(made / ".prepare.lock"), pytest.raises(UserError, match="another `harness prepare` is at work"):
        Preparation(VOC12, made, sources).make()


def test_the_disk_is_asked_before_anything_comes(archives: Path, sources: Path, tmp_path: Path) -> None:
    mine = tmp_path / "mine.yaml"
    large = sources.read_text().replace("unpacks_to: 10000000", f"unpacks_to: {10**18}")
    mine.write_text(large)
    with pytest.raises(UserError, match="voc12 needs .* bytes on the disk of .*make room first"):
        Preparation(VOC12, tmp_path / "root", mine).make(archives)
    assert not list((tmp_path / "root").rglob("*.jpg"))
    mine.write_text(large.replace("unpacks_to:", "unpacked: false\n      unpacks_to:"))
    assert not Preparation(VOC12, tmp_path / "root", mine).make(archives).problems


@pytest.mark.parametrize("inner", ["", "VOCdevkit", "VOCdevkit/VOC2012"])
def test_any_of_vocs_folders_is_a_root(copy: Path, sources: Path, inner: str) -> None:
    assert not Preparation(VOC12, copy / inner, sources).check().problems


def test_only_official_datasets_are_prepared(here: Run) -> None:
    with pytest.raises(UserError, match="voc12-animals is not prepared by this command: it is a part of voc12"):
        Preparation(VOC12Animals, Path("x"))
    assert "dataset toy is not prepared by this command" in here("prepare", "toy", "--root", "x").stderr


def test_the_built_in_sources_are_official_and_name_what_vouches_for_them() -> None:
    voc, coco = read_sources("voc12"), read_sources("coco14")
    assert voc.archives["benchmark.tgz"].vouched == "md5 82b4d87ceb2ed10f6038a1cba92111cb"
    assert voc.archives["VOCtrainval_11-May-2012.tar"].md5 == "6cd6e144f989b92b3379bac3b3de84fd"
    for archive in (*voc.archives.values(), *coco.archives.values()):
        assert archive.vouched
        assert all(url.startswith("http") for url in archive.urls)
        assert archive.unpacks_to > (archive.size or 0)
    assert not voc.counts
    with pytest.raises(UserError, match="says nothing of coco41: did you mean 'coco14'"):
        read_sources("coco41")


def test_a_mistake_in_a_file_of_sources_names_its_line(sources: Path, tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text(sources.read_text().replace("md5:", "md6:", 1))
    with pytest.raises(UserError, match=r"mine\.yaml:4: unknown key 'md6'"):
        read_sources("voc12", tmp_path / "mine.yaml")
