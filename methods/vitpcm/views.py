"""The views of an image that the two branches see, and how patch maps follow them there and back.

A view is a crop and resize, then flips and a transpose, drawn anew for each image of a batch. The same view applies
to an image and to its grid of patches, so crops start and end on patch borders.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor
from torch.nn import functional


@cache
def constant(values: tuple[float, ...], device: torch.device) -> Tensor:
    """Return a tensor of values, made once: a GPU's host waits for every one that is made from numbers."""
    return torch.tensor(values, device=device)


@dataclass(frozen=True)
class View:
    """How each image of a batch is shown.

    Attributes
    ----------
    flips : Tensor
        (3, B) bool: mirrored left to right, upside down, transposed, in this order.
    offset : Tensor
        (B, 2) first row and column of the crop, in patches.
    extent : Tensor
        (B,) side of the crop, in patches.
    out : int
        Side of the result, in patches.
    """

    flips: Tensor
    offset: Tensor
    extent: Tensor
    out: int

    def show(self, maps: Tensor, patch: int = 1) -> Tensor:
        """Apply the view to (B, C, s, s) maps of `patch` pixels per patch."""
        return self.turn(self._resample(maps, patch))

    def turn(self, maps: Tensor) -> Tensor:
        """Apply the flips and the transpose."""
        for flip, operation in zip(self.flips, _FLIPS, strict=True):
            maps = torch.where(flip[:, None, None, None], operation(maps), maps)
        return maps

    def unturn(self, maps: Tensor) -> Tensor:
        """Undo `turn`: each step is its own inverse, so the last comes first."""
        for flip, operation in zip(self.flips.flip(0), reversed(_FLIPS), strict=True):
            maps = torch.where(flip[:, None, None, None], operation(maps), maps)
        return maps

    def back(self, maps: Tensor, side: int) -> tuple[Tensor, Tensor]:
        """Bring (B, C, out, out) maps of the view back to whole images of `side` patches.

        Returns
        -------
        Tensor, Tensor
            (B, C, side, side) maps, upscaled bilinearly to where the view looked; and (B, side, side), True there.
        """
        lines = torch.arange(side, device=maps.device) - self.offset[:, :, None]
        where = lines / (self.extent[:, None, None] - 1)  # (B, 2, side), 0 to 1 inside
        inside = (where >= 0) & (where <= 1)
        sampled = _sample(self.unturn(maps), where)
        return sampled, inside[:, 0, :, None] & inside[:, 1, None, :]

    def _resample(self, maps: Tensor, patch: int) -> Tensor:
        """Crop and resize bilinearly, corner pixels onto corner pixels."""
        side, out = maps.shape[-1], self.out * patch
        steps = torch.linspace(0, 1, out, device=maps.device)
        lines = self.offset[:, :, None] * patch + steps * (self.extent * patch - 1)[:, None, None]  # (B, 2, out)
        return _sample(maps, lines / max(side - 1, 1))


def _sample(maps: Tensor, lines: Tensor) -> Tensor:
    """Read (B, C, s, s) maps at (B, 2, out) rows and columns, 0 and 1 being the centres of the corner pixels."""
    out = lines.shape[-1]
    rows, columns = (2 * lines - 1).unbind(1)
    where = torch.stack([columns[:, None, :].expand(-1, out, -1), rows[:, :, None].expand(-1, -1, out)], -1)
    return functional.grid_sample(maps, where.to(maps.dtype), mode="bilinear", align_corners=True)


_FLIPS = (lambda maps: maps.flip(3), lambda maps: maps.flip(2), lambda maps: maps.transpose(2, 3))


def draw_plain(batch: int, grid: int, flips: Tensor) -> View:
    """Draw views that show whole images at their size.

    Parameters
    ----------
    batch : int
    grid : int
        Side of an image, in patches.
    flips : Tensor
        (3,) probabilities of the two mirrorings and the transpose.
    """
    whole = torch.full((batch,), grid, device=flips.device)
    offset = torch.zeros(batch, 2, dtype=torch.long, device=flips.device)
    return View(_draw_flips(batch, flips), offset, whole, grid)


