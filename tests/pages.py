"""Records and pages for the tests of the report's page."""

from __future__ import annotations

import copy
import random
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from harness.report.dataframe import frame
from harness.report.html import write_page
from harness.report.overlays import PageImage
from harness.report.tables import comparison
from harness.results.store import Store

DEMO = Path(__file__).parent.parent / "results" / "reference" / "demo"
HOSTILE = "<b>x</b><script>alert(1)</script>"
CLASSES = 21


def real() -> list[dict[str, Any]]:
    """The records of the demo."""
    return list(Store(DEMO).records())


def hostile() -> list[dict[str, Any]]:
    """The demo with a method whose name is markup, and a failure whose reason and log are."""
    records = real()
    named, failed = copy.deepcopy(records[:2])
    named["spec"]["method"] = HOSTILE
    named |= {"key": "a" * 20, "title": f"{HOSTILE}/toy"}
    failed |= {
        "key": "b" * 20, "status": "failed", "reason": f"ValueError: {HOSTILE}", "failed_stage": "fit",
        "tail": f"</script>{HOSTILE}<!--", "metrics": {}, "stages": [],
    }  # fmt: skip
    return [*records, named, failed]


def many(count: int) -> list[dict[str, Any]]:
    """As many records as asked for, with scores of their own for as many classes as Pascal VOC has."""
    drawn, templates = random.Random(0), real()
    records = []
    for number in range(count):
        record = copy.deepcopy(templates[number % len(templates)])
        record["key"] = f"{number:020x}"
        record["spec"]["seed"] = number // len(templates) % 3
        record["spec"]["params"]["variant"] = number // (3 * len(templates))
        record["classes"] = ["background", *(f"class {n}" for n in range(1, CLASSES))]
        for metrics in record["metrics"].values():
            metrics["miou"] = drawn.random()
            metrics["iou"] = [drawn.random() for _ in range(CLASSES)]
        for stage in record["stages"]:
            stage |= {"key": f"{drawn.getrandbits(80):020x}", "seconds": drawn.random()}
        records.append(record)
    return records


def images(count: int) -> list[PageImage]:
    """Small photos of noise, each with a square of class 1 as ground truth and one of class 2 as a method's mask."""
    noise = np.random.default_rng(0)
    made = []
    for number in range(count):
        masks = np.zeros((2, 40, 60), np.uint8)
        masks[0, 5:20, 5:20], masks[1, 10:30, 10:30] = 1, 2
        photo = noise.integers(0, 255, (40, 60, 3), np.uint8)
        overlays = [("ground truth", masks[0]), ("cam BPM", masks[1])]
        made.append(PageImage(f"<i>{number}</i>", "toy, val", photo, overlays, ("background", "kite", "shell")))
    return made


def page(path: Path, records: Iterable[dict[str, Any]], shown: Iterable[PageImage] = ()) -> Path:
    """Write the page of some records."""
    results = frame(records)
    write_page(path, "Results", comparison(results), results, shown)
    return path
