"""Plugins that break their contract, through the real stages: one line with the name, what was given and expected."""

from __future__ import annotations

from pathlib import Path

import pytest

from harness.inputs import Inputs
from harness.registry import Registry
from harness.results.store import Store
from harness.run.plan import plan_cells
from harness.spec import Grid, expand
from tests.stores import run_stages

PLUGIN = '''
import numpy as np
import torch
from torch import nn
from harness import Method, Phase, Refiner, TrainParams

class Mine(Method):
    """Colours of patches."""
    name = "mine"
    families = ()
    predicts_presence = True

    def build(self, backbone, num_classes):
        return nn.Conv2d(3, num_classes - 1, 8, 8)

    def phases(self, model):
        return [Phase(1, [{"params": model.parameters(), "lr": 0.1}])]

    def training_step(self, model, batch, step):
        logits = model(batch.images).mean((2, 3))
        return {"bce": nn.functional.binary_cross_entropy_with_logits(logits, batch.labels[:, 1:])}

    def score(self, model, images, labels):
        maps = model(images).relu()
        presence = maps.mean((2, 3)).sigmoid()
        return maps, presence

class Same(Refiner):
    """Leaves everything as it is."""
    name = "same"

    def refine(self, image, probabilities):
        return probabilities
'''
_MAPS = "        return maps, presence\n"
_LOSSES = "        return {"
_GROUPS = '[Phase(1, [{"params": model.parameters(), "lr": 0.1}])]'
_FLOATS = "a dict of losses by name, each a float tensor of shape ()"

# What stands in the plugin, what stands in the broken one, the stage that fails, what was given, what is expected.
BROKEN = [
    ("return nn.Conv2d", "return lambda: nn.Conv2d", "fit", "`build` gave a function", "a torch.nn.Module"),
    ("return nn.Conv2d", "return None and nn.Conv2d", "fit", "`build` gave None", "a torch.nn.Module"),
    (_GROUPS, "None", "fit", "`phases` gave None", "a list of harness.Phase"),
    (_GROUPS, "[3]", "fit", "`phases` gave a list of 1", "a list of harness.Phase"),
    (_GROUPS, "[Phase(1.5, [])]", "fit", "`phases` gave 1.5 epochs", "a whole number of epochs, 0 or more"),
    (_GROUPS, "[Phase(1, None)]", "fit", "`phases` gave the groups None", "a list of dicts with `params`"),
    (_GROUPS, "[Phase(1, [model.weight])]", "fit", "`phases` gave the group a Parameter torch.float32 (4, 3, 8, 8)",
     "a dict with a list of `params`"),
    (_GROUPS, "[Phase(1, [], 'Adamm')]", "fit", "`phases` gave the optimizer 'Adamm'",
     "the name of one in torch.optim"),
    (_LOSSES, "        return None and {", "fit", "`training_step` gave None", _FLOATS),
    (_LOSSES, "        return logits.mean() or {", "fit", "`training_step` gave a Tensor torch.float32 ()", _FLOATS),
    (_LOSSES, "        return {'a': 0.5} or {", "fit", "`training_step` gave the loss 'a' as 0.5", _FLOATS),
    (_LOSSES, "        return {'a': logits} or {", "fit",
     "`training_step` gave the loss 'a' as a Tensor torch.float32 (8, 4)", _FLOATS),
    (_LOSSES, "        return {'a': logits.mean().detach()} or {", "fit",
     "`training_step` gave losses that no parameter takes part in", "losses with a gradient"),
    (_LOSSES, "        raise KeyboardInterrupt\n        return {", "fit", "raised KeyboardInterrupt",
     "results or an Exception"),
    (_LOSSES, "        raise SystemExit(0)\n        return {", "fit", "raised SystemExit", "results or an Exception"),
    (_MAPS, "        raise KeyboardInterrupt\n", "score", "raised KeyboardInterrupt", "results or an Exception"),
    (_MAPS, "        return None\n", "score", "`score` gave None",
     "a pair, maps and presence (predicts_presence is True)"),
    (_MAPS, "        return maps\n", "score", "`score` gave a Tensor torch.float32 (8, 4, 4, 4)",
     "a pair, maps and presence (predicts_presence is True)"),
    (_MAPS, "        return maps.detach().numpy(), presence\n", "score", "`score` gave a ndarray float32 (8, 4, 4, 4)",
     "maps: a float tensor (8, C, h, w)"),
    (_MAPS, "        return [1, 2], presence\n", "score", "`score` gave a list of 2",
     "maps: a float tensor (8, C, h, w)"),
    (_MAPS, "        return maps.long(), presence\n", "score", "`score` gave a Tensor torch.int64 (8, 4, 4, 4)",
     "maps: a float tensor (8, C, h, w)"),
    (_MAPS, "        return maps[1:], presence\n", "score", "`score` gave a Tensor torch.float32 (7, 4, 4, 4)",
     "maps: a float tensor (8, C, h, w)"),
    (_MAPS, "        return maps, presence[1:]\n", "score", "`score` gave presence as a Tensor torch.float32 (7, 4)",
     "a float tensor (8, num_classes - 1)"),
    (_MAPS, "        return maps, None\n", "score", "`score` gave presence as None",
     "a float tensor (8, num_classes - 1)"),
    (_MAPS, "        return torch.cat([maps, maps[:, :1]], 1), presence\n", "score", "`score` gave 5 channels",
     "4: 5 classes without the background"),
    (_MAPS, "        return maps[:, 1:], presence\n", "score", "`score` gave 3 channels",
     "4: 5 classes without the background"),
    (_MAPS, "        return maps, presence.repeat(1, 2)\n", "score", "`score` gave presence of 8 classes",
     "4: no background"),
    (_MAPS, "        return maps, presence * 0 + 2\n", "score", "`score` gave presence from 2 to 2",
     "finite ones in [0, 1]"),
    (_MAPS, "        return maps, presence * 0 - 1\n", "score", "`score` gave presence from -1 to -1",
     "finite ones in [0, 1]"),
    (_MAPS, "        return maps * 0 - 1, presence\n", "score", "`score` gave scores from -1 to -1",
     "finite and non-negative ones"),
    (_MAPS, "        return maps / 0, presence\n", "score", "`score` gave scores from nan to nan",
     "finite and non-negative ones"),
    (_MAPS, "        return maps * 0 + torch.inf, presence * 0\n", "score", "`score` gave scores from inf to inf",
     "finite and non-negative ones"),
    ("    predicts_presence = True\n", "", "score", "`score` gave a tuple of 2",
     "maps alone (predicts_presence is False): a float tensor (8, C, h, w)"),
]  # fmt: skip
REFINED = [
    ("None", "None", "a float array"),
    ("probabilities.tolist()", "a list of", "a float array"),
    ("probabilities[:, 1:]", "a ndarray float32", "a float array"),
    ("probabilities.argmax(0)", "a ndarray int64", "a float array"),
    ("probabilities * np.nan", "NaN or infinity", "finite numbers"),
]


