"""Checks of a method's model."""

from __future__ import annotations

import torch
from torch import nn

from harness.check.case import Case
from harness.check.suite import check, must
from harness.stages.fit import load_checkpoint
from harness.training import save_model


@check("method", needs=("skips_with_a_reason",))
def builds(case: Case) -> None:
    """Every backbone of a declared family must do: tables set them side by side.

    Return an nn.Module; use `backbone.dim` and `backbone.stride`, not numbers.
    """
    model = case.build()
    must(isinstance(model, nn.Module), f"`build` returns a {type(model).__name__}")


@check("method", needs=("builds",))
def counts_parameters(case: Case) -> None:
    """Tables say how many parameters are the backbone's and how many the method adds; both are counted there.

    Keep the backbone as the attribute `backbone` of the model.
    """
    kept = not case.family or isinstance(getattr(case.build(), "backbone", None), nn.Module)
    must(kept, "the model has no `backbone`")


@check("method", needs=("trains",))
def survives_saving(case: Case) -> None:
    """Scores come from another process, which builds the model again and loads its state.

    Register weights as parameters or buffers, and share none under two names.
    """
    path = case.place() / "model.safetensors"
    save_model(case.fitted, path)
    again = case.build(seed=1)
    load_checkpoint(again, path)
    images, labels = case.pictures(2), case.labels(2)[0]
    same = torch.equal(case.maps(images, labels)[0], case.maps(images, labels, again.eval())[0])
    must(same, "a model that is saved and loaded gives other scores")
