"""Checks of a plugin at work: a cell through the real stages, to its record."""

from __future__ import annotations

import math
import os
from typing import Any

from harness.cell import Cell
from harness.check.case import BACKBONES, IMAGES, TINY, Case
from harness.check.suite import NotApplicableError, check, must
from harness.results.record import Record
from harness.spec import Grid, expand

_ORACLE = 0.9  # mIoU of the ground truth itself, at whole patches


def _cell(case: Case, **chosen: Any) -> Cell:
    return expand([Grid(limit=IMAGES, **chosen)], case.registry)[0]


def _scores(record: Record) -> dict[str, float]:
    scores = {split: metrics["miou"] for split, metrics in record["metrics"].items()}
    must(scores and all(map(math.isfinite, scores.values())), f"the record has no score: {scores}")
    return scores


@check("method", needs=("trains", "scores_on_a_grid"))
def runs_on_toy(case: Case) -> None:
    """What counts in the end is a record with a score.

    The message names the stage; --debug shows its traceback.
    """
    _scores(case.record(case.cell))


@check("refiner", needs=("keeps_shape",))
def refines_on_toy(case: Case) -> None:
    """What counts in the end is a record with a score.

    The message names the stage; --debug shows its traceback.
    """
    own = {f"{case.entry.name}.{key}": value for key, value in case.plugin.check_settings.items()}
    method: dict[str, Any] = {"methods": ("sanity-random",)}
    if case.plugin.trained:
        backbone = f"timm:{BACKBONES[case.plugin.families[-1]]}"
        method = {"methods": ("cam",), "backbones": (backbone,), "weights": "random"}
    _scores(case.record(_cell(case, refine=(case.rule,), set=TINY | own, **method)))


@check("dataset", needs=("images_open",))
def truth_scores_full(case: Case) -> None:
    """The ground truth, put through the stages like a method's maps, must come out as it went in.

    Compare `classes`, `image_labels` and the indices in the masks.
    """
    if not case.plugin.has_masks:
        raise NotApplicableError("it has no masks")
    os.environ["WSSS_HARNESS_CACHE"] = str(case.place())  # what it draws, it draws anew
    settings = {"protocol.size": "native", "sanity-oracle.stride": 1}
    cell = _cell(case, methods=("sanity-oracle",), datasets=(case.entry.name,), set=settings)
    for split, score in _scores(case.record(cell, case.root)).items():
        must(score >= _ORACLE, f"the ground truth of {split} scores {100 * score:.1f}")
