"""Draw a training image: image, validity and pseudo-masks through one geometry, from one seed."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from harness.data.base import IGNORE
from harness.phases import Augment
from harness.torchvision_ops import ensure_importable

Box = tuple[int, int, int, int]  # left, top, right, lower


def draw(
    image: Image.Image, masks: Sequence[Image.Image], augment: Augment, seed: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Return an image as a phase wants it. Threads may draw at once: no global randomness is read or moved.

    Parameters
    ----------
    image : Image
        RGB.
    masks : sequence of Image
        Class positions at the image's size.
    augment : Augment
    seed : int
        The same seed gives the same draw.

    Returns
    -------
    image : Tensor
        (3, size, size) uint8; 0 on padding.
    valid : Tensor
        (1, size, size) bool; false on padding.
    pseudo : Tensor
        (len(masks), size, size) uint8 class positions; 255 where there is none.
    """
    drawn = torch.Generator().manual_seed(seed)
    if any(augment.jitter):
        image = _jittered(image, augment.jitter, drawn)
    (left, top, right, lower), scaled = _geometry(image.size, augment, drawn)
    mirrored = augment.flip > 0 and _unit(drawn) < augment.flip

    def through(layer: Image.Image, how: Image.Resampling) -> np.ndarray:
        """Resize a layer and cut the box out of it; what lies outside is 0."""
        cut = layer.resize(scaled, how).crop((left, top, right, lower))
        return np.array(cut.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if mirrored else cut)

    pixels = torch.from_numpy(through(image, Image.Resampling.BILINEAR)).permute(2, 0, 1).contiguous()
    inside = np.zeros((lower - top, right - left), bool)
    inside[max(0, -top) : scaled[1] - top, max(0, -left) : scaled[0] - left] = True
    valid = np.ascontiguousarray(inside[:, ::-1]) if mirrored else inside
    pseudo = [np.where(valid, through(mask, Image.Resampling.NEAREST), IGNORE) for mask in masks]
    stacked = np.stack(pseudo) if pseudo else np.zeros((0, *valid.shape))
    return pixels, torch.from_numpy(valid)[None], torch.from_numpy(stacked.astype(np.uint8))


def _geometry(sides: tuple[int, int], augment: Augment, drawn: torch.Generator) -> tuple[Box, tuple[int, int]]:
    """Draw the size to which an image is resized, and the box that is cut out of it then, padding included."""
    width, height = sides
    size, (low, high) = augment.size, augment.range
    if augment.resize == "squash":
        return (0, 0, size, size), (size, size)
    if augment.resize == "area":
        return _crop_of_area(sides, augment, drawn)
    factor = low + (high - low) * _unit(drawn)
    if augment.resize == "long_side":
        factor /= max(sides)
    scaled = max(1, round(width * factor)), max(1, round(height * factor))
    left, top = (_offset(side, size, drawn) for side in scaled)
    return (left, top, left + size, top + size), scaled


def _crop_of_area(sides: tuple[int, int], augment: Augment, drawn: torch.Generator) -> tuple[Box, tuple[int, int]]:
    """Draw a crop with a share of the area and a side ratio of 3/4 to 4/3, resized to the square.

    It is torchvision's `RandomResizedCrop`, whose own draws come from the global generator, which threads share.
    """
    width, height = sides
    low, high = torch.tensor([3 / 4, 4 / 3]).log().tolist()
    wide, tall = (
        min(width, round(height * 4 / 3)),
        min(height, round(width * 4 / 3)),
    )  # where nothing that is drawn fits
    left, top = (width - wide) // 2, (height - tall) // 2
    for _ in range(10):
        area = width * height * _uniform(*augment.range, drawn)
        ratio = float(torch.tensor(_uniform(low, high, drawn)).exp())
        w, h = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        if 0 < w <= width and 0 < h <= height:
            top, left = _below(height - h + 1, drawn), _below(width - w + 1, drawn)
            wide, tall = w, h
            break
    across, down = augment.size / wide, augment.size / tall
    scaled = round(width * across), round(height * down)
    left, top = min(round(left * across), scaled[0] - augment.size), min(round(top * down), scaled[1] - augment.size)
    return (left, top, left + augment.size, top + augment.size), scaled


def _offset(side: int, size: int, drawn: torch.Generator) -> int:
    """Draw where a crop begins on a side; before 0 where the side is shorter, so that padding falls on both ends."""
    offset = _below(abs(side - size) + 1, drawn)
    return offset if side >= size else -offset


def _below(bound: int, drawn: torch.Generator) -> int:
    return int(torch.randint(bound, (), generator=drawn))


def _unit(drawn: torch.Generator) -> float:
    return float(torch.rand((), generator=drawn))


def _uniform(low: float, high: float, drawn: torch.Generator) -> float:
    return float(torch.empty(1).uniform_(low, high, generator=drawn))


def _jittered(image: Image.Image, amounts: Sequence[float], drawn: torch.Generator) -> Image.Image:
    """Change brightness, contrast, saturation and hue in an order that is drawn too: torchvision's `ColorJitter`."""
    ensure_importable()
    from torchvision.transforms import functional

    order = torch.randperm(4, generator=drawn).tolist()
    ranges = [(max(0.0, 1 - amount), 1 + amount) for amount in amounts[:3]] + [(-amounts[3], amounts[3])]
    factors = [_uniform(low, high, drawn) if low < high else None for low, high in ranges]
    changes = (
        functional.adjust_brightness,
        functional.adjust_contrast,
        functional.adjust_saturation,
        functional.adjust_hue,
    )
    for which in order:
        factor = factors[which]
        if factor is not None:
            image = changes[which](image, factor)
    return image
