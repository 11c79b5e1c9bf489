"""Backbones at output stride 8: ResNets in three styles, which are three architectures, and any timm CNN that can."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from harness.backbones import Backbone, Weights, build_backbone
from harness.deeplab.mm import MODELS, ResNet
from harness.deeplab.recipe import OUTPUT_STRIDE, Pixels, Recipe
from harness.errors import UserError
from harness.timm_models import family

_STAGES: dict[str, Any] = {
    "strides": (1, 2, 1, 1),
    "dilations": (1, 1, 2, 4),
    "out_indices": (3,),
    "zero_init_residual": False,  # frozen batch normalisation would keep such blocks shut
}
_STYLES = {"caffe": "CaffeResNet", "torchvision": "DilatedResNet", "v1c": "DilatedResNetV1c"}


def network(recipe: Recipe) -> tuple[dict[str, Any], int, Pixels]:
    """Return the registry's config of a recipe's backbone, the channels of its features, and what it is fed with.

    Raises
    ------
    UserError
        If it is a timm model that is not convolutional, or cannot be built at stride 8.
    """
    if recipe.timm:
        with torch.device("meta"):
            probe = _timm(recipe.timm)
        expected = {name: tuple(255 * value for value in probe.net.pretrained_cfg[name]) for name in ("mean", "std")}
        pixels = recipe.pixels or Pixels(order="rgb", **expected)
        return {"type": "TimmNetwork", "identifier": recipe.timm}, probe.dim, pixels
    assert recipe.style is not None
    assert recipe.pixels is not None
    depth = int(recipe.backbone.removeprefix("resnet"))
    channels = 512 if depth == 18 else 2048
    return {"type": _STYLES[recipe.style], "depth": depth, "first_block": recipe.first_block}, channels, recipe.pixels


@MODELS.register_module()
class DilatedResNet(ResNet):
    """torchvision's ResNet, whose blocks stride in their 3x3 convolution.

    Parameters
    ----------
    first_block : {"dilated", "halved", "plain"}
        See `Recipe`.
    """

    def __init__(self, first_block: str, **options: Any) -> None:
        super().__init__(contract_dilation=first_block == "halved", **_STAGES, **options)
        if first_block == "plain":
            for layer in (*self.layer3[0].modules(), *self.layer4[0].modules()):
                if isinstance(layer, nn.Conv2d) and layer.kernel_size == (3, 3):
                    layer.dilation = layer.padding = (1, 1)


@MODELS.register_module()
class DilatedResNetV1c(DilatedResNet):
    """The ResNet with three 3x3 convolutions for a stem, as open-mmlab's weights named `v1c` are of."""

    def __init__(self, **options: Any) -> None:
        super().__init__(deep_stem=True, **options)


@MODELS.register_module()
class CaffeResNet(DilatedResNet):
    """The ResNet of the first DeepLabV2: a block strides in its first 1x1 convolution; the stem's pool rounds up."""

    def __init__(self, **options: Any) -> None:
        super().__init__(style="caffe", **options)
        self.maxpool.ceil_mode = True


@MODELS.register_module()
class TimmNetwork(nn.Module):
    """A convolutional timm network at output stride 8, fed with images that the segmentor has normalised.

    Attributes
    ----------
    net : Module
        The timm network, without head.
    """

    def __init__(self, identifier: str) -> None:
        super().__init__()
        self.net = _timm(identifier).net

    def forward(self, images: Tensor) -> tuple[Tensor]:
        """Return (B, C, h, w) features of (B, 3, H, W) normalised images, as the only ones of a tuple."""
        return (self.net.forward_features(images),)


def _timm(identifier: str) -> Backbone:
    if family(identifier) != "cnn":
        raise UserError(f"a DeepLabV2 needs a convolutional backbone, and timm's '{identifier}' is a transformer")
    return build_backbone(identifier, Weights("random"), stride=OUTPUT_STRIDE)
