"""What matters on a GPU: scoring and training against bare forwards, and what stages cost beside their work."""

from __future__ import annotations

import time
from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors.numpy import load_file
from torch import Tensor, nn

from benchmarks.cells import forget, method_of, nodes_of, plan, run_stage, schedule, start_ray, store_of, the_stage
from benchmarks.row import Aim, Row, Setting, rate, seconds, share_of_other
from benchmarks.score_maps import bare_backbone
from benchmarks.training_step import loop_by_hand
from harness import Batch
from harness.backbones import Weights
from harness.data.base import open_rgb
from harness.images import squash
from harness.loader import TrainingData
from harness.precision import autocast, set_precision
from harness.registry import Registry
from harness.run.plan import Plan
from harness.seeds import derive
from harness.stages import Node, Task
from harness.stages.fit import build_model, load_model
from harness.stages.score import batch_size
from harness.training import Session

FORWARDS = 4.7  # a step of ViT-PCM with L_ET: three forwards, two of them with a backward through 5 of 12 blocks
PRECISION = "bf16"
FOLDER = "gpu"  # of all plans, so that images are looked at once


def rows(at: Setting) -> list[Row]:
    """Return the rows; `tiny` runs all of it on any device."""
    return [
        _score(at, "vitpcm", at.pick(960, 160), at.pick(2048, 4), Aim(">=", 0.8)),
        _score(at, "cam", at.pick(384, 160), at.pick(4096, 4), Aim(">=", 0.6)),
        *_training(at),
        _warm(at),
        _six(at),
    ]


