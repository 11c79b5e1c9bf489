from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from harness.data.base import open_rgb
from harness.loader import TrainingData
from harness.stages.score import opened


def test_the_same_pictures_bit_for_bit_with_any_number_of_workers(tmp_path: Path) -> None:
    """Also of pictures that their EXIF tag turns, and that are stored in other modes."""
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


def test_pictures_are_opened_in_order_and_only_so_many_ahead(tmp_path: Path) -> None:
    """The last picture comes into being long after the first was asked for."""
    rng, paths = np.random.default_rng(0), [tmp_path / f"{number}.png" for number in range(6)]

    def draw(path: Path) -> None:
        Image.fromarray(rng.integers(0, 255, (8, 9, 3), np.uint8)).save(path)

    for path in paths[:-1]:
        draw(path)
    with ThreadPoolExecutor(2) as pool:
        found = opened(pool, paths, "cpu", 3)
        images = [next(found)]
        time.sleep(0.3)
        draw(paths[-1])
        images += found
    assert [image.numpy().tobytes() for image in images] == [open_rgb(path).tobytes() for path in paths]
