"""Random walks over an image's grid that stop at boundaries (PSA, Ahn and Kwak 2018; IRN, Ahn et al. 2019)."""

from __future__ import annotations

import warnings
from functools import cache

import torch
from torch import Tensor
from torch.nn import functional

Offset = tuple[int, int]  # down, right


@cache
def offsets(radius: int) -> tuple[Offset, ...]:
    """Return half of the neighbours nearer than a radius: 34 of radius 5, 152 of radius 10."""
    rows = [(0, right) for right in range(1, radius)]
    below = [(down, right) for down in range(1, radius) for right in range(1 - radius, radius)]
    return (*rows, *(offset for offset in below if offset[0] ** 2 + offset[1] ** 2 < radius**2))


@cache
def path(offset: Offset) -> tuple[Offset, ...]:
    """Return the points of a thick line from (0, 0) to an offset: nearer to it than 1, inside the box of its ends."""
    down, right = offset
    columns = range(min(0, right), max(0, right) + 1)
    box = [(y, x) for y in range(down + 1) for x in columns]
    return tuple((y, x) for y, x in box if (y * right - x * down) ** 2 < down**2 + right**2)


def shifted(maps: Tensor, offset: Offset, outside: float) -> Tensor:
    """Return (..., h, w) maps as seen from each place by an offset; `outside` where that leaves the image."""
    down, right = offset
    height, width = maps.shape[-2:]
    margin = (max(0, -right), max(0, right), max(0, -down), max(0, down))
    padded = functional.pad(maps, margin, value=outside)
    top, left = max(0, down), max(0, right)
    return padded[..., top : top + height, left : left + width]


def affinities(edges: Tensor, radius: int) -> Tensor:
    """Return how little of a boundary lies between neighbours: 1 - the largest edge on the path from one to the other.

    Parameters
    ----------
    edges : Tensor
        (B, h, w) in [0, 1]; 1 outside the image.
    radius : int

    Returns
    -------
    Tensor
        (B, n, h, w), one for each of `offsets(radius)`, of each place with the one at the offset from it.
    """
    found = []
    for offset in offsets(radius):
        strongest = edges
        for point in path(offset)[1:]:
            strongest = torch.maximum(strongest, shifted(edges, point, 1.0))
        found.append(1 - strongest)
    return torch.stack(found, 1)


def walk(maps: Tensor, affinity: Tensor, radius: int, beta: float, steps: int) -> Tensor:
    """Spread maps to places of high affinity.

    With A the symmetric matrix of affinities to the power of beta and ones on its diagonal, each step replaces maps y
    by (A y) / (A 1): every value becomes a weighted mean of its neighbours. It is what repeated squarings of the dense
    matrix give, by as many sparse products.

    Parameters
    ----------
    maps : Tensor
        (C, h, w).
    affinity : Tensor
        (n, h, w) of `affinities`.
    radius : int
    beta : float
    steps : int

    Returns
    -------
    Tensor
        (C, h, w)
    """
    height, width = maps.shape[1:]
    places = torch.arange(height * width, device=maps.device).view(height, width)
    sources, targets, values = [], [], []
    for offset, weight in zip(offsets(radius), affinity, strict=True):
        target = shifted(places.float() + 1, offset, 0.0).long() - 1
        inside = target >= 0
        sources.append(places[inside])
        targets.append(target[inside])
        values.append(weight[inside] ** beta)
    ones = torch.ones(height * width, device=maps.device, dtype=maps.dtype)
    rows = torch.cat([*sources, *targets, places.flatten()])
    columns = torch.cat([*targets, *sources, places.flatten()])
    matrix = torch.sparse_coo_tensor(
        torch.stack([rows, columns]), torch.cat([*values, *values, ones]), (height * width,) * 2, check_invariants=False
    ).coalesce()
    with warnings.catch_warnings(action="ignore"):  # that this layout, in which products are much faster, is young
        matrix = matrix.to_sparse_csr()
        total = matrix @ ones[:, None]
    flat = maps.flatten(1).T.contiguous()
    for _ in range(steps):
        flat = (matrix @ flat) / total
    return flat.T.reshape(maps.shape)
