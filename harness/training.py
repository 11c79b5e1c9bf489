"""The one training loop that methods share: phases, checkpoints after each epoch, exact resume."""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from harness.contract import checked_losses, checked_phases
from harness.errors import HarnessError
from harness.loader import TrainingData
from harness.phases import Augment, Batch, Phase, Step
from harness.precision import autocast
from harness.seeds import derive
from harness.trainable import Trainable

EPOCH = "epoch-{}.safetensors"
_CHECKPOINT = "checkpoint.pt"
_MAX_CHECKPOINT_SHARE = 0.05  # of the training time
_FUSED = ("Adam", "AdamW", "SGD")  # that update all parameters in one kernel of a GPU


@dataclass
class Session:
    """How a training runs, as opposed to what is trained.

    Attributes
    ----------
    seed : int
    device : str
    precision : {"fp32", "tf32", "bf16"}
    folder : Path
        Where checkpoints are kept; what stands there is resumed.
    progress : callable
        Called with (iterations done, iterations in all, {loss: value}).
    keep_epochs : bool
        Whether to keep the model of every epoch.
    curves : list of dict
        Mean losses of each epoch; filled in by training.
    phases : list of dict
        What the record says of each phase; filled in by training.
    shown : float
        When progress was last said; epochs may be shorter than the pause between.
    split : bool
        Whether every step is taken in the parts that `accumulate` names: always on a CPU, on a GPU where memory asks
        for it or the method does not say that it makes no difference.
    """

    seed: int
    device: str
    precision: str
    folder: Path
    progress: Callable[[int, int, dict[str, float]], None]
    keep_epochs: bool = False
    curves: list[dict[str, float]] = field(default_factory=list)
    phases: list[dict[str, Any]] = field(default_factory=list)
    shown: float = 0.0
    split: bool = True

    def autocast(self) -> Any:
        """Return the context in which the model runs."""
        return autocast(self.device, self.precision)


def train(method: Trainable, model: nn.Module, data: TrainingData, session: Session) -> None:
    """Train a model in place through the method's phases, from the last checkpoint if there is one.

    Raises
    ------
    HarnessError
        If a loss is not finite.
    """
    model.to(session.device)
    session.split = session.device == "cpu" or not method.splittable or _has_batch_norm(model)
    phases = checked_phases(method, method.phases(model))
    session.phases = [phase.facts() for phase in phases]
    lengths = [_steps_per_epoch(method, phase, data) for phase in phases]
    total = sum(phase.epochs * length for phase, length in zip(phases, lengths, strict=True))
    epochs = sum(phase.epochs for phase in phases)
    checkpoint = _load_checkpoint(session)
    start = 0
    if checkpoint:
        model.load_state_dict(checkpoint["model"])
        start = checkpoint["epoch"]
    saved_at, save_seconds = time.monotonic(), 0.0
    first = before = 0
    for number, (phase, length) in enumerate(zip(phases, lengths, strict=True)):
        end = first + phase.epochs
        if start < end:
            if start <= first:
                method.start_phase(model, data, number)
            optimizer = _start(phase, model, session.device)
            if checkpoint and start > first:
                optimizer.load_state_dict(checkpoint["optimizer"])
            for epoch in range(max(first, start), end):
                done = before + (epoch - first) * length
                place = _Place(phase, number, first, Step(epoch, epochs, done, total, number), length)
                _epoch(method, model, optimizer, place, data, session)
                if session.keep_epochs:
                    save_model(model, session.folder / EPOCH.format(f"{epoch + 1:03d}"))
                if epoch + 1 < epochs and time.monotonic() - saved_at > save_seconds / _MAX_CHECKPOINT_SHARE:
                    started = time.monotonic()
                    _save_checkpoint(session, epoch + 1, model, optimizer)
                    saved_at = time.monotonic()
                    save_seconds = saved_at - started
        first, before = end, before + phase.epochs * length


@dataclass(frozen=True)
class _Place:
    """An epoch: in which phase, that began with epoch `first`; its first step, and how many batches it has."""

    phase: Phase
    number: int
    first: int
    start: Step
    length: int


