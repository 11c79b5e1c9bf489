"""The one training loop that methods share: phases, checkpoints after each epoch, exact resume."""

from __future__ import annotations

import hashlib
import itertools
import json
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor, nn

from harness.contract import checked_losses, checked_phases
from harness.data.base import open_rgb
from harness.errors import HarnessError
from harness.method import Batch, Method, Phase, Step

EPOCH = "epoch-{}.safetensors"
_CHECKPOINT = "checkpoint.pt"
_MAX_CHECKPOINT_SHARE = 0.05  # of the training time


def derive(seed: int, *names: object) -> int:
    """Return a seed of its own for each use, from the run's seed."""
    text = json.dumps([seed, *map(str, names)])
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:7], "big")


def squash(image: np.ndarray, sides: tuple[int, int]) -> Tensor:
    """Return (3, *sides) float in [0, 1] of an (H, W, 3) uint8 picture; bilinear with antialiasing, aspect lost."""
    resized = Image.fromarray(image).resize(sides[::-1], Image.Resampling.BILINEAR)
    return torch.from_numpy(np.asarray(resized).copy()).permute(2, 0, 1).float().div_(255)


class TrainingData:
    """The pictures and image labels of the fit split. It has no way to a mask.

    Attributes
    ----------
    ids : list of str
    labels : Tensor
        (N, num_classes) multi-hot float; column 0 is the background.
    """

    def __init__(self, ids: list[str], labels: Tensor, paths: list[Path], workers: int = 0) -> None:
        self.ids = ids
        self.labels = labels
        self._paths = paths
        self._workers = workers

    def __len__(self) -> int:
        return len(self.ids)

    def batches(self, size: int, batch_size: int, seed: int) -> Iterator[Batch]:
        """Yield one epoch of shuffled batches, squashed to `size`; a last, smaller batch is left out."""
        loader: torch.utils.data.DataLoader[Any] = torch.utils.data.DataLoader(
            _Pictures(self._paths, size),
            batch_size=min(batch_size, len(self)),
            shuffle=True,
            drop_last=True,
            num_workers=self._workers,
            generator=torch.Generator().manual_seed(seed),
        )
        for images, index in loader:
            yield Batch(images, self.labels[index], [self.ids[i] for i in index.tolist()])


class _Pictures(torch.utils.data.Dataset[tuple[Tensor, int]]):
    def __init__(self, paths: list[Path], size: int) -> None:
        self.paths = paths
        self.size = size

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return squash(open_rgb(self.paths[index]), (self.size, self.size)), index


@dataclass
class Session:
    """How a training runs, as opposed to what is trained.

    Attributes
    ----------
    seed : int
    device : str
    precision : {"fp32", "bf16"}
    folder : Path
        Where checkpoints are kept; what stands there is resumed.
    progress : callable
        Told (iterations done, iterations in all, {loss: value}).
    keep_epochs : bool
        Whether to keep the model of every epoch.
    curves : list of dict
        Mean losses of each epoch; filled in by training.
    """

    seed: int
    device: str
    precision: str
    folder: Path
    progress: Callable[[int, int, dict[str, float]], None]
    keep_epochs: bool = False
    curves: list[dict[str, float]] = field(default_factory=list)

    def autocast(self) -> Any:
        """Return the context in which the model runs."""
        return torch.autocast(self.device, torch.bfloat16, enabled=self.precision == "bf16")


def train(method: Method, model: nn.Module, data: TrainingData, session: Session) -> None:
    """Train a model in place through the method's phases, from the last checkpoint if there is one.

    Raises
    ------
    HarnessError
        If a loss is not finite.
    """
    model.to(session.device)
    phases = checked_phases(method, method.phases(model))
    epochs = sum(phase.epochs for phase in phases)
    checkpoint = _load_checkpoint(session)
    start = 0
    if checkpoint:
        model.load_state_dict(checkpoint["model"])
        start = checkpoint["epoch"]
    saved_at, save_seconds = time.monotonic(), 0.0
    first = 0
    for phase in phases:
        end = first + phase.epochs
        if start < end:
            optimizer = _start(phase, model)
            if checkpoint and start > first:
                optimizer.load_state_dict(checkpoint["optimizer"])
            for epoch in range(max(first, start), end):
                _epoch(method, model, optimizer, _Place(phase, first, epoch, epochs), data, session)
                if session.keep_epochs:
                    save_model(model, session.folder / EPOCH.format(f"{epoch + 1:03d}"))
                if epoch + 1 < epochs and time.monotonic() - saved_at > save_seconds / _MAX_CHECKPOINT_SHARE:
                    started = time.monotonic()
                    _save_checkpoint(session, epoch + 1, model, optimizer)
                    saved_at = time.monotonic()
                    save_seconds = saved_at - started
        first = end