def outcome(folder: Path, text: str) -> tuple[str, str, str]:
    """Run a cell of the plugin, stage by stage; return the stage that ended it, its status and its reason."""
    (folder / "plugin.py").write_text(text)
    registry = Registry([str(folder / "plugin.py")])
    settings = {"mine.image_size": 32, "mine.inference_size": 32, "mine.epochs": 1}
    grid = Grid(methods=("mine",), limit=8, refine=("same",), set=settings)
    store = Store(folder / "results", create=True)
    plan = plan_cells(expand([grid], registry), Inputs(registry, store.root, None))
    node, ended = run_stages(plan)
    return ("", "done", "") if ended.status == "done" else (node.stage, ended.status, ended.reason)


def test_a_plugin_that_keeps_the_contract_is_done(tmp_path: Path, toy: Path) -> None:
    assert outcome(tmp_path, PLUGIN) == ("", "done", "")


@pytest.mark.parametrize(("good", "bad", "stage", "gave", "expected"), BROKEN, ids=[row[1].strip() for row in BROKEN])
def test_a_broken_contract_of_a_method_is_one_line(
    tmp_path: Path, toy: Path, good: str, bad: str, stage: str, gave: str, expected: str
) -> None:
    assert good in PLUGIN
    joined = " " if gave.startswith("raised") else ": "
    assert outcome(tmp_path, PLUGIN.replace(good, bad, 1)) == (
        stage, "failed", f"method 'mine'{joined}{gave}, expected {expected}",
    )  # fmt: skip


@pytest.mark.parametrize(("refined", "gave", "expected"), REFINED)
def test_a_broken_contract_of_a_refiner_is_one_line(
    tmp_path: Path, toy: Path, refined: str, gave: str, expected: str
) -> None:
    stage, status, reason = outcome(tmp_path, PLUGIN.replace("return probabilities", f"return {refined}"))
    assert (stage, status) == ("mask", "failed")
    assert reason.startswith(f"refiner 'same': `refine` gave {gave}")
    assert f", expected {expected}" in reason
