"""Peak memory of training, scoring and refining, each side in a process of its own.

`python -m benchmarks.peak_memory SIDE FILE` is such a process: it does the work and prints its peak in MiB.
"""

from __future__ import annotations

import pickle
import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.cells import forget, nodes_of, plan, run_stage
from benchmarks.row import Aim, Row, Setting, share_of_other
from harness import Batch, Step
from harness.backbones import Weights
from harness.crf import CRFParams, dense_crf
from harness.data.base import open_rgb, save_mask
from harness.images import squash
from harness.pseudomask import open_classes, probabilities
from harness.run.plan import Plan
from harness.run.worker import run_node
from harness.stages import Task
from harness.stages.fit import build_model, load_model
from harness.stages.score import batch_size, read_scores


def rows(at: Setting) -> list[Row]:
    """Return a row each for fit, score and refine."""
    backbone, size, batch, images, refined = at.pick(
        ("timm:vit_tiny_patch16_224", 224, 16, 256, 6), ("timm:test_vit", 160, 4, 4, 1)
    )
    settings = {"vitpcm.image_size": size, "vitpcm.inference_size": size, "vitpcm.batch_size": batch,
                "vitpcm.epochs": 1, "vitpcm.accumulate": 1, "vitpcm.warmup_epochs": 0,
                "vitpcm.unfreeze_blocks": at.pick(5, 1)}  # fmt: skip
    grid: dict[str, Any] = {"methods": "vitpcm", "backbones": backbone, "protocols": "vitpcm"}
    trained = plan(at, "memory-fit", limit=3 * batch, set=settings, **grid)
    scored = plan(at, "memory-score", limit=images, **grid,
                  set=settings | {"vitpcm.epochs": 0, "protocol.eval_splits": ["train_aug"]})  # fmt: skip
    masked = plan(at, "memory-refine", methods="sanity-oracle", limit=refined, protocols="vitpcm", refine="crf:vitpcm",
                  set={"sanity-oracle.stride": 16, "protocol.eval_splits": ["val"]})  # fmt: skip
    return [
        _row(at, trained, "fit", f"training of vitpcm at {size}, batches of {batch}"),
        _row(at, scored, "score", f"scoring of {images} images at {size}"),
        _row(at, masked, "mask", f"refining {refined} images by dense CRF"),
    ]


def _row(at: Setting, planned: Plan, stage: str, what: str) -> Row:
    (node,) = nodes_of(planned, stage)
    for key in node.parents.values():
        run_stage(planned, planned.nodes[key], at)
    file = at.folder / f"memory-{stage}.pickle"
    task = Task(node, planned.locations_of(node), at.device, 0, at.folder / f"by-hand-{stage}")
    file.write_bytes(pickle.dumps((task, at.threads)))

    def side(name: str) -> tuple[float, int]:
        forget(planned, node)
        command = [sys.executable, "-m", "benchmarks.peak_memory", name, str(file)]
        found = subprocess.run(command, capture_output=True, text=True, check=False)
        assert found.returncode == 0, found.stderr
        peak, made = found.stdout.split()
        return float(peak), int(made)

    return Row(
        name=f"memory-{'refine' if stage == 'mask' else stage}",
        what=f"peak memory of {what}",
        against="the loop by hand, same model, same batches",
        unit="MiB",
        sides={name: partial(side, name) for name in ("harness", "loop by hand")},
        ratio=share_of_other,
        aim=Aim("<=", 1.2),
        agree=partial(agree, things="tensors of weights" if stage == "fit" else "images"),
        repeats=2,
        warm=False,
    )


def agree(made: Any, things: str) -> str:
    """Return what is equal: how many things each side has made."""
    ours, theirs = made.values()
    assert ours == theirs > 0, made
    return f"{ours} {things}"


