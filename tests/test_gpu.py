"""What only a GPU can show: it scores as the CPU does, trains without waiting, and takes large steps."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file

from harness import Batch, Step
from harness.backbones import Weights
from harness.inputs import Inputs
from harness.metrics import Confusions, mean_iou
from harness.registry import Registry
from harness.results.store import Store
from harness.run.plan import Plan, plan_cells
from harness.run.worker import run_node
from harness.spec import Grid, expand
from harness.stages.fit import build_model
from harness.training import _start

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")


def run(folder: Path, devices: dict[str, str], **settings: Any) -> tuple[Plan, Store]:
    """Run a cell of ViT-PCM on the toy dataset, each stage on a device."""
    registry, store = Registry(), Store(folder, create=True)
    values = {
        "vitpcm.epochs": 4, "vitpcm.image_size": 96, "vitpcm.inference_size": 192, "vitpcm.unfreeze_blocks": 2,
        "vitpcm.batch_size": 4, "vitpcm.hidden": 16,
    }  # fmt: skip
    grid = Grid(methods=("vitpcm",), backbones=("timm:test_vit",), limit=48, weights="random", set=values | settings)
    plan = plan_cells(expand([grid], registry), Inputs(registry, store.root, None))
    for node in plan.nodes.values():
        outcome = run_node(node, plan.locations_of(node), devices.get(node.stage, "cpu"), 3)
        assert outcome.status == "done", outcome
    return plan, store


def maps_and_miou(plan: Plan, store: Store) -> tuple[dict[str, np.ndarray], list[float]]:
    maps, scores = {}, []
    for node in plan.nodes.values():
        artefact = store.need(node.stage, node.key)
        if node.stage == "score":
            maps |= {
                key: value for file in artefact.path.glob("*.safetensors") for key, value in load_file(file).items()
            }
        if node.stage == "evaluate":
            scores.append(float(mean_iou(Confusions.load(artefact.file("confusion.npy")).counts().sum(0))))
    return maps, scores


def test_a_gpu_scores_as_the_cpu_does(tmp_path: Path, toy: Path) -> None:
    """The same trained weights: score maps to a hundredth, mIoU to 0.05 points."""
    plan, store = run(tmp_path / "cpu", {})
    here, mious = maps_and_miou(plan, store)
    for node in plan.nodes.values():
        if node.stage in ("score", "mask", "curve", "evaluate"):
            store.discard(node.stage, node.key)
    for node in plan.nodes.values():
        assert run_node(node, plan.locations_of(node), "cuda" if node.stage == "score" else "cpu", 3).status == "done"
    there, again = maps_and_miou(plan, store)
    assert max(float(np.abs(here[key].astype(float) - there[key]).max()) for key in here) < 0.01
    assert np.abs(np.array(mious) - again).max() < 0.0005


def test_a_training_on_a_gpu_learns_what_one_on_the_cpu_does(tmp_path: Path, toy: Path) -> None:
    _, mious = maps_and_miou(*run(tmp_path / "cpu", {}))
    _, there = maps_and_miou(*run(tmp_path / "gpu", {"fit": "cuda"}))
    assert np.abs(np.array(mious) - there).max() < 0.1  # other random numbers, so another training


def test_a_step_never_waits_for_the_device() -> None:
    registry = Registry()
    method_class = registry.load("method", "vitpcm")
    method = method_class(method_class.Params(image_size=64, batch_size=4, hidden=16, unfreeze_blocks=2))
    model = build_model(method, "test_vit", Weights("random"), 5, 0).cuda().train()
    optimizer = _start(method.phases(model)[1], model, "cuda")
    batch = Batch(torch.rand(4, 3, 64, 64, device="cuda"), torch.eye(5, device="cuda")[:4], list("abcd"))

    def step() -> None:
        torch.stack(list(method.training_step(model, batch, Step(0, 1, 0, 1)).values())).sum().backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    step()
    torch.cuda.set_sync_debug_mode("error")
    try:
        step()
    finally:
        torch.cuda.set_sync_debug_mode("default")