@dataclass(frozen=True)
class _Place:
    """An epoch of `epochs`, in a phase that began with epoch `first`."""

    phase: Phase
    first: int
    epoch: int
    epochs: int


def _start(phase: Phase, model: nn.Module) -> torch.optim.Optimizer:
    """Freeze what is in no group, and return a fresh optimiser over the rest."""
    model.requires_grad_(False)
    for group in phase.groups:
        for parameter in group["params"]:
            parameter.requires_grad_(True)
    optimizer = getattr(torch.optim, phase.optimizer)(phase.groups, **phase.options)
    for group in optimizer.param_groups:
        group["base_lr"] = group["lr"]
    return optimizer


def _epoch(
    method: Method, model: nn.Module, optimizer: torch.optim.Optimizer, at: _Place, data: TrainingData, session: Session
) -> None:
    """Train one epoch; everything random in it follows from the seed and the epoch alone.

    Batches that do not fill a last step of the optimiser are left out, as a last, smaller batch is.
    """
    params = method.params
    accumulate = min(params.accumulate, max(1, len(data) // params.batch_size))
    per_epoch = max(1, len(data) // params.batch_size // accumulate * accumulate)
    meter = _Meter(session, at, per_epoch)
    torch.manual_seed(derive(session.seed, "epoch", at.epoch))
    model.train()
    batches = data.batches(params.image_size, params.batch_size, derive(session.seed, "order", at.epoch))
    for index, batch in enumerate(itertools.islice(batches, per_epoch)):
        progress = (at.epoch - at.first + index / per_epoch) / at.phase.epochs
        for group in optimizer.param_groups:
            group["lr"] = group["base_lr"] * at.phase.schedule(progress)
        batch = Batch(batch.images.to(session.device), batch.labels.to(session.device), batch.ids)
        step = Step(at.epoch, at.epochs, at.epoch * per_epoch + index, at.epochs * per_epoch)
        with session.autocast():
            losses = checked_losses(method, method.training_step(model, batch, step))
        (torch.stack(list(losses.values())).sum() / accumulate).backward()
        if (index + 1) % accumulate == 0:
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        meter.add(losses)
    session.curves.append({"epoch": at.epoch + 1, "lr": optimizer.param_groups[0]["lr"], **meter.means()})


class _Meter:
    """Means of the losses of an epoch, fetched from the device only now and then."""

    def __init__(self, session: Session, at: _Place, per_epoch: int) -> None:
        self.session = session
        self.at = at
        self.per_epoch = per_epoch
        self.count = 0
        self.names: list[str] = []
        self.sums = torch.zeros(0)
        self.shown = time.monotonic()

    def add(self, losses: dict[str, Tensor]) -> None:
        values = torch.stack([loss.detach() for loss in losses.values()])
        self.names = list(losses)
        self.sums = self.sums + values if self.count else values
        self.count += 1
        if time.monotonic() - self.shown > 0.5:
            self.shown = time.monotonic()
            done = self.at.epoch * self.per_epoch + self.count
            self.session.progress(done, self.at.epochs * self.per_epoch, {"epoch": self.at.epoch + 1, **self.means()})

    def means(self) -> dict[str, float]:
        means = dict(zip(self.names, (self.sums / self.count).tolist(), strict=True))
        if not all(math.isfinite(value) for value in means.values()):
            values = ", ".join(f"{name} {value:g}" for name, value in means.items())
            raise HarnessError(f"a loss is not finite in epoch {self.at.epoch + 1}: {values}")
        return means


def save_model(model: nn.Module, path: Path) -> None:
    """Write a model's state, as a whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_suffix(".draft")
    save_file({name: value.contiguous().cpu() for name, value in model.state_dict().items()}, draft)
    draft.replace(path)


def _save_checkpoint(session: Session, epoch: int, model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    session.folder.mkdir(parents=True, exist_ok=True)
    draft = session.folder / f".{_CHECKPOINT}"
    state = {"epoch": epoch, "model": model.state_dict(), "optimizer": optimizer.state_dict(), "curves": session.curves}
    torch.save(state, draft)
    draft.replace(session.folder / _CHECKPOINT)


def _load_checkpoint(session: Session) -> dict[str, Any] | None:
    path = session.folder / _CHECKPOINT
    if not path.exists():
        return None
    checkpoint = torch.load(path, map_location=session.device, weights_only=True)
    session.curves = checkpoint["curves"]
    return checkpoint
