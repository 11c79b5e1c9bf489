"""Pixel-adaptive refinement of AFA (Ru et al., CVPR 2022) as a refiner: `--refine par`."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import ClassVar

import torch
from pydantic import Field
from torch import Tensor
from wsss_methods.pamr import PAMR, PAMRParams, neighbours


class PARParams(PAMRParams):
    """Settings of PAR; the defaults are those of the authors' code, rulixiang/afa.

    Attributes
    ----------
    sharpness : float
        Differences of colour and distances count in units of this share of their deviation.
    position : float
        Weight of the neighbours' distance beside their colour.
    """

    sharpness: float = Field(0.3, gt=0)
    position: float = Field(0.01, ge=0)


class PAR(PAMR):
    """PAMR's neighbours with squared differences of colour, and a small weight for being near.

    With c the colours of pixel i, s_ic their unbiased standard deviation over the neighbours alone, d_j the distance of
    neighbour j in pixels and s_d the deviation of all d_j,

        a_ij = softmax over j of  -1/3 sum_c (|x_ic - x_jc| / (1e-8 + s_ic) / sharpness)^2
               + position * softmax over j of  -(d_j / (1e-8 + s_d) / sharpness)^2

    The a_ij sum to 1 + position, so ten iterations multiply a constant by 1.1046; only comparisons between classes
    matter to a mask. AFA and its followers refine at half the image's size, here masks are refined at image size.
    """

    name = "par"
    cite = "ru2022afa"
    expected_failures: ClassVar[Mapping[str, str]] = {
        "stays_probable": "its weights sum to 1.01, as the authors' do",
        "constant_image": "its weights sum to 1.01, as the authors' do",
    }
    Params = PARParams

    params: PARParams

    def weights(self, image: Tensor) -> Tensor:
        p = self.params
        there = torch.stack(list(neighbours(image, p.dilations)))
        unit = p.sharpness * (there.std(0) + 1e-8)
        colour = (((there - image) / unit) ** 2).mean(-3).neg().softmax(0)
        near = nearness(p.dilations, p.sharpness, image.device)
        return colour + p.position * near.view(-1, *[1] * (colour.dim() - 1))


@cache
def nearness(dilations: tuple[int, ...], sharpness: float, device: torch.device) -> Tensor:
    """Return the softmax over neighbours, in the order of `neighbours`; made once: a GPU's host waits for numbers."""
    ring = torch.tensor([2**0.5, 1, 2**0.5, 1, 1, 2**0.5, 1, 2**0.5])
    distances = torch.cat([ring * dilation for dilation in dilations])
    return ((distances / (distances.std() + 1e-8) / sharpness) ** 2).neg().softmax(0).to(device)
