"""Pixel-adaptive mask refinement (Araslanov and Roth, CVPR 2020) as a refiner: `--refine pamr`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import product
from typing import Annotated

import numpy as np
import torch
from pydantic import Field
from torch import Tensor
from torch.nn import functional

from harness import Refiner, RefinerParams


class PAMRParams(RefinerParams):
    """Settings of PAMR; the defaults are those of the authors' code, visinf/1-stage-wseg, core/config.py.

    Attributes
    ----------
    dilations : tuple of int
        How far a pixel's neighbours stand from it, in pixels; each distance gives eight. Their order is all one.
    iterations : int
        How often each pixel is replaced by the mean of its neighbours.
    """

    dilations: tuple[Annotated[int, Field(ge=1)], ...] = Field((1, 2, 4, 8, 12, 24), min_length=1)
    iterations: int = Field(10, ge=1)


class PAMR(Refiner):
    """Pixel-adaptive mask refinement: each pixel becomes, again and again, the mean of its neighbours of like colour.

    The neighbours N(i) of pixel i are the eight around it at each dilation; beyond the border lies the nearest pixel of
    the border. With x the image and c its colours, pixel i listens to its neighbour j by

        a_ij = softmax over j in N(i) of  -1/3 sum_c |x_ic - x_jc| / (1e-8 + s_ic / 10)

    where s_ic is the unbiased standard deviation of colour c over pixel i and its neighbours, pixel i counted once per
    dilation. Then, `iterations` times and for each class, m_i <- sum over j in N(i) of a_ij m_j. The a_ij sum to one:
    probabilities stay probabilities. A pixel does not listen to itself, save where the border repeats it.

    So does the authors' code, models/mods/pamr.py. Differences are in units of the local deviation: any normalisation
    of the colours gives the same, and uint8 RGB will do. While training, the authors shrink the image to the grid of
    their features; here masks are refined at image size, where the same dilations reach less far.
    """

    name = "pamr"
    Params = PAMRParams

    params: PAMRParams

    def refine(self, image: np.ndarray, probabilities: np.ndarray) -> np.ndarray:
        pixels = torch.tensor(image).permute(2, 0, 1).float().contiguous()
        return self.refined(pixels, torch.tensor(probabilities)).numpy()

    def refined(self, image: Tensor, mask: Tensor) -> Tensor:
        """Return a (C, H, W) mask refined by a (3, H, W) image, where they lie; or a batch of masks by their images."""
        return self.spread(self.weights(image), mask)

    def weights(self, image: Tensor) -> Tensor:
        """Return how much each pixel listens to each neighbour, see `affinities`."""
        return affinities(image, self.params.dilations)

    def spread(self, weights: Tensor, mask: Tensor) -> Tensor:
        """Return a (C, H, W) mask, or a batch of them, after all iterations with what `weights` returns."""
        each = weights.unsqueeze(-3).unbind()
        for _ in range(self.params.iterations):
            refined = torch.zeros_like(mask)
            for weight, there in zip(each, neighbours(mask, self.params.dilations), strict=True):
                refined.addcmul_(weight, there)
            mask = refined
        return mask


def affinities(image: Tensor, dilations: Sequence[int]) -> Tensor:
    """Return how much each pixel listens to each neighbour.

    Parameters
    ----------
    image : Tensor
        (3, H, W) or (B, 3, H, W) float, of any range.
    dilations : sequence of int

    Returns
    -------
    Tensor
        (8 * len(dilations), H, W) or (8 * len(dilations), B, H, W), in the order of `neighbours`; sums to one over the
        neighbours.
    """
    total, squares = torch.zeros_like(image), torch.zeros_like(image)
    for there in neighbours(image, dilations):
        difference = there - image
        total += difference
        squares += difference**2
    count = 9 * len(dilations)
    unit = 1e-8 + 0.1 * ((squares - total**2 / count) / (count - 1)).sqrt()
    distances = [((there - image).abs() / unit).mean(-3) for there in neighbours(image, dilations)]
    return torch.stack(distances).neg().softmax(0)


def neighbours(maps: Tensor, dilations: Sequence[int]) -> Iterator[Tensor]:
    """Yield, for one neighbour after the other, what (C, H, W) or (B, C, H, W) maps hold there."""
    margin = max(dilations)
    height, width = maps.shape[-2:]
    padded = functional.pad(maps, [margin] * 4, mode="replicate")
    for dilation in dilations:
        for down, right in product((-dilation, 0, dilation), repeat=2):
            if (down, right) != (0, 0):
                top, left = margin + down, margin + right
                yield padded[..., top : top + height, left : left + width]
