"""Records as CSV, or in the experiment tracker of a group: from what is stored, with nothing in the training loop."""

from __future__ import annotations

import importlib
import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from harness.cell import settings
from harness.errors import UserError
from harness.results.record import Record, curves_of

PROJECT = "wsss-harness"


@dataclass(frozen=True)
class Tracked:
    """A record as trackers see one.

    Attributes
    ----------
    key, name : str
    config : dict
        Settings by dotted name: method, backbone, dataset, seed, the method's own and the protocol's.
    curves : list of tuple
        Epoch and losses by `STAGE/LOSS`.
    scores : dict
        Shares in [0, 1] by `SPLIT/METRIC`.
    """

    key: str
    name: str
    config: dict[str, Any]
    curves: list[tuple[int, dict[str, float]]]
    scores: dict[str, float]


def tracked(record: Record) -> Tracked:
    """Return what a tracker takes of a record."""
    config = settings({**record["spec"], "status": record["status"], "key": record["key"]})
    scores = {
        f"{split}/{name}": float(value)
        for split, metrics in (record.get("metrics") or {}).items()
        for name in ("miou", "pixacc", "macc", "pxap")
        if isinstance(value := metrics.get(name), float)
    }
    scores |= {f"{split}/verified": float(found["miou"]) for split, found in (record.get("verification") or {}).items()}
    curves: dict[int, dict[str, float]] = {}
    for stage in ("fit", "fit_refiner"):
        for row in curves_of(record, stage) or []:
            losses = {f"{stage}/{name}": float(value) for name, value in row.items() if name != "epoch"}
            curves.setdefault(int(row["epoch"]), {}).update(losses)
    return Tracked(record["key"], record["title"], config, sorted(curves.items()), scores)


def to_csv(runs: Iterable[Tracked], out: Path) -> Path:
    """Write a line for each record: its settings and its scores."""
    path = out / "records.csv"
    pd.DataFrame([run.config | run.scores for run in runs]).to_csv(path, index=False, lineterminator="\n")
    return path


def to_tensorboard(runs: Iterable[Tracked], out: Path) -> Path:
    """Write an event file for each record, in a folder named by its key."""
    from torch.utils.tensorboard import SummaryWriter

    for run in runs:
        with SummaryWriter(str(out / run.key[:8])) as writer:
            for epoch, losses in run.curves:
                for name, value in losses.items():
                    writer.add_scalar(name, value, epoch)
            for name, value in run.scores.items():
                writer.add_scalar(name, value)
            writer.add_text("config", "\n".join(f"    {name}: {value}" for name, value in run.config.items()))
    return out


def to_wandb(runs: Iterable[Tracked], out: Path) -> Path:
    """Send records to Weights & Biases, or write them for `wandb sync` where WANDB_MODE is offline."""
    import wandb

    for run in runs:
        with wandb.init(
            project=os.environ.get("WANDB_PROJECT", PROJECT), id=run.key[:16], name=run.name, config=run.config,
            dir=str(out),
        ) as session:  # fmt: skip
            for epoch, losses in run.curves:
                session.log(losses, step=epoch)
            session.summary.update(run.scores)
    return out


def to_mlflow(runs: Iterable[Tracked], out: Path) -> Path:
    """Send records to MLFLOW_TRACKING_URI, or write them as a database file; a record that is there is left alone."""
    import mlflow

    if "MLFLOW_TRACKING_URI" not in os.environ:
        mlflow.set_tracking_uri(f"sqlite:///{(out / 'mlflow.db').absolute()}")
    mlflow.set_experiment(PROJECT)
    for run in runs:
        if mlflow.search_runs(filter_string=f"tags.key = '{run.key}'", output_format="list"):
            continue
        with mlflow.start_run(run_name=run.name):
            mlflow.set_tag("key", run.key)
            mlflow.log_params({name: str(value)[:500] for name, value in run.config.items()})
            for epoch, losses in run.curves:
                mlflow.log_metrics(losses, step=epoch)
            mlflow.log_metrics(run.scores)
    return out


_Write = Callable[[Iterable[Tracked], Path], Path]
FORMS: dict[str, tuple[_Write, str]] = {  # what writes, and the package that it needs
    "csv": (to_csv, "pandas"),
    "tensorboard": (to_tensorboard, "tensorboard"),
    "wandb": (to_wandb, "wandb"),
    "mlflow": (to_mlflow, "mlflow"),
}


def export(records: Iterable[Record], form: str, out: Path) -> Path:
    """Write or send records in one of `FORMS`; return where they lie.

    Raises
    ------
    UserError
        If the tracker's package is not installed.
    """
    write, package = FORMS[form]
    try:
        importlib.import_module(package)
    except ImportError:
        raise UserError(f"{form} needs the package {package}: pip install 'wsss-harness[trackers]'") from None
    out.mkdir(parents=True, exist_ok=True)
    return write([tracked(record) for record in records], out)
