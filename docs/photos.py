"""Lay the overlays of two cells beside the photos that they were made of: `docs/photos.jpg`.

`harness predict RUN --images PHOTOS --out DIR` for each, then `python docs/photos.py PHOTOS DIR DIR`, CAM's first.
The photos are scikit-image's: `astronaut` (NASA, public domain) and `chelsea` (CC0).
"""

from __future__ import annotations

import sys
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

HIGH, GAP, HEAD = 220, 6, 28  # pixels


def strip(photos: Path, columns: dict[str, Path]) -> Image.Image:
    """Return a line of panels, under the name of each column, for all photos beside each other."""
    panels = []
    for photo in sorted(photos.glob("*.png")):
        shown = {"image": photo} | {name: folder / "overlays" / f"{photo.stem}.jpg" for name, folder in columns.items()}
        for name, path in shown.items():
            image = Image.open(path).convert("RGB")
            panels.append((name, image.resize((round(image.width * HIGH / image.height), HIGH))))
    width = sum(panel.width + GAP for _, panel in panels) - GAP
    sheet = Image.new("RGB", (width, HIGH + HEAD), "white")
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(18)
    left = 0
    for name, panel in panels:
        sheet.paste(panel, (left, HEAD))
        draw.text((left + panel.width / 2, HEAD / 2), name, "black", font, "mm")
        left += panel.width + GAP
    return sheet


if __name__ == "__main__":
    photos, cam, vitpcm = map(Path, sys.argv[1:4])
    strip(photos, {"CAM": cam, "ViT-PCM": vitpcm}).save(Path(__file__).parent / "photos.jpg", quality=82)
