"""K-means by Lloyd's iterations from a fixed start: the same points give the same clusters."""

from __future__ import annotations

import torch
from torch import Tensor


def kmeans(points: Tensor, count: int, iterations: int = 300) -> tuple[Tensor, Tensor]:
    """Cluster points. The first centre is the point nearest to the mean, each other one the farthest from those before.

    Parameters
    ----------
    points : Tensor
        (N, D), at least one.
    count : int
        Of clusters; fewer where there are fewer points.
    iterations : int
        At most; it stops when no point changes its cluster.

    Returns
    -------
    Tensor, Tensor
        (N,) cluster of each point, and (clusters, D) centres; a cluster that loses its last point keeps its centre.
    """
    centres = points[(points - points.mean(0)).norm(dim=1).argmin()][None]
    for _ in range(min(count, len(points)) - 1):
        centres = torch.cat([centres, points[torch.cdist(points, centres).amin(1).argmax()][None]])
    clusters = torch.cdist(points, centres).argmin(1)
    for _ in range(iterations):
        members = torch.nn.functional.one_hot(clusters, len(centres)).to(points.dtype)
        sizes = members.sum(0)[:, None]
        centres = torch.where(sizes > 0, members.T @ points / sizes.clamp(min=1), centres)
        before, clusters = clusters, torch.cdist(points, centres).argmin(1)
        if torch.equal(before, clusters):
            break
    return clusters, centres
