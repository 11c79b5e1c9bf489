"""What `--cache-pictures` is worth: how many images one core opens and squashes in a second, decoded before or not.

`python benchmarks/decoding.py ROOT` measures it on the images of voc12-animals, from files that the system has in
memory. It counts processor time, so that other programs matter little.
"""

from __future__ import annotations

import sys
import tempfile
import time
from pathlib import Path

from harness.data.base import open_rgb
from harness.data.decoded import DecodedPictures
from harness.data.index import index_split
from harness.data.voc import VOC12Animals
from harness.images import squash

SIDES = (224, 384, 960)
ROUNDS = 3  # of which the best counts


def rate(paths: list[Path], side: int) -> float:
    start = time.process_time()
    for path in paths:
        squash(open_rgb(path), (side, side))
    return len(paths) / (time.process_time() - start)


def main(root: Path) -> None:
    dataset = VOC12Animals(root)
    indices = [index_split(dataset, split, label_source="masks", masks=True) for split in ("train_aug", "val")]
    pictures = [picture for index in indices for picture in index.pictures]
    files = [dataset.image_path(picture.id) for picture in pictures]
    with tempfile.TemporaryDirectory() as folder:
        decoded = DecodedPictures(Path(folder), zip(map(str, files), pictures, strict=True))
        decoded.write(lambda done, total: None)
        mapped = [decoded.place(picture) for picture in pictures]
        size = sum(path.stat().st_size for path in files)
        print(f"{len(files)} pictures: {size:,} bytes, decoded {decoded.size:,}")
        for side in SIDES:
            rounds = [(rate(files, side), rate(mapped, side)) for _ in range(ROUNDS)]
            plain, before = (max(rates) for rates in zip(*rounds, strict=True))
            print(f"{side} x {side}: {plain:.0f} a second, decoded before {before:.0f}, {before / plain:.1f} times")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