def _steps_per_epoch(method: Trainable, phase: Phase, data: TrainingData) -> int:
    """Return the batches of an epoch.

    Those that do not fill a last step of the optimiser are left out, as a last, smaller batch is.
    """
    batches = len(data) // _batch_size(method, phase)
    accumulate = _accumulate(method, batches)
    return max(1, batches // accumulate * accumulate)


def _accumulate(method: Trainable, batches: int) -> int:
    return min(getattr(method.params, "accumulate", 1), max(1, batches))


def _has_batch_norm(model: nn.Module) -> bool:
    return any(isinstance(module, nn.modules.batchnorm._BatchNorm) for module in model.modules())


def _start(phase: Phase, model: nn.Module, device: str) -> torch.optim.Optimizer:
    """Freeze what is in no group, and return a fresh optimiser over the rest."""
    model.requires_grad_(False)
    for group in phase.groups:
        for parameter in group["params"]:
            parameter.requires_grad_(True)
    fused = {"fused": True} if device == "cuda" and phase.optimizer in _FUSED else {}
    optimizer = getattr(torch.optim, phase.optimizer)([dict(group) for group in phase.groups], **fused | phase.options)
    for group in optimizer.param_groups:
        group["base_lr"] = group["lr"]
    return optimizer


def _batch_size(method: Trainable, phase: Phase) -> int:
    """Return how many images a batch has: an even number where they are pairs."""
    size: int = phase.batch_size or method.params.batch_size
    return size - size % 2 if phase.pairs else size


def _epoch(
    method: Trainable,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    at: _Place,
    data: TrainingData,
    session: Session,
) -> None:
    """Train one epoch; everything random in it follows from the seed and the epoch alone."""
    epoch = at.start.epoch
    batch_size = _batch_size(method, at.phase)
    accumulate = _accumulate(method, len(data) // batch_size)
    augment = at.phase.augment or Augment(method.params.image_size)
    meter = _Meter(session, at)
    torch.manual_seed(derive(session.seed, "epoch", epoch))
    model.train()
    order = derive(session.seed, "order", epoch)
    batches = data.batches(augment, batch_size * accumulate, order, at.phase.odds, batch_size * at.phase.pairs)
    advance = _Advance(method, model, optimizer, at, accumulate, session)
    for done, batch in zip(range(0, at.length, accumulate), batches, strict=False):
        for losses in advance(batch.to(session.device), done):
            meter.add(losses)
        if at.phase.clip_norm:
            nn.utils.clip_grad_norm_(
                [p for group in optimizer.param_groups for p in group["params"]], at.phase.clip_norm
            )
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
    session.curves.append({"epoch": epoch + 1, "lr": optimizer.param_groups[0]["lr"], **meter.means()})


@dataclass(frozen=True)
class _Advance:
    """Adds the gradients of a batch: at once, or in the parts that accumulation names."""

    method: Trainable
    model: nn.Module
    optimizer: torch.optim.Optimizer
    at: _Place
    accumulate: int
    session: Session

    def __call__(self, batch: Batch, done: int) -> list[dict[str, Tensor]]:
        """Return the losses of each part; where the device has no memory for it whole, it is split from then on."""
        if not self.session.split:
            try:
                return self._by_parts(batch, done, 1)
            except torch.OutOfMemoryError:
                self.session.split = True
            self.optimizer.zero_grad(set_to_none=True)
            torch.cuda.empty_cache()
        return self._by_parts(batch, done, self.accumulate)

    def _by_parts(self, batch: Batch, done: int, parts: int) -> list[dict[str, Tensor]]:
        found = []
        for number, part in enumerate(batch.parts(parts), 1):
            index = done + number * self.accumulate // parts - 1  # the last of those batches that it stands for
            progress = (self.at.start.epoch - self.at.first + index / self.at.length) / self.at.phase.epochs
            for group in self.optimizer.param_groups:
                group["lr"] = group["base_lr"] * self.at.phase.schedule(progress)
            step = replace(self.at.start, iteration=self.at.start.iteration + index)
            with self.session.autocast():
                losses = checked_losses(self.method, self.method.training_step(self.model, part, step))
            (torch.stack(list(losses.values())).sum() / parts).backward()
            found.append(losses)
        return found


class _Meter:
    """Means of the losses of an epoch, each over the steps that had it, fetched from the device only now and then."""

    def __init__(self, session: Session, at: _Place) -> None:
        self.session = session
        self.start = at.start
        self.steps = 0
        self.sums: dict[str, Tensor] = {}
        self.counts: Counter[str] = Counter()

    def add(self, losses: dict[str, Tensor]) -> None:
        for name, loss in losses.items():
            self.sums[name] = self.sums[name] + loss.detach() if name in self.sums else loss.detach()
            self.counts[name] += 1
        self.steps += 1
        if time.monotonic() - self.session.shown > 0.5:
            self.session.shown = time.monotonic()
            done = self.start.iteration + self.steps
            self.session.progress(done, self.start.total, {"epoch": self.start.epoch + 1, **self.means()})

    def means(self) -> dict[str, float]:
        shares = torch.stack([total / self.counts[name] for name, total in self.sums.items()]).tolist()
        means = dict(zip(self.sums, shares, strict=True))
        if not all(math.isfinite(value) for value in means.values()):
            values = ", ".join(f"{name} {value:g}" for name, value in means.items())
            raise HarnessError(f"a loss is not finite in epoch {self.start.epoch + 1}: {values}")
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