def _score(at: Setting, method: str, size: int, images: int, aim: Aim) -> Row:
    backbone = at.pick("vit_s16", "timm:test_vit")
    settings = {f"{method}.epochs": 0, f"{method}.inference_size": size, f"{method}.image_size": at.pick(384, 160)}
    settings["protocol.precision"] = PRECISION
    planned = plan(at, FOLDER, methods=method, backbones=backbone, limit=images, set=settings)
    node = the_stage(planned, "score", "val")
    run_stage(planned, node, at)
    fitted = store_of(planned).need("fit", node.parents["fit"])
    model: Any = load_model(Registry(), method_of(planned), fitted).to(at.device)
    paths = [Path(path) for path in planned.locations_of(node).image_paths]
    first = paths[: batch_size(size, at.device)]
    batch = torch.stack([squash(open_rgb(path), (size, size)) for path in first]).to(at.device)
    normal = (batch - model.backbone.mean) / model.backbone.std
    bare = bare_backbone(model, at)
    times = max(1, len(paths) // len(first))

    def stored() -> Any:
        forget(planned, node)
        return rate(len(paths), lambda: run_stage(planned, node, at), at.device)

    def forward() -> Tensor:
        with torch.inference_mode(), autocast(at.device, PRECISION):
            for _ in range(times):
                tokens: Tensor = bare(normal)
        return tokens.float()

    def agree(made: Any) -> str:
        file = min(made["harness"].path.glob("*.safetensors"))
        maps = load_file(file)
        found = torch.stack([torch.from_numpy(maps[f"map:{path.stem}"]) for path in first]).float()
        dense = made["bare forward"][:, 1:].transpose(1, 2).unflatten(2, found.shape[2:])
        with torch.inference_mode():
            scores = _head(method, model, dense)
        worst = float((found - scores.cpu()).abs().max() / scores.max())
        assert worst < 0.05, worst
        return f"maps of the bare features, to {worst:.0e} of the largest"

    def facts() -> dict[str, str]:
        manifest = store_of(planned).need("score", node.key).manifest
        building = seconds(lambda: load_model(Registry(), method_of(planned), fitted).to(at.device), at.device)[0]
        return {
            "images at once": str(manifest["images_at_once"]),
            "of it building and loading the model": f"{building:.2f} s",
            "images": str(len(paths)),
            "memory, MiB": str(manifest["memory_mb"]),
        }

    return Row(
        name=f"gpu-score-{method}",
        what=f"score maps of {method}, {backbone} at {size}, {PRECISION}, files to stored maps",
        against="bare timm forward, the same precision, tensors on the device",
        unit="images/s",
        sides={"harness": stored, "bare forward": partial(rate, times * len(first), forward, at.device)},
        ratio=lambda values: values["harness"] / values["bare forward"],
        aim=aim,
        agree=agree,
        facts=facts,
        repeats=2,
        opponents=("timm", "torch"),
    )


def _head(method: str, model: Any, dense: Tensor) -> Any:
    if method == "cam":
        return model.classifier(dense).relu()
    return model.classifier(model.condition(dense)).softmax(1)


def _training(at: Setting) -> list[Row]:
    """Return an epoch of `fit` after the first, against the same steps from tensors; and those against forwards."""
    backbone, size, batch, images = at.pick(("vit_s16", 384, 16, 2048), ("timm:test_vit", 64, 4, 8))
    settings = {"image_size": size, "batch_size": batch, "epochs": 1, "accumulate": at.pick(4, 1), "warmup_epochs": 0}
    if at.tiny:
        settings["unfreeze_blocks"] = 1
    named = {f"vitpcm.{name}": value for name, value in settings.items()} | {"protocol.precision": PRECISION}
    planned = plan(at, FOLDER, methods="vitpcm", backbones=backbone, limit=images, set=named)
    node, method = the_stage(planned, "fit"), method_of(planned)
    split = run_stage(planned, planned.nodes[node.parents["labels"]], at).json("labels.json")
    labels = torch.tensor(split["labels"], dtype=torch.float32)
    task = Task(node, planned.locations_of(node), at.device, at.threads - 1, store_of(planned).work(node.key))
    data = TrainingData(split["ids"], labels, task.image_paths, task.workers, device=at.device, room=8 << 30)
    step = batch * settings["accumulate"]
    ready = list(data.batches(size, step, derive(0, "order", 0)))  # and all images are kept from here on
    taken = len(ready) * step

    def model() -> nn.Module:
        return build_model(method, node.config.timm, Weights("random"), node.config.num_classes, 0).to(at.device)

    def trained() -> Any:
        session = Session(0, at.device, PRECISION, Path(at.folder) / "gpu-training", task.progress)
        fitted = model()
        value, _ = rate(taken, lambda: method.fit(fitted, data, session), at.device)
        return value, fitted

    def by_hand() -> Any:
        fitted = model()
        with autocast(at.device, PRECISION):
            return rate(taken, lambda: loop_by_hand(method, fitted, ready, at.device == "cuda"), at.device)[0], fitted

    bare = bare_backbone(model(), at)
    images_ready: Batch = ready[0]

    def forwards() -> Any:
        with torch.inference_mode(), autocast(at.device, PRECISION):
            return rate(taken, lambda: [bare(images_ready.images) for _ in ready], at.device)[0], None

    def agree(made: Any) -> str:
        ours, theirs = (fitted.classifier.weight.detach().float().cpu() for fitted in made.values())
        worst = float((ours - theirs).abs().max() / theirs.abs().max())
        assert worst < 0.05, worst
        return f"the trained classifier, to {worst:.0e} of its largest weight"

    set_precision(PRECISION)
    what = f"vitpcm with L_ET, {backbone} at {size}, {PRECISION}, {step} images a step"
    return [
        Row(
            name="gpu-fit",
            what=f"training of {what}, with data",
            against="the same steps by hand, tensors on the device",
            unit="images/s",
            sides={"harness": trained, "loop by hand": by_hand},
            ratio=lambda values: values["harness"] / values["loop by hand"],
            aim=Aim(">=", 0.95),
            agree=agree,
            repeats=3,
            opponents=("torch",),
        ),
        Row(
            name="gpu-step",
            what=f"training step of {what}, tensors on the device",
            against=f"{FORWARDS} bare forwards of the backbone",
            unit="images/s",
            sides={"harness": by_hand, "bare forward": forwards},
            ratio=lambda values: values["harness"] * FORWARDS / values["bare forward"],
            aim=Aim(">=", 0.65),
            agree=lambda made: "–",
            repeats=3,
            opponents=("timm", "torch"),
        ),
    ]


def _small(at: Setting, seeds: range, images: int, epochs: int) -> Plan:
    backbone = at.pick("vit_s16", "timm:test_vit")
    settings = {"cam.epochs": epochs, "cam.image_size": at.pick(384, 160), "protocol.precision": PRECISION}
    return plan(at, FOLDER, methods="cam", backbones=backbone, limit=images, seeds=seeds, set=settings)


def _own(planned: Plan) -> list[Node]:
    """Return the stages that read no ground truth, which takes long and is the same in all rows."""
    return [node for node in planned.nodes.values() if node.stage != "labels"]


def _warm(at: Setting) -> Row:
    """Return the row: cells of next to no work, whose stages follow each other on workers that run already."""
    cells = at.pick(3, 1)
    planned = _small(at, range(cells), 8, 0)
    own = _own(planned)
    stages = sum(len(nodes_of(planned, stage)) for stage in ("fit", "score"))
    start_ray(at)

    def scheduled() -> Any:
        forget(planned, *own)
        return seconds(lambda: schedule(planned, at))[0] / stages, None

    def looped() -> Any:
        forget(planned, *own)
        started = time.perf_counter()
        for node in planned.nodes.values():
            if not store_of(planned).artefact(node.stage, node.key):
                run_stage(planned, node, at)
        return (time.perf_counter() - started) / stages, None

    return Row(
        name="gpu-warm-stage",
        what=f"{cells} cells of cam with 8 images and no training on warm workers: each of {stages} stages on the GPU",
        against="the same stages in this process",
        unit="s",
        sides={"harness": scheduled, "in this process": looped},
        ratio=lambda values: values["harness"] - values["in this process"],
        aim=Aim("<=", 1.5),
        agree=lambda made: "–",
        repeats=2,
        opponents=("ray",),
    )


def _six(at: Setting) -> Row:
    """Return the row: six trainings that share a GPU, against one after the other."""
    count = at.pick(6, 1)
    planned = _small(at, range(count), at.pick(512, 8), at.pick(2, 0))
    start_ray(at)
    cpus, own = max(1.0, at.threads // count), _own(planned)

    def run(resources: dict[str, float]) -> Any:
        forget(planned, *own)
        return seconds(lambda: schedule(planned, at, resources))[0], None

    shared = {"fit.gpus": 1 / count, "score.gpus": 1 / count, "fit.cpus": cpus, "score.cpus": cpus}
    return Row(
        name="gpu-six-at-once",
        what=f"{count} cells of cam at once on one GPU, {cpus:g} cores each",
        against="the same, one after the other",
        unit="s",
        sides={"harness": partial(run, shared), "one after the other": partial(run, {})},
        ratio=share_of_other,
        aim=Aim("<=", 0.7),
        agree=lambda made: "–",
        repeats=1,
        warm=False,
        opponents=("ray",),
    )
