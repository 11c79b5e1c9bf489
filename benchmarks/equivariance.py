"""What L_ET costs beside the forwards that it needs: ViT-PCM's step with it, without it, and those forwards alone."""

from __future__ import annotations

from typing import Any

import torch

from benchmarks.cells import method_of, plan, run_stage, the_stage
from benchmarks.row import Aim, Row, Setting, Values, seconds
from harness import Batch, Step
from harness.backbones import Weights
from harness.loader import TrainingData
from harness.seeds import derive
from harness.stages.fit import build_model


def rows(at: Setting) -> list[Row]:
    """Return the row: the target's forward of a batch, and forward and backward of its four-in-one images."""
    backbone, size, batch = at.pick(("vit_s16", 224, 16), ("timm:test_vit", 64, 4))
    settings = {"vitpcm.image_size": size, "vitpcm.batch_size": batch}
    if at.tiny:
        settings["vitpcm.unfreeze_blocks"] = 1
    planned = plan(at, "equivariance", methods="vitpcm", backbones=backbone, limit=batch, set=settings)
    node, method = the_stage(planned, "fit"), method_of(planned)
    split = run_stage(planned, planned.nodes[node.parents["labels"]], at).json("labels.json")
    paths = planned.locations_of(node).image_paths
    data = TrainingData(split["ids"], torch.tensor(split["labels"], dtype=torch.float32), list(paths))  # type: ignore[arg-type]
    (drawn,) = data.batches(size, batch, 0)
    ready = Batch(drawn.images.to(at.device), drawn.labels.to(at.device), drawn.ids)
    torch.set_num_threads(at.threads)
    model = build_model(method, node.config.timm, Weights("random"), node.config.num_classes, 0).to(at.device)
    model.requires_grad_(False)
    for parameter in method.phases(model)[1].groups[0]["params"]:
        parameter.requires_grad_(True)
    without = type(method)(method.params.model_copy(update={"equivariance": False}))

    def step(of: Any) -> Any:
        torch.manual_seed(derive(0, "step"))
        model.train()

        def work() -> dict[str, float]:
            losses = of.training_step(model, ready, Step(0, 1, 0, 1))
            sum(losses.values()).backward()
            model.zero_grad(set_to_none=True)
            return {name: float(loss.detach()) for name, loss in losses.items()}

        return seconds(work, at.device)

    def forwards() -> Any:
        merged = ready.images[: batch // 4]

        def work() -> None:
            with torch.no_grad():
                model.eval()
                model(ready.images)
                model.train()
            model(merged).mean().backward()
            model.zero_grad(set_to_none=True)

        return seconds(work, at.device)

    return [
        Row(
            name="equivariance",
            what=f"time that L_ET adds to a step of vitpcm, {backbone} at {size}, batch of {batch}",
            against="the extra forwards that it needs, and the backward of one of them",
            unit="s a step",
            sides={"with L_ET": lambda: step(method), "without": lambda: step(without), "the forwards": forwards},
            ratio=added,
            aim=Aim("<=", 1.1),
            agree=agree,
            repeats=7,
            opponents=("torch",),
        )
    ]


def added(values: Values) -> float:
    """Return what L_ET adds to a step, as a share of the forwards."""
    return (values["with L_ET"] - values["without"]) / values["the forwards"]


def agree(made: Any) -> str:
    """Return what is equal: the other losses, from the same draws."""
    ours, theirs = made["with L_ET"], made["without"]
    assert ours["et"] > 0, ours
    assert {name: ours[name] for name in theirs} == theirs, made
    return f"the losses {' and '.join(theirs)}, bit for bit"
