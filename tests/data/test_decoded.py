"""Images decoded once: the same bit for bit, whoever opens them, and whatever happens while they are made."""

from __future__ import annotations

import json
import os
import resource
import shutil
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import ray
import torch
from PIL import Image

from harness.data.base import open_rgb
from harness.data.decoded import DecodedImages, decoded_folder
from harness.data.index import SplitIndex, index_split
from harness.data.toy import Toy
from harness.errors import UserError
from harness.loader import TrainingData
from tests.conftest import TINY, Run
from tests.faults.conftest import outcome, wait_until

RUN = ["run", "--methods", "vitpcm", *TINY, "--refine", "none,crf:vitpcm"]
DECODE = """
import sys
from pathlib import Path
from harness.data.decoded import DecodedImages
from harness.data.index import index_split
from harness.data.toy import Toy
toy = Toy(Path(sys.argv[1]))
index = index_split(toy, "train", label_source="masks", masks=False)
files = [(str(toy.image_path(image.id)), image) for image in index.images]
DecodedImages(Path(sys.argv[2]), files).write(lambda done, total: None)
"""


def quiet(done: int, total: int) -> None:
    assert 0 < done <= total


@pytest.fixture
def odd(toy: Path, tmp_path: Path) -> Toy:
    """Toy images, some of them turned by their EXIF tag, in other modes, grey, or half transparent."""
    root = Path(shutil.copytree(toy, tmp_path / "odd images"))
    dataset = Toy(root)
    for number, name in enumerate(dataset.ids("train")[:8]):
        path, exif = dataset.image_path(name), Image.Exif()
        exif[0x0112] = 1 + number
        image = Image.open(path)
        if number == 2:
            image.putalpha(90)
            image.save(path, "PNG")
        else:
            image.convert({3: "CMYK", 4: "L"}.get(number, "RGB")).save(path, "JPEG", exif=exif)
    return dataset


def checked(dataset: Toy, count: int) -> SplitIndex:
    return index_split(dataset, "train", label_source="xml", masks=False, limit=count)


def of(dataset: Toy, folder: Path, count: int = 8) -> tuple[DecodedImages, list[Path], list[Path]]:
    """The first decoded images of a dataset; their files; and where they will be."""
    images = checked(dataset, count).images
    paths = [dataset.image_path(image.id) for image in images]
    decoded = DecodedImages(folder, zip(map(str, paths), images, strict=True))
    return decoded, paths, [decoded.place(image) for image in images]


def test_they_are_the_same_bit_for_bit_and_mapped(odd: Toy, tmp_path: Path) -> None:
    decoded, paths, places = of(odd, tmp_path / "decoded")
    decoded.write(quiet)
    for path, place in zip(paths, places, strict=True):
        plain, mapped = open_rgb(path), open_rgb(place)
        assert (type(mapped), mapped.dtype) == (np.ndarray, np.uint8)
        assert np.array_equal(plain, mapped)
        assert (mapped.flags.writeable, isinstance(mapped.base, np.memmap)) == (False, True)
    assert decoded.size == decoded.missing == sum(place.stat().st_size for place in places)
    assert of(odd, tmp_path / "decoded")[0].missing == 0


def epoch(paths: list[Path], workers: int) -> list[tuple[bytes, tuple[str, ...]]]:
    data = TrainingData([str(number) for number in range(len(paths))], torch.eye(len(paths)), paths, workers)
    return [(batch.images.numpy().tobytes(), tuple(batch.ids)) for batch in data.batches(24, 3, seed=5)]


@pytest.mark.filterwarnings("ignore:This DataLoader will create")  # more workers than cores, on purpose
def test_batches_are_the_same_with_any_number_of_workers_here_and_under_ray(
    odd: Toy, tmp_path: Path, ray_once: None
) -> None:
    decoded, paths, places = of(odd, tmp_path / "decoded")
    decoded.write(quiet)
    plain = epoch(paths, 0)
    assert len(plain) == 2
    assert plain == epoch(places, 0) == epoch(places, 3)
    under_ray = ray.remote(num_cpus=0)(epoch)
    found = ray.get([under_ray.remote(files, workers) for files in (paths, places) for workers in (0, 2)], timeout=120)
    assert found == [plain] * 4


