"""Drawn images with exact masks: what a fresh machine runs on.

Each image shows one to four textured objects, overlapping, of varying size, on a cluttered background. An object is a
plain body with a conspicuous head, so that a classifier is tempted, as on photographs, to look at the head alone.
"""

from __future__ import annotations

import colorsys
import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import ClassVar
from xml.sax.saxutils import escape

import numpy as np
from PIL import Image, ImageDraw

from harness.data.base import save_mask
from harness.data.voc import VOCLayout
from harness.errors import EnvironmentUnfitError
from harness.files import permissions

Array = np.ndarray


class Toy(VOCLayout):
    """Four textured classes on cluttered backgrounds: 240 images to train on, 80 to score."""

    name = "toy"
    classes: tuple[str, ...] = ("background", "beetle", "clover", "kite", "shell")
    weights = "random"
    needs_root = False
    settings = {
        "*": {"image_size": 96, "inference_size": 192, "epochs": 8, "batch_size": 8, "accumulate": 1},
        "cam": {"lr": 3e-5, "head_lr_factor": 30},
        "vitpcm": {"lr": 2e-4, "warmup_epochs": 0, "unfreeze_blocks": "all"},
    }
    sizes: ClassVar[dict[str, int]] = {"train": 240, "val": 80}
    sides: ClassVar[tuple[int, int]] = (96, 160)  # of an image, from and to
    seed: ClassVar[int] = 1
    hue_spread: ClassVar[float] = 0.04
    clutter: ClassVar[int] = 10
    note = "toy images are drawn: scores compare methods here and nowhere else"

    def prepare(self) -> None:
        """Draw the images, if they are not there yet; a folder is there as a whole or not at all."""
        if self.root.exists():
            return super().prepare()
        try:
            self.root.parent.mkdir(parents=True, exist_ok=True)
            draft = Path(tempfile.mkdtemp(prefix=f".{self.root.name}-", dir=self.root.parent))
        except OSError as error:
            problem = f"cannot draw {self.name} into {self.root.parent}: {error.strerror}"
            raise EnvironmentUnfitError(f"{problem}; WSSS_HARNESS_CACHE=DIR names another folder") from None
        try:
            self._draw(draft)
            draft.chmod(permissions(0o777))
            os.rename(draft, self.root)
        except OSError:
            if not self.root.exists():
                raise
        finally:
            shutil.rmtree(draft, ignore_errors=True)
        return None

    def _draw(self, folder: Path) -> None:
        for name in ("JPEGImages", "SegmentationClass", "Annotations", "ImageSets/Segmentation"):
            (folder / name).mkdir(parents=True)
        for number, (split, count) in enumerate(self.sizes.items()):
            ids = [f"{split}_{index:04d}" for index in range(count)]
            (folder / "ImageSets/Segmentation" / f"{split}.txt").write_text("\n".join(ids) + "\n", "utf-8")
            for index, image_id in enumerate(ids):
                rng = np.random.default_rng([self.seed, number, index])
                image, mask = self._image(rng)
                Image.fromarray(image).save(folder / "JPEGImages" / f"{image_id}.jpg", quality=92)
                save_mask(folder / "SegmentationClass" / f"{image_id}.png", mask)
                (folder / "Annotations" / f"{image_id}.xml").write_text(self._annotation(image_id, mask), "utf-8")

    def _image(self, rng: np.random.Generator) -> tuple[Array, Array]:
        height, width = (int(side) for side in rng.integers(self.sides[0], self.sides[1] + 1, 2))
        image = _background(rng, height, width, self.clutter)
        mask = np.zeros((height, width), np.uint8)
        for _ in range(rng.integers(1, 5)):
            kind = int(rng.integers(1, len(self.classes)))
            self._object(rng, image, mask, kind)
        noise = rng.normal(0, 6, image.shape)
        return np.clip(image + noise, 0, 255).astype(np.uint8), mask

    def _object(self, rng: np.random.Generator, image: Array, mask: Array, kind: int) -> None:
        """Paint an object over what is there: a body, then a head half across its edge."""
        height, width = mask.shape
        radius = min(height, width) * rng.uniform(0.16, 0.32)
        centre = np.array([rng.uniform(0.15, 0.85) * width, rng.uniform(0.15, 0.85) * height])
        turn = rng.uniform(0, 2 * np.pi)
        hue = (kind / (len(self.classes) - 1) + rng.uniform(-1, 1) * self.hue_spread) % 1.0
        outline, pattern = _SHAPES[(kind - 1) % len(_SHAPES)], _PATTERNS[(kind - 1) // 2 % len(_PATTERNS)]
        body = _fill(outline(centre, radius, turn), height, width)
        head_centre = centre + 0.9 * radius * np.array([np.cos(turn), np.sin(turn)])
        head = _fill(_polygon(9)(head_centre, 0.45 * radius, turn), height, width)
        stripes = pattern(height, width, turn, rng.uniform(4, 7))
        light, dark = _rgb(hue, 0.65, 0.9), _rgb(hue, 0.8, 0.5)
        image[body] = np.where(stripes[..., None], light, dark)[body]
        image[head] = np.where(_checks(height, width, turn, 4)[..., None], _rgb(hue, 1.0, 1.0), 25)[head]
        mask[body | head] = kind

    def _annotation(self, image_id: str, mask: Array) -> str:
        objects = []
        for kind in np.unique(mask[mask > 0]):
            rows, columns = np.nonzero(mask == kind)
            box = zip(
                ("xmin", "ymin", "xmax", "ymax"), (columns.min(), rows.min(), columns.max(), rows.max()), strict=True
            )
            inner = "".join(f"<{tag}>{value + 1}</{tag}>" for tag, value in box)
            objects.append(f"<object><name>{escape(self.classes[kind])}</name><bndbox>{inner}</bndbox></object>")
        return f"<annotation><filename>{image_id}.jpg</filename>{''.join(objects)}</annotation>\n"


class ToyHard(Toy):
    """Eight classes told apart by outline and texture, not by hue; more clutter: for science rather than for a demo."""

    name = "toy-hard"
    classes: tuple[str, ...] = ("background", "beetle", "clover", "kite", "shell", "comet", "flag", "gear", "leaf")
    sizes = {"train": 1000, "val": 200}
    seed = 2
    hue_spread = 0.5
    clutter = 30


def cache_folder() -> Path:
    """Return where the harness keeps what it can make again: `WSSS_HARNESS_CACHE`, or the user's cache."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(os.environ.get("WSSS_HARNESS_CACHE") or Path(base) / "wsss-harness")


def _background(rng: np.random.Generator, height: int, width: int, clutter: int) -> Array:
    """Return a smooth two-colour gradient with soft blotches and thin strokes, (H, W, 3) float."""
    coarse = rng.uniform(60, 190, (4, 4, 3)).astype(np.uint8)
    image = Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)
    draw = ImageDraw.Draw(image)
    for _ in range(clutter):
        colour = _rgb(rng.uniform(), rng.uniform(0.1, 0.6), rng.uniform(0.3, 0.9)).astype(int)
        start = rng.uniform(0, 1, 2) * (width, height)
        end = start + rng.normal(0, 0.25, 2) * (width, height)
        draw.line([*start, *end], fill=tuple(colour.tolist()), width=int(rng.integers(1, 5)))
    return np.asarray(image, np.float64).copy()


def _rgb(hue: float, saturation: float, value: float) -> Array:
    return 255 * np.array(colorsys.hsv_to_rgb(hue, saturation, value))


def _fill(points: Array, height: int, width: int) -> Array:
    canvas = Image.new("1", (width, height))
    ImageDraw.Draw(canvas).polygon([tuple(point) for point in points.tolist()], fill=1)
    return np.asarray(canvas)


Outline = Callable[[Array, float, float], Array]


def _radial(profile: Callable[[Array], Array]) -> Outline:
    """Return an outline whose radius is a function of the angle."""

    def outline(centre: Array, radius: float, turn: float) -> Array:
        angle = np.linspace(0, 2 * np.pi, 72, endpoint=False)
        reach = radius * profile(angle)
        return centre + reach[:, None] * np.stack([np.cos(angle + turn), np.sin(angle + turn)], 1)

    return outline


def _polygon(corners: int) -> Outline:
    def outline(centre: Array, radius: float, turn: float) -> Array:
        angle = turn + np.arange(corners) * 2 * np.pi / corners
        return centre + radius * np.stack([np.cos(angle), np.sin(angle)], 1)

    return outline


_SHAPES: tuple[Outline, ...] = (
    _radial(lambda a: 1 / np.sqrt(np.cos(a) ** 2 + (np.sin(a) / 0.65) ** 2)),
    _radial(lambda a: 0.72 + 0.28 * np.cos(3 * a)),
    _polygon(4),
    _radial(lambda a: 0.55 + 0.45 * np.cos(a / 2) ** 2),
    _polygon(3),
    _radial(lambda a: 0.8 + 0.2 * np.sign(np.cos(8 * a))),
    _radial(lambda a: 0.6 + 0.4 * np.abs(np.cos(2 * a))),
    _radial(lambda a: 0.35 + 0.65 * np.abs(np.cos(a))),
)


def _grid(height: int, width: int, turn: float) -> tuple[Array, Array]:
    rows, columns = np.mgrid[:height, :width]
    return columns * np.cos(turn) + rows * np.sin(turn), rows * np.cos(turn) - columns * np.sin(turn)


def _bars(height: int, width: int, turn: float, period: float) -> Array:
    return _grid(height, width, turn)[0] % period < period / 2


def _checks(height: int, width: int, turn: float, period: float) -> Array:
    along, across = _grid(height, width, turn)
    return (along % period < period / 2) ^ (across % period < period / 2)


def _dots(height: int, width: int, turn: float, period: float) -> Array:
    along, across = _grid(height, width, turn)
    return (along % period - period / 2) ** 2 + (across % period - period / 2) ** 2 < (0.33 * period) ** 2


def _plain(height: int, width: int, turn: float, period: float) -> Array:
    return np.ones((height, width), bool)


_PATTERNS = (_bars, _dots, _checks, _plain)
