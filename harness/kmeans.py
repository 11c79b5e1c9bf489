"""K-means: Lloyd's algorithm from a start that is given, and a start that is the same each time."""

from __future__ import annotations

import torch
from torch import Tensor


def lloyd(points: Tensor, centres: Tensor, iterations: int = 300) -> tuple[Tensor, Tensor]:
    """Return the centres of clusters, and which of them is nearest to each point.

    Parameters
    ----------
    points : Tensor
        (N, D).
    centres : Tensor
        (k, D) where they start; one that is nearest to no point stays where it is.
    iterations : int
        At most; it ends before where nothing changes.

    Returns
    -------
    centres : Tensor
        (k, D).
    nearest : Tensor
        (N,) int64.
    """
    nearest = torch.cdist(points, centres).argmin(1)
    for _ in range(iterations):
        counts = nearest.bincount(minlength=len(centres))[:, None]
        means = torch.zeros_like(centres).index_add(0, nearest, points) / counts.clamp(min=1)
        centres = torch.where(counts > 0, means, centres)
        before, nearest = nearest, torch.cdist(points, centres).argmin(1)
        if torch.equal(before, nearest):
            break
    return centres, nearest


def spread_start(points: Tensor, k: int) -> Tensor:
    """Return (k, D) of (N, D) points on a CPU, far from each other: k-means++, drawn from a seed of 0."""
    generator = torch.Generator().manual_seed(0)
    chosen = [int(torch.randint(len(points), (), generator=generator))]
    for _ in range(1, k):
        odds = torch.cdist(points, points[chosen]).amin(1).square() + 1e-12  # equal points can be drawn too
        chosen.append(int(torch.multinomial(odds, 1, generator=generator)))
    return points[chosen]
