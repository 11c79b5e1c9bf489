"""What `--cache-images` is worth: how many images one core opens and squashes in a second, decoded before or not.

`python benchmarks/decoding.py ROOT` measures it on the images of voc12-animals, from files that the system has in
memory. It counts processor time, so that other programs matter little.
"""

from __future__ import annotations

import sys
import tempfile
import time
from pathlib import Path

from harness.data.base import open_rgb
from harness.data.decoded import DecodedImages
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
    images = [image for index in indices for image in index.images]
    files = [dataset.image_path(image.id) for image in images]
    with tempfile.TemporaryDirectory() as folder:
        decoded = DecodedImages(Path(folder), zip(map(str, files), images, strict=True))
        decoded.write(lambda done, total: None)
        mapped = [decoded.place(image) for image in images]
        size = sum(path.stat().st_size for path in files)
        print(f"{len(files)} images: {size:,} bytes, decoded {decoded.size:,}")
        for side in SIDES:
            rounds = [(rate(files, side), rate(mapped, side)) for _ in range(ROUNDS)]
            plain, before = (max(rates) for rates in zip(*rounds, strict=True))
            print(f"{side} x {side}: {plain:.0f} a second, decoded before {before:.0f}, {before / plain:.1f} times")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
