"""Names beside the markers of a figure, where there is room for them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

import numpy as np

from harness.report.figures.canvas import SMALL

_BESIDE = 12  # points; a name that is farther away has a line to its marker


@dataclass(frozen=True)
class Named:
    """A marker's name, its place in the units of the axes, and its colour."""

    name: str
    x: float
    y: float
    colour: str


def write_names(axis: Any, points: Sequence[Named]) -> list[str]:
    """Write each name as near to its marker as there is room, with a line if not beside it; return those without.

    The figure must have been laid out before (`draw_without_rendering`): room is measured in pixels.
    """
    unnamed = []
    renderer = axis.figure.canvas.get_renderer()
    scale = axis.figure.dpi / 72
    places = axis.transData.transform([(point.x, point.y) for point in points])
    frame = axis.get_window_extent()
    taken = [(x - 4 * scale, y - 4 * scale, x + 4 * scale, y + 4 * scale) for x, y in places]
    angles = np.deg2rad([0, 180, 90, 270, 30, 330, 150, 210, 60, 300, 120, 240])
    order = sorted(range(len(points)), key=lambda n: (points[n].x, points[n].y))
    for number in order:
        point, (x, y) = points[number], places[number]
        note = axis.text(
            point.x, point.y, point.name, fontsize=SMALL - 1, ha="center", va="center", color=point.colour,
            bbox={"facecolor": "white", "edgecolor": "none", "alpha": 0.7, "pad": 0.3}, in_layout=False,
        )  # fmt: skip
        size = note.get_window_extent(renderer)
        wide, high = size.width / 2, size.height / 2
        for away, angle in product(range(7, 120, 5), angles):
            # The nearest side of the text is `away` points from the point.
            right, up = np.cos(angle), np.sin(angle)
            middle = (x + right * (away * scale + wide), y + up * (away * scale + high))
            box = (middle[0] - wide, middle[1] - high, middle[0] + wide, middle[1] + high)
            inside = frame.x0 < box[0] and box[2] < frame.x1 and frame.y0 < box[1] and box[3] < frame.y1
            if inside and not any(_overlap(box, other) for other in taken):
                break
        else:
            note.remove()
            unnamed.append(point.name)
            continue
        taken.append(box)
        where = axis.transData.inverted().transform(middle)
        note.set_position(where)
        if away > _BESIDE:
            axis.plot(*zip((point.x, point.y), where, strict=True), color=point.colour, linewidth=0.4)
    return unnamed


def _overlap(one: Sequence[float], other: Sequence[float]) -> bool:
    return one[0] < other[2] and other[0] < one[2] and one[1] < other[3] and other[1] < one[3]
