"""A DeepLabV2 of a recipe: built by mmsegmentation's registry, its parameter groups, and what it predicts."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from harness.deeplab import head  # noqa: F401  it registers itself
from harness.deeplab.mm import MODELS, BaseModule, initialize
from harness.deeplab.networks import network
from harness.deeplab.recipe import Recipe
from harness.deeplab.segmentor import DeepLabV2


def config(recipe: Recipe, num_classes: int) -> dict[str, Any]:
    """Return the config of which mmsegmentation's registry builds a recipe's model.

    Parameters
    ----------
    recipe : Recipe
    num_classes : int
        Background included.
    """
    backbone, channels, pixels = network(recipe)
    return {
        "type": "DeepLabV2",
        "scales": recipe.msc,
        "losses": recipe.losses,
        "bn": recipe.bn,
        "stem": recipe.stem,
        "backbone": backbone,
        "decode_head": {"type": "DeepLabV2Head", "in_channels": channels, "num_classes": num_classes},
        "data_preprocessor": {
            "type": "mmseg.SegDataPreProcessor",
            "mean": pixels.mean,
            "std": pixels.std,
            "rgb_to_bgr": pixels.order == "bgr",
            "size": (recipe.crop, recipe.crop),
            "pad_val": 0,  # after normalisation, so it is the mean
            "seg_pad_val": 255,
        },
    }


def build(recipe: Recipe, num_classes: int) -> DeepLabV2:
    """Build a recipe's segmentor, with random weights from torch's generator.

    Its data preprocessor takes (3, H, W) RGB images on the scale of 0 to 255; in training they may be smaller than
    the crop.

    Raises
    ------
    UserError
        If the backbone is a timm model that is not convolutional, or cannot be built at stride 8.
    """
    model: DeepLabV2 = MODELS.build(config(recipe, num_classes))
    for part in (model.decode_head, model.backbone):
        if isinstance(part, BaseModule):  # timm's networks have drawn theirs
            initialize(part, part.init_cfg)
    return model.train()


def parameter_groups(model: DeepLabV2, recipe: Recipe) -> list[dict[str, Any]]:
    """Return the optimiser's groups, `backbone`, `head_weight` and `head_bias`, of what the recipe trains.

    Each has its `name`, `params`, `lr` at the start, and `weight_decay`, which the head's biases have not.
    """
    groups: dict[str, list[nn.Parameter]] = {"backbone": [], "head_weight": [], "head_bias": []}
    for name, parameter in model.named_parameters():
        group = f"head_{name.rpartition('.')[2]}" if name.startswith("decode_head.") else "backbone"
        if parameter.requires_grad:
            groups[group].append(parameter)
    return [
        {
            "name": name,
            "params": parameters,
            "lr": recipe.lr * getattr(recipe.multipliers, name),
            "weight_decay": 0.0 if name == "head_bias" else recipe.weight_decay,
        }
        for name, parameters in groups.items()
    ]


@torch.inference_mode()
def logits(model: DeepLabV2, images: Tensor) -> Tensor:
    """Return (B, C, h, w) logits, the maximum over `msc`, of (B, 3, H, W) RGB images of 0 to 255, in evaluation."""
    normalised = model.data_preprocessor({"inputs": images})["inputs"]
    result: Tensor = model.eval()(normalised)
    return result


@torch.inference_mode()
def probabilities(model: DeepLabV2, images: Tensor, recipe: Recipe) -> Tensor:
    """Return (B, C, H, W) probabilities of (B, 3, H, W) RGB images of 0 to 255, by the recipe's scales and flip.

    Each view's logits are upsampled to the size of the images before the softmax; then the views are averaged.
    """
    size, views = images.shape[2:], []
    for scale in recipe.test_scales:
        sides = [round(side * scale) for side in size]
        scaled = functional.interpolate(images.float(), sides, mode="bilinear") if scale != 1 else images
        views.append(_softmax(logits(model, scaled), size))
        if recipe.test_flip:
            views.append(_softmax(logits(model, scaled.flip(3)), size).flip(3))
    return torch.stack(views).mean(0)


def _softmax(values: Tensor, size: torch.Size) -> Tensor:
    return functional.interpolate(values, size, mode="bilinear").softmax(1)