def main(side: str, file: str) -> None:
    """Do one side's work and print its peak, and how much it has made."""
    task, threads = pickle.loads(Path(file).read_bytes())
    task.work.mkdir(exist_ok=True)
    torch.set_num_threads(threads)
    if side == "harness":
        outcome = run_node(task.node, task.locations, task.device, threads)
        assert outcome.status == "done", outcome
        made = _made_by_us(task)
    else:
        made = {"fit": _fit, "score": _score, "mask": _refine}[task.node.stage](task)
    if task.device == "cuda":
        print(torch.cuda.max_memory_allocated() / 2**20, made)
        return
    lines = Path("/proc/self/status").read_text().splitlines()
    print(int(next(line for line in lines if line.startswith("VmHWM")).split()[1]) / 1024, made)


def _made_by_us(task: Task) -> int:
    artefact = task.store.need(task.node.stage, task.node.key)
    if task.node.stage == "fit":
        return len(load_model(task.registry, task.method(), artefact).state_dict())
    if task.node.stage == "score":
        return sum(1 for _ in read_scores(artefact, 0))
    return len(list(artefact.path.glob("*.png")))


class _Images(torch.utils.data.Dataset[Any]):
    def __init__(self, paths: list[Path], labels: torch.Tensor, size: int) -> None:
        self.paths, self.labels, self.size = paths, labels, size

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> Any:
        return squash(open_rgb(self.paths[index]), (self.size, self.size)), self.labels[index]


def _fit(task: Task) -> int:
    """Train for an epoch as a repository's script does."""
    method, config = task.method(), task.config
    labels = torch.tensor(task.parent("labels").json("labels.json")["labels"], dtype=torch.float32)
    model = build_model(method, config.timm, Weights("random"), config.num_classes, 0).to(task.device)
    (phase,) = [phase for phase in method.phases(model) if phase.epochs]
    model.requires_grad_(False)
    for parameter in phase.groups[0]["params"]:
        parameter.requires_grad_(True)
    optimizer = torch.optim.Adam(phase.groups, **phase.options)
    data = _Images(task.image_paths, labels, config.params["image_size"])
    loader = torch.utils.data.DataLoader(data, config.params["batch_size"], shuffle=True, drop_last=True)
    model.train()
    for index, (images, given) in enumerate(loader):
        batch = Batch(images.to(task.device), given.to(task.device), [])
        losses = method.training_step(model, batch, Step(0, 1, index, len(loader)))
        torch.stack(list(losses.values())).sum().backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
    torch.save(model.state_dict(), task.work / "model.pt")
    return len(model.state_dict())


def _score(task: Task) -> int:
    """Score image after image and save each file, as a repository's script does; in batches of the harness."""
    method, size = task.method(), task.config.size
    model = load_model(task.registry, method, task.parent("fit")).to(task.device)
    at_once = batch_size(size, task.device)
    for start in range(0, len(task.image_paths), at_once):
        paths = task.image_paths[start : start + at_once]
        images = torch.stack([squash(open_rgb(path), (size, size)) for path in paths]).to(task.device)
        with torch.no_grad():
            maps, _ = method.score(model, images, None)
        for path, own in zip(paths, maps.cpu().numpy(), strict=True):
            np.save(task.work / f"{path.stem}.npy", own.astype(np.float16))
    return len(list(task.work.glob("*.npy")))


def _refine(task: Task) -> int:
    """Refine image after image, over the same open classes."""
    config = task.config
    rules, params = config.rules, CRFParams.model_validate(config.refine["params"])
    split = task.parent("labels").json("labels.json")
    scored = read_scores(task.parent("score"), 0)
    for (image_id, maps, presence), labels, size, path in zip(
        scored, np.array(split["labels"]), split["sizes"], task.image_paths, strict=True
    ):
        classes = open_classes(rules, labels, presence)
        own = probabilities(maps, classes, tuple(size), rules, "probability").numpy()
        best = dense_crf(open_rgb(path), own / own.sum(0).clip(1e-7), params).argmax(0)
        save_mask(task.work / f"{image_id}.png", np.array([0, *classes], np.uint8)[best])
    return len(list(task.work.glob("*.png")))


if __name__ == "__main__":
    main(*sys.argv[1:])