def draw_small(batch: int, grid: int, crop: int, out: int, probability: float, flips: Tensor) -> View:
    """Draw views of half the size: with a probability of a crop, else of the whole image.

    Offsets are whole patches, drawn from 0 to the image's end and clipped to where the crop still fits: crops at the
    far borders are more frequent than others, as in the official code.

    Parameters
    ----------
    batch : int
    grid, crop, out : int
        Sides of image, crop and result, in patches.
    probability : float
        Of a crop.
    flips : Tensor
        (3,) probabilities of the two mirrorings and the transpose.
    """
    cropped = torch.rand(batch, device=flips.device) < probability
    offset = torch.randint(0, grid + 1, (batch, 2), device=flips.device).clamp(max=grid - crop)
    return View(
        _draw_flips(batch, flips),
        torch.where(cropped[:, None], offset, 0),
        torch.where(cropped, crop, grid),
        out,
    )


def _draw_flips(batch: int, probabilities: Tensor) -> Tensor:
    return torch.rand(3, batch, device=probabilities.device) < probabilities[:, None]


def merge(tiles: Tensor) -> Tensor:
    """Merge four images each into one, row by row: (4 * B, C, n, n) to (B, C, 2 * n, 2 * n)."""
    count, channels, side, _ = tiles.shape
    blocks = tiles.reshape(count // 4, 2, 2, channels, side, side).permute(0, 3, 1, 4, 2, 5)
    return blocks.reshape(count // 4, channels, 2 * side, 2 * side)


def split(merged: Tensor) -> Tensor:
    """Undo `merge`: (B, C, 2 * n, 2 * n) to (4 * B, C, n, n)."""
    count, channels, side, _ = merged.shape
    blocks = merged.reshape(count, channels, 2, side // 2, 2, side // 2).permute(0, 2, 4, 1, 3, 5)
    return blocks.reshape(4 * count, channels, side // 2, side // 2)


def jitter(images: Tensor) -> Tensor:
    """Change contrast by 0.5 to 2, saturation by 0.5 to 1.5, hue by up to a tenth of the circle; one in ten to grey.

    Each image of (B, 3, H, W) in [0, 1] by draws of its own; nothing is clipped but the saturation.
    """
    batch, device = len(images), images.device

    def draw(low: float, high: float) -> Tensor:
        return torch.empty(batch, 1, 1, device=device).uniform_(low, high)

    images = images + draw(-0.2, 0.2)[:, None] / 255
    mean = images.mean((2, 3), keepdim=True)
    images = (images - mean) * draw(0.5, 2.0)[:, None] + mean
    hue, saturation, value = _to_hsv(images)
    images = _to_rgb((hue + draw(-0.1, 0.1)) % 1, (saturation * draw(0.5, 1.5)).clamp(0, 1), value)
    grey = (images * constant((0.2989, 0.5870, 0.1140), device).view(1, 3, 1, 1)).sum(1, keepdim=True)
    return torch.where(draw(0, 1)[:, None] < 0.1, grey, images)


def _to_hsv(images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return hue and saturation in [0, 1], and value, (B, H, W) each."""
    red, green, blue = images.unbind(1)
    value, which = images.max(1)
    spread = value - images.amin(1)
    safe = spread.clamp(min=1e-8)
    hue = torch.where(
        which == 0, (green - blue) / safe, torch.where(which == 1, 2 + (blue - red) / safe, 4 + (red - green) / safe)
    )
    return (hue / 6) % 1, torch.where(value > 0, spread / value.clamp(min=1e-8), 0.0).clamp(0, 1), value


def _to_rgb(hue: Tensor, saturation: Tensor, value: Tensor) -> Tensor:
    offsets = constant((5.0, 3.0, 1.0), hue.device).view(1, 3, 1, 1)
    turn = (offsets + hue[:, None] * 6) % 6
    ramp = torch.minimum(turn, 4 - turn).clamp(0, 1)
    return value[:, None] - (value * saturation)[:, None] * ramp
