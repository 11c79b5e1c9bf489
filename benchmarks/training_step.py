"""Training of ViT-PCM, images from files and losses reported, against a loop by hand over tensors in memory."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import nn

from benchmarks.cells import method_of, plan, run_stage, store_of, the_stage
from benchmarks.row import Aim, Row, Setting, rate, seconds
from harness import Batch, Step
from harness.backbones import Weights
from harness.data.base import open_rgb
from harness.images import squash
from harness.loader import TrainingData
from harness.seeds import derive
from harness.stages import Task
from harness.stages.fit import build_model
from harness.training import Session


def rows(at: Setting) -> list[Row]:
    """Return the row: one epoch of the stage `fit`, as far as it trains."""
    backbone, size, batch, images = at.pick(("vit_s16", 224, 16, 48), ("timm:test_vit", 64, 4, 8))
    settings = {"image_size": size, "batch_size": batch, "epochs": 1, "accumulate": 1, "warmup_epochs": 0}
    if at.tiny:
        settings["unfreeze_blocks"] = 1
    planned = plan(at, "training", methods="vitpcm", backbones=backbone, limit=images,
                   set={f"vitpcm.{name}": value for name, value in settings.items()})  # fmt: skip
    node, method = the_stage(planned, "fit"), method_of(planned)
    split = run_stage(planned, planned.nodes[node.parents["labels"]], at).json("labels.json")
    labels = torch.tensor(split["labels"], dtype=torch.float32)
    task = Task(node, planned.locations_of(node), at.device, 0, store_of(planned).work(node.key))
    data = TrainingData(split["ids"], labels, task.image_paths)
    batches = list(data.batches(size, batch, derive(0, "order", 0)))
    ready = [Batch(one.images.to(at.device), one.labels.to(at.device), one.ids) for one in batches]

    def model() -> nn.Module:
        torch.set_num_threads(at.threads)
        return build_model(method, node.config.timm, Weights("random"), node.config.num_classes, 0)

    def trained() -> Any:
        session = Session(0, at.device, "fp32", Path(at.folder) / "training", task.progress)
        fitted = model()
        value, _ = rate(images, lambda: method.fit(fitted, data, session), at.device)
        return value, fitted

    def by_hand() -> Any:
        fitted = model().to(at.device)
        return rate(images, lambda: loop_by_hand(method, fitted, ready), at.device)[0], fitted

    def facts() -> dict[str, str]:
        reading = seconds(lambda: [squash(open_rgb(path), (size, size)) for path in task.image_paths])[0]
        fit = run_stage(planned, node, at)
        whole = fit.manifest["seconds"]
        bare = seconds(lambda: loop_by_hand(method, model().to(at.device), ready), at.device)[0]
        return {
            "floor: the same steps by hand, ms an image": f"{1e3 * bare / images:.0f}",
            "decoding and resizing, ms an image on one core": f"{1e3 * reading / images:.1f}",
            "pictures": str(images),
            "the stage around it, once: building, counting, saving":
                f"{max(0.0, whole - bare - reading):.1f} s, {fit.manifest['bytes'] >> 20} MiB of weights",
        }  # fmt: skip

    return [
        Row(
            name="training-step",
            what=f"training of vitpcm, {backbone} at {size}, batches of {batch}, from files",
            against="a loop by hand, same model and losses, tensors ready in memory, no logging",
            unit="images/s",
            sides={"harness": trained, "loop by hand": by_hand},
            ratio=lambda values: values["harness"] / values["loop by hand"],
            aim=Aim(">=", 0.9),
            agree=agree,
            facts=facts,
            opponents=("torch",),
        )
    ]


def agree(made: Any) -> str:
    """Return what is equal: every weight after the epoch, bit for bit."""
    ours, theirs = (model.state_dict() for model in made.values())
    different = [name for name in theirs if not torch.equal(ours[name], theirs[name])]
    assert not different, different
    return f"{len(theirs)} tensors of trained weights, bit for bit"


def loop_by_hand(method: Any, model: nn.Module, batches: list[Batch], fused: bool = False) -> None:
    """Train for an epoch: what somebody writes who wants nothing but the weights."""
    (phase,) = [phase for phase in method.phases(model) if phase.epochs]
    model.requires_grad_(False)
    for parameter in phase.groups[0]["params"]:
        parameter.requires_grad_(True)
    optimizer = torch.optim.Adam(phase.groups, **phase.options, fused=fused or None)
    torch.manual_seed(derive(0, "epoch", 0))
    model.train()
    for index, batch in enumerate(batches):
        losses = method.training_step(model, batch, Step(0, 1, index, len(batches)))
        sum(losses.values()).backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
