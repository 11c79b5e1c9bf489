"""Draw a training image: image, validity and pseudo-masks through one geometry, from one seed."""

from __future__ import annotations

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
    """Return an image as a phase wants it.

    Parameters
    ----------
    image : Image
        RGB.
    masks : sequence of Image
        Class positions at the image's size.
    augment : Augment
    seed : int
        The same seed gives the same draw; nothing else is random, and no other randomness is touched.

    Returns
    -------
    image : Tensor
        (3, size, size) float in [0, 1]; 0 on padding.
    valid : Tensor
        (1, size, size) bool; false on padding.
    pseudo : Tensor
        (len(masks), size, size) int64 class positions; 255 where there is none.
    """
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)  # torchvision draws from it; a GPU's generator is left alone
        if any(augment.jitter):
            image = _jittered(image, augment)
        (left, top, right, lower), scaled = _geometry(image.size, augment)
        mirrored = augment.flip > 0 and bool(torch.rand(()) < augment.flip)

    def through(layer: Image.Image, how: Image.Resampling) -> np.ndarray:
        """Resize a layer and cut the box out of it; what lies outside is 0."""
        cut = layer.resize(scaled, how).crop((left, top, right, lower))
        return np.array(cut.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if mirrored else cut)

    pixels = torch.from_numpy(through(image, Image.Resampling.BILINEAR)).permute(2, 0, 1).float().div_(255)
    inside = np.zeros((lower - top, right - left), bool)
    inside[max(0, -top) : scaled[1] - top, max(0, -left) : scaled[0] - left] = True
    valid = np.ascontiguousarray(inside[:, ::-1]) if mirrored else inside
    pseudo = [np.where(valid, through(mask, Image.Resampling.NEAREST), IGNORE) for mask in masks]
    stacked = np.stack(pseudo) if pseudo else np.zeros((0, *valid.shape))
    return pixels, torch.from_numpy(valid)[None], torch.from_numpy(stacked.astype(np.int64))


def _geometry(sides: tuple[int, int], augment: Augment) -> tuple[Box, tuple[int, int]]:
    """Draw the size to which an image is resized, and the box that is cut out of it then, padding included."""
    width, height = sides
    size, (low, high) = augment.size, augment.range
    if augment.resize == "squash":
        return (0, 0, size, size), (size, size)
    if augment.resize == "area":
        return _crop_of_area(sides, augment)
    factor = _uniform(low, high)
    if augment.resize == "long_side":
        factor /= max(sides)
    scaled = max(1, round(width * factor)), max(1, round(height * factor))
    left, top = (_offset(side, size) for side in scaled)
    return (left, top, left + size, top + size), scaled


def _crop_of_area(sides: tuple[int, int], augment: Augment) -> tuple[Box, tuple[int, int]]:
    """Draw a crop with a share of the area and a side ratio of 3/4 to 4/3, as torchvision's, resized to the square."""
    ensure_importable()
    from torchvision.transforms import RandomResizedCrop

    width, height = sides
    blank = Image.new("1", sides)
    top, left, tall, wide = RandomResizedCrop.get_params(blank, list(augment.range), [3 / 4, 4 / 3])
    across, down = augment.size / wide, augment.size / tall
    scaled = round(width * across), round(height * down)
    left, top = min(round(left * across), scaled[0] - augment.size), min(round(top * down), scaled[1] - augment.size)
    return (left, top, left + augment.size, top + augment.size), scaled


def _offset(side: int, size: int) -> int:
    """Draw where a crop begins on a side; before 0 where the side is shorter, so that padding falls on both ends."""
    spare = side - size
    drawn = int(torch.randint(abs(spare) + 1, ()))
    return drawn if spare >= 0 else -drawn


def _uniform(low: float, high: float) -> float:
    return low + (high - low) * float(torch.rand(()))


def _jittered(image: Image.Image, augment: Augment) -> Image.Image:
    """Change brightness, contrast, saturation and hue, in an order that is drawn too."""
    ensure_importable()
    from torchvision.transforms import ColorJitter

    return ColorJitter(*augment.jitter)(image)