@pytest.mark.slow
def test_a_run_gives_the_same_with_and_without_them(here: Run, tmp_path: Path) -> None:
    """Records with their keys and scores, score maps and masks; refined masks too, whose refiner sees the images."""
    assert here(*RUN, "--results", "plain").returncode == 0
    shown = here(*RUN, "--results", "mapped", "--cache-images", "--dry-run")
    assert "decoded images: 16 take " in shown.stdout
    assert not Path("mapped").exists()
    done = here(*RUN, "--results", "mapped", "--cache-images")
    assert done.returncode == 0, done.stderr
    assert done.stderr.index("decoded images: 16 take ") < done.stderr.index("stages to run")
    assert len(list(decoded_folder(Path("mapped")).iterdir())) == 16
    assert outcome(tmp_path / "mapped") == outcome(tmp_path / "plain")
    for path in decoded_folder(Path("mapped")).iterdir():
        before = path.stat()
        np.save(path, 255 - np.load(path))
        os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))  # as if nobody had changed it
    assert "decoded images" not in here(*RUN, "--results", "mapped", "--cache-images").stderr  # nothing to open
    for made in ("artefacts", "records"):
        shutil.rmtree(tmp_path / "mapped" / made)
    here(*RUN, "--results", "mapped", "--cache-images")
    assert outcome(tmp_path / "mapped")["scores"] != outcome(tmp_path / "plain")["scores"]  # the stages do open them


@pytest.mark.slow
def test_gc_removes_them(here: Run) -> None:
    assert here(*RUN[:3], *TINY, "--cache-images").returncode == 0
    found = json.loads(here("gc", "--yes", "--json").stdout)
    assert [item["why"] for item in found["items"]] == ["decoded images, made again when asked for"]
    assert not decoded_folder(Path("results")).exists()
    assert here("gc", "--json").returncode == 0


def test_killed_in_the_middle_and_two_at_once(toy: Path, tmp_path: Path) -> None:
    folder = tmp_path / "decoded"
    command = [sys.executable, "-c", DECODE, str(toy), str(folder)]
    with subprocess.Popen(command) as process:
        wait_until(lambda: len(list(folder.glob("*.npy"))) > 20)
        process.send_signal(signal.SIGKILL)
    left, _, places = of(Toy(toy), folder, 240)
    assert 0 < left.missing < left.size
    pair = [subprocess.Popen(command) for _ in range(2)]
    assert [process.wait(60) for process in pair] == [0, 0]
    decoded, paths, _ = of(Toy(toy), folder, 240)
    assert decoded.missing == 0
    assert all(np.array_equal(open_rgb(path), open_rgb(place)) for path, place in zip(paths, places, strict=True))


def test_half_a_file_is_written_again_and_a_changed_image_is_another(odd: Toy, tmp_path: Path) -> None:
    decoded, paths, places = of(odd, tmp_path / "decoded")
    decoded.write(quiet)
    places[1].write_bytes(places[1].read_bytes()[:1000])
    again, _, _ = of(odd, tmp_path / "decoded")
    assert again.missing == open_rgb(paths[1]).nbytes + 128
    again.write(quiet)
    assert np.array_equal(open_rgb(places[1]), open_rgb(paths[1]))
    Image.new("RGB", (50, 40)).save(paths[0])
    late, _, _ = of(odd, tmp_path / "other")
    Image.new("RGB", (50, 40), "red").save(paths[0])
    with pytest.raises(UserError, match=r"is not the image that was checked a moment ago: give the same command"):
        late.write(quiet)


def test_a_disk_that_is_too_small_is_said_first_and_a_full_one_leaves_no_half(odd: Toy, tmp_path: Path) -> None:
    decoded, _, places = of(odd, tmp_path / "decoded")
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)
    vast = replace(checked(odd, 1).images[0], height=10**9, width=10**9)
    with pytest.raises(UserError, match="--cache-images needs 3,000,000,000,000,000,128 bytes on the disk of"):
        DecodedImages(tmp_path / "decoded", [("vast.jpg", vast)]).write(quiet)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, limit[1]))
    try:
        with pytest.raises(UserError, match="is full: make room; the same command goes on from there"):
            decoded.write(quiet)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limit)
    assert not [path for path in (tmp_path / "decoded").iterdir() if path.suffix != ".npy"]
    of(odd, tmp_path / "decoded")[0].write(quiet)
    assert all(place.exists() for place in places)


def test_one_that_was_changed_at_equal_size_is_written_again(odd: Toy, tmp_path: Path) -> None:
    decoded, paths, places = of(odd, tmp_path / "decoded")
    decoded.write(quiet)
    changed = np.load(places[0])
    changed[:] = 7
    np.save(places[0], changed)
    again, _, _ = of(odd, tmp_path / "decoded")
    assert again.missing == places[0].stat().st_size
    again.write(quiet)
    assert np.array_equal(open_rgb(places[0]), open_rgb(paths[0]))
