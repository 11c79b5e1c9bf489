"""How many parameters a model has, by stated conventions: the only place where they are counted.

Papers count differently, with the ImageNet head or without, with the segmenter that was trained afterwards or without.
Every number here is counted from the built model, at the grid that its backbone was pre-trained at: a ViT that is built
for larger images would count more position embeddings.
"""

from __future__ import annotations

from torch import nn

from harness.backbones import count_with_head

CONVENTIONS = {
    "backbone": "the backbone without its ImageNet head",
    "backbone_with_head": "the backbone with its ImageNet head, as model cards count",
    "added": "what the method adds to the backbone",
    "total": "backbone without head, and what the method adds: what makes the pseudo-masks",
    "trainable": "those of the total that the last phase of training changes",
}


def count_parameters(model: nn.Module, identifier: str) -> dict[str, int]:
    """Count a trained method's parameters.

    Parameters
    ----------
    model : Module
        Its backbone, if it has one, is its attribute `backbone`.
    identifier : str
        The backbone's timm id; empty if there is none.

    Returns
    -------
    dict
        A count for each name in `CONVENTIONS`.
    """
    backbone = getattr(model, "backbone", None)
    inside = _count(backbone) if isinstance(backbone, nn.Module) else 0
    total = _count(model)
    return {
        "backbone": inside,
        "backbone_with_head": count_with_head(identifier) if identifier else 0,
        "added": total - inside,
        "total": total,
        "trainable": sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad),
    }


def _count(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())
