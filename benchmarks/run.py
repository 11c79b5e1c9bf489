"""Run benchmarks: side after side, again and again, so that what else the machine does meets all of them."""

from __future__ import annotations

import gc
import importlib.metadata
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any

from benchmarks.cells import Drawn, Few
from benchmarks.row import Row, Setting
from harness import provenance

MODULES = (
    "score_maps", "training_step", "equivariance", "dense_crf", "confusion", "trivial_cells", "warm_run", "kept_maps",
    "peak_memory",
)  # fmt: skip
ON_GPU = ("gpu",)


@contextmanager
def setting(root: Path | None, device: str, threads: int, tiny: bool) -> Iterator[Setting]:
    """Make a scratch folder, and images in it unless a VOCdevkit is given."""
    with TemporaryDirectory() as name:
        folder = Path(name)
        if root is None:
            (Few if tiny else Drawn)(folder / "drawn").prepare()
        at = Setting(folder, "voc12", root or folder / "drawn", device, threads, tiny)
        with at.stack:
            yield at


def benchmark(at: Setting, modules: Iterable[str], show: Callable[[dict[str, Any]], None]) -> dict[str, Any]:
    """Measure the rows of some modules; `show` is called with each as it ends. Return what is kept of it."""
    started, rows = time.time(), []
    for name in modules:
        for row in import_module(f"benchmarks.{name}").rows(at):
            rows.append(measure(row, 1 if at.tiny else row.repeats))
            show(rows[-1])
    drawn = at.root.parent == at.folder
    return {
        "schema": 1,
        "device": provenance.device_name(at.device),
        "threads": at.threads,
        "pictures": "drawn" if drawn else "VOC 2012",
        "started": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(started)),
        "seconds": round(time.time() - started, 1),
        "environment": provenance.environment(),
        "rows": rows,
    }


def measure(row: Row, repeats: int) -> dict[str, Any]:
    """Measure a row: see that the sides agree, then take them in turn."""
    started = time.monotonic()
    values: dict[str, list[float]] = {name: [] for name in row.sides}
    equal = ""
    for turn in range(repeats + row.warm):
        made = {}
        for name, side in row.sides.items():
            gc.collect()
            value, made[name] = side()
            if turn >= row.warm:
                values[name].append(value)
        equal = equal or row.agree(made)
        del made
    ratios = [row.ratio(dict(zip(values, turn, strict=True))) for turn in zip(*values.values(), strict=True)]
    return {
        "name": row.name, "what": row.what, "against": row.against, "unit": row.unit, "values": values,
        "ratios": ratios, "median": median(ratios), "aim": str(row.aim), "met": row.aim.met(median(ratios)),
        "equal": equal, "facts": row.facts(),
        "opponents": {name: importlib.metadata.version(name) for name in row.opponents},
        "seconds": round(time.monotonic() - started, 1),
    }  # fmt: skip
