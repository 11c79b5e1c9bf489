"""Figures of records, each a function of results, artefacts and published scores: as PNG and as SVG."""

from harness.report.figures.canvas import COLOURS, Drawn, new_figure, save
from harness.report.figures.classes import class_bars, confusion_matrix
from harness.report.figures.cost import cost_figure
from harness.report.figures.curves import learning_curves, threshold_curves
from harness.report.figures.parameters import parameters_figure
from harness.report.figures.qualitative import extreme_images, heatmaps_figure, qualitative_figure
from harness.report.figures.ranking import ranking_figure
from harness.report.figures.sensitivity import draw_sensitivity

__all__ = [
    "COLOURS",
    "Drawn",
    "class_bars",
    "confusion_matrix",
    "cost_figure",
    "draw_sensitivity",
    "extreme_images",
    "heatmaps_figure",
    "learning_curves",
    "new_figure",
    "parameters_figure",
    "qualitative_figure",
    "ranking_figure",
    "save",
    "threshold_curves",
]
