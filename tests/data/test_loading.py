from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from harness.training import TrainingData


@pytest.mark.filterwarnings("ignore:This DataLoader will create")  # more workers than cores, on purpose
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
