"""The only door to matplotlib: figures without a window, files without a date, colours that all eyes tell apart."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

# Okabe and Ito (2008): told apart with any kind of colour vision; a line has a style of its own too.
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000")
STYLES = ("-", "--", "-.", ":", (0, (5, 1)), (0, (1, 1)), (0, (3, 1, 1, 1, 1, 1)))
PAGE = 7.2  # inches across
SMALL = 7  # points

_DPI = 160
_NAMED = 12  # of what is left out for one reason
_TICKS = [tick * 10.0**power for power in range(-3, 5) for tick in (1, 2, 5)]
_METADATA: dict[str, dict[str, None]] = {".png": {"Software": None}, ".svg": {"Creator": None, "Date": None}}


@dataclass(frozen=True)
class Drawn:
    """A figure that was drawn, or why there is none.

    Attributes
    ----------
    name : str
        Of the files, without a suffix.
    figure : matplotlib.figure.Figure or None
        None where there was nothing to draw.
    files : tuple of Path
        The PNG and the SVG; empty where there was nothing to draw.
    caption : str
        What is drawn.
    left_out : tuple of str
        What is not: reasons, each with what it left out.
    """

    name: str
    figure: Any
    files: tuple[Path, ...]
    caption: str
    left_out: tuple[str, ...]


def new_figure(width: float, height: float) -> Any:
    """Return an empty figure of some inches, drawn without a window."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def save(figure: Any, path: Path) -> None:
    """Write a figure as PNG or SVG, by its suffix, without a date or a version: the same figure is the same bytes."""
    from matplotlib import rc_context

    path.parent.mkdir(parents=True, exist_ok=True)
    with rc_context({"svg.hashsalt": "wsss-harness", "text.parse_math": False}):
        figure.savefig(path, dpi=_DPI, metadata=_METADATA[path.suffix])


class LeftOut:
    """What is not in a figure, by reason."""

    def __init__(self) -> None:
        self._names: dict[str, dict[str, None]] = {}

    def add(self, reason: str, *names: str) -> None:
        """Leave something out; twice is once."""
        if names:
            self._names.setdefault(reason, {}).update(dict.fromkeys(names))

    def lines(self) -> tuple[str, ...]:
        """Return a line for each reason, with the first few names."""
        return tuple(f"{reason}: {_some(list(names))}" for reason, names in self._names.items())


def _some(names: list[str]) -> str:
    more = len(names) - _NAMED
    return ", ".join(names[:_NAMED]) + (f" and {more} more" if more > 0 else "")


def finish(figure: Any, path: Path, caption: str, left: LeftOut) -> Drawn:
    """Write a figure as `path` with .png and with .svg behind it."""
    files = tuple(path.with_name(path.name + suffix) for suffix in _METADATA)
    for file in files:
        save(figure, file)
    return Drawn(path.name, figure, files, caption, left.lines())


def nothing(path: Path, caption: str, left: LeftOut, reason: str = "") -> Drawn:
    """Return that there was nothing to draw, and why: what was left out, or else a reason."""
    return Drawn(path.name, None, (), caption, left.lines() or (reason,))


def tidy(axis: Any, grid: str = "y") -> None:
    """Give an axis small letters and a faint grid, and take its frame off."""
    axis.tick_params(labelsize=SMALL)
    axis.grid(axis=grid, alpha=0.25, linewidth=0.6)
    axis.set_axisbelow(True)
    axis.spines[["top", "right"]].set_visible(False)


def logarithmic(axis: Any, values: Sequence[float]) -> None:
    """Make an axis across logarithmic, with room for names beside values and three ticks at least."""
    low, high = min(values) / 1.4, max(values) * 1.7
    more = max(1.0, (10 * low / high) ** 0.5)
    axis.set_xscale("log")
    axis.set_xlim(low / more, high * more)
    ticks = [tick for tick in _TICKS if low / more <= tick <= high * more]
    axis.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
    axis.minorticks_off()


def swatch(colour: Any, label: str) -> Any:
    """Return a patch of a colour for a legend."""
    from matplotlib.patches import Patch

    return Patch(facecolor=colour, edgecolor="0.5", linewidth=0.5, label=label)


def legend(figure: Any, handles: Iterable[Any], columns: int = 0) -> None:
    """Put a legend under a figure, in as many columns as its longest text leaves room for."""
    handles = list(handles)
    longest = max((len(handle.get_label()) for handle in handles), default=0)
    fitting = int(figure.get_figwidth() * 72 / (0.55 * SMALL * longest + 5 * SMALL))
    figure.legend(
        handles=handles, loc="outside lower center", ncols=columns or max(1, min(fitting, len(handles))),
        frameon=False, fontsize=SMALL, handlelength=2.6,
    )  # fmt: skip
