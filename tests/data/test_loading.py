from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from harness.data.base import open_rgb
from harness.images import opened, resized_together, squash
from harness.loader import TrainingData


def test_the_same_images_bit_for_bit_with_any_number_of_workers(tmp_path: Path) -> None:
    """Also of images that their EXIF tag turns, and that are stored in other modes."""
    rng, paths = np.random.default_rng(0), []
    for number in range(7):
        image = Image.fromarray(rng.integers(0, 255, (30 + number, 40, 3), np.uint8))
        exif = Image.Exif()
        exif[0x0112] = 1 + number
        paths.append(tmp_path / f"{number}.jpg")
        (image.convert("CMYK") if number == 3 else image).save(paths[-1], exif=exif)
    ids, labels = [path.stem for path in paths], torch.eye(7)

    def epoch(workers: int) -> list[tuple[bytes, bytes, tuple[str, ...]]]:
        batches = TrainingData(ids, labels, paths, workers).batches(24, 3, seed=5)
        return [(b.images.numpy().tobytes(), b.labels.numpy().tobytes(), tuple(b.ids)) for b in batches]

    alone = epoch(0)
    assert len(alone) == 2
    assert alone == epoch(1) == epoch(3)


def test_images_are_opened_in_order_and_only_so_many_ahead(tmp_path: Path) -> None:
    """The last image comes into being long after the first was asked for."""
    rng, paths = np.random.default_rng(0), [tmp_path / f"{number}.png" for number in range(6)]

    def draw(path: Path) -> None:
        Image.fromarray(rng.integers(0, 255, (8, 9, 3), np.uint8)).save(path)

    for path in paths[:-1]:
        draw(path)
    found = opened(paths, "cpu", count=3)
    images = [next(found)]
    time.sleep(0.3)
    draw(paths[-1])
    images += found
    assert [image.numpy().tobytes() for image in images] == [open_rgb(path).tobytes() for path in paths]


def test_an_image_that_cannot_be_read_fails_where_it_is_wanted(tmp_path: Path) -> None:
    good, bad = tmp_path / "good.png", tmp_path / "bad.png"
    Image.new("RGB", (9, 8), "red").save(good)
    bad.write_bytes(b"no image")
    images = opened([good, bad, good], "cpu", workers=2)
    assert next(images).shape == (8, 9, 3)
    with pytest.raises(OSError, match=r"bad\.png"):
        next(images)


@pytest.mark.parametrize("side", [64, 384])
def test_a_gpu_resizes_as_a_cpu_does_to_a_level(side: int) -> None:
    """The arithmetic of the one on tensors of the other; smaller, larger, and in a batch of several sizes."""
    rng = np.random.default_rng(0)
    coarse = Image.fromarray(rng.integers(0, 255, (12, 16, 3), np.uint8))
    wide = torch.from_numpy(np.array(coarse.resize((200, 150), Image.Resampling.BICUBIC)))
    images = [wide, wide.transpose(0, 1).contiguous(), wide.flip(1)]
    there = resized_together(images, [(side, side)] * 3, "cpu")
    here = torch.stack([squash(image.numpy(), (side, side)) for image in images])
    difference = (there - here).abs() * 255
    assert difference.max() < 1.01
    assert difference.mean() < 0.3
