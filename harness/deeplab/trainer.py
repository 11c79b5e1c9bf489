"""Train a verifier with mmengine's Runner: its loop, its gradients, its checkpoints; our order, schedule and curves."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from harness.deeplab.data import Positions, PseudoMasks
from harness.deeplab.mm import Hook, OptimWrapper, Runner, pseudo_collate
from harness.deeplab.recipe import Recipe, learning_rate
from harness.errors import HarnessError
from harness.seeds import derive
from harness.training import Session

CHECKPOINT = "checkpoint.pth"
_POINTS = 100  # of a curve; checkpoints are kept at some of them
_MAX_CHECKPOINT_SHARE = 0.05  # of the training time


def train(
    model: nn.Module, groups: list[dict[str, Any]], data: PseudoMasks, recipe: Recipe, session: Session, workers: int
) -> None:
    """Train a verifier in place, from the last checkpoint in the session's folder if there is one.

    An interrupted training ends where an undisturbed one does: what is random follows from seed and iteration alone.

    Parameters
    ----------
    model : Module
        A segmentor of mmsegmentation, with its start weights.
    groups : list of dict
        The optimiser's parameter groups, each with its own `lr`.
    data : PseudoMasks
    recipe : Recipe
    session : Session
        Its curves are filled in: mean losses and the learning rate of the first group.
    workers : int
        Processes that load images.

    Raises
    ------
    HarnessError
        If a loss is not finite.
    """
    batches = recipe.iterations * recipe.accumulate
    loader: torch.utils.data.DataLoader[Any] = torch.utils.data.DataLoader(
        data,
        batch_size=recipe.batch_size,
        sampler=Positions(len(data), batches * recipe.batch_size, session.seed),
        num_workers=workers,
        collate_fn=pseudo_collate,
    )
    optimizer = torch.optim.SGD(groups, lr=recipe.lr, momentum=recipe.momentum, weight_decay=recipe.weight_decay)
    checkpoint = session.folder / CHECKPOINT
    runner = _Runner(
        session.device,
        model=model,
        work_dir=str(session.folder),
        train_dataloader=loader,
        train_cfg={"by_epoch": False, "max_iters": batches},
        optim_wrapper=_Steps(session, optimizer, accumulative_counts=recipe.accumulate),
        default_hooks=dict.fromkeys(("timer", "sampler_seed", "logger", "param_scheduler", "checkpoint")),
        custom_hooks=[_Course(recipe, optimizer, session)],
        visualizer={"type": "Visualizer", "vis_backends": []},
        default_scope="mmseg",
        log_level="WARNING",
        resume=checkpoint.exists(),
        load_from=str(checkpoint) if checkpoint.exists() else None,
    )
    runner.train()


class _Runner(Runner):
    """mmengine's Runner on the device that the stage was given, instead of the best that it finds.

    Weights lie channels last, in which convolutions are faster.
    """

    def __init__(self, device: str, **options: Any) -> None:
        self._given = device
        super().__init__(**options)

    def wrap_model(self, model_wrapper_cfg: dict[str, Any] | None, model: nn.Module) -> nn.Module:
        model.to(self._given)
        return model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # which its types leave out


class _Steps(OptimWrapper):
    """mmengine's accumulation of gradients, at the session's precision."""

    def __init__(self, session: Session, optimizer: torch.optim.Optimizer, **options: Any) -> None:
        super().__init__(optimizer, **options)
        self._session = session

    @contextmanager
    def optim_context(self, model: nn.Module) -> Iterator[None]:
        with super().optim_context(model), self._session.autocast():
            yield


class _Course(Hook):
    """What happens around an iteration: the learning rate, the random state, the curves, the checkpoints."""

    def __init__(self, recipe: Recipe, optimizer: torch.optim.Optimizer, session: Session) -> None:
        self.recipe, self.optimizer, self.session = recipe, optimizer, session
        self.base = [group["lr"] for group in optimizer.param_groups]
        self.every = math.ceil(recipe.iterations / _POINTS) * recipe.accumulate
        self.sums: dict[str, Tensor] = {}
        self.saved_at, self.save_seconds = time.monotonic(), 0.0

    def after_load_checkpoint(self, runner: Any, checkpoint: dict[str, Any]) -> None:
        """Go on with the curves of an interrupted training."""
        self.session.curves = checkpoint["meta"]["curves"]

    def before_train_iter(self, runner: Any, batch_idx: int, data_batch: Any = None) -> None:
        """Set what the iteration's number decides."""
        torch.manual_seed(derive(self.session.seed, "iteration", batch_idx))
        factor = learning_rate(self.recipe, batch_idx // self.recipe.accumulate)
        for group, base in zip(self.optimizer.param_groups, self.base, strict=True):
            group["lr"] = base * factor

    def after_train_iter(
        self, runner: Any, batch_idx: int, data_batch: Any = None, outputs: dict[str, Any] | None = None
    ) -> None:
        """Add to the curves; keep a checkpoint now and then."""
        for name, value in (outputs or {}).items():
            self.sums[name] = self.sums.get(name, 0) + torch.as_tensor(value).detach()
        done, total = batch_idx + 1, self.recipe.iterations * self.recipe.accumulate
        if done % self.every and done < total:
            return
        count = (done - 1) % self.every + 1
        means = {name: float(value) / count for name, value in self.sums.items()}
        self.sums = {}
        iteration = done // self.recipe.accumulate
        if not all(math.isfinite(value) for value in means.values()):
            values = ", ".join(f"{name} {value:g}" for name, value in means.items())
            raise HarnessError(f"a loss is not finite by iteration {iteration}: {values}; a lower lr may help")
        self.session.curves.append({"iteration": iteration, "lr": self.optimizer.param_groups[0]["lr"], **means})
        self.session.progress(iteration, self.recipe.iterations, means)
        if done < total and time.monotonic() - self.saved_at > self.save_seconds / _MAX_CHECKPOINT_SHARE:
            self._save(runner)

    def _save(self, runner: Any) -> None:
        """Write a checkpoint of mmengine's, as a whole or not at all."""
        started = time.monotonic()
        draft = f".{CHECKPOINT}"
        meta = {"curves": self.session.curves}
        runner.save_checkpoint(str(self.session.folder), draft, by_epoch=False, meta=meta, save_param_scheduler=False)
        os.replace(self.session.folder / draft, self.session.folder / CHECKPOINT)
        self.saved_at = time.monotonic()
        self.save_seconds = self.saved_at - started
