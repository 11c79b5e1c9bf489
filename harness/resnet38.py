"""ResNet-38, the wide pre-activation network of the CNN family of WSSS, with the names of its published checkpoints.

After Wu et al., Wider or Deeper (arXiv:1611.10080), as PSA and its followers use it: stride 8, frozen at its beginning
and in all its norms. `harness.backbones` adds it to timm's models, so that it is `resnet38`, or `timm:resnet38d`.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

STRIDE = 8
WEIGHTS = "ilsvrc-cls_rna-a1 of itijyou/ademxapp, converted to PyTorch as the README of visinf/1-stage-wseg has it"
_UNITS = (("b2", 3), ("b3", 3), ("b4", 6), ("b5", 3))  # units of a stage: b4, b4_1 … b4_5


class FrozenNorm(nn.BatchNorm2d):
    """Batch norm by its running statistics, with a scale and a shift that no gradient reaches."""

    def forward(self, features: Tensor) -> Tensor:
        """Return (B, C, h, w) features of (B, D, H, W) ones."""
        scale, shift = self.weight.detach(), self.bias.detach()
        return functional.batch_norm(features, self.running_mean, self.running_var, scale, shift, eps=self.eps)


class Unit(nn.Module):
    """Two 3x3 convolutions, each after norm and ReLU; where the shape changes, a 1x1 shortcut after the first ReLU."""

    def __init__(
        self, inside: int, middle: int, outside: int, stride: int = 1, dilations: tuple[int, int] = (1, 1)
    ) -> None:
        super().__init__()
        self.bn_branch2a = FrozenNorm(inside)
        self.conv_branch2a = _convolution(inside, middle, 3, stride, dilations[0])
        self.bn_branch2b1 = FrozenNorm(middle)
        self.conv_branch2b1 = _convolution(middle, outside, 3, 1, dilations[1])
        self.conv_branch1 = _convolution(inside, outside, 1, stride) if (inside, 1) != (outside, stride) else None

    def forward(self, features: Tensor) -> Tensor:
        """Return (B, C, h, w) features of (B, D, H, W) ones."""
        active = self.bn_branch2a(features).relu()
        beside = features if self.conv_branch1 is None else self.conv_branch1(active)
        found: Tensor = self.conv_branch2b1(self.bn_branch2b1(self.conv_branch2a(active)).relu())
        return found + beside


class Bottleneck(nn.Module):
    """Convolutions of 1x1, 3x3 and 1x1 with dropped channels before the last two, and a 1x1 shortcut."""

    def __init__(self, inside: int, outside: int, dropout: float) -> None:
        super().__init__()
        self.bn_branch2a = FrozenNorm(inside)
        self.conv_branch2a = _convolution(inside, outside // 4, 1)
        self.bn_branch2b1 = FrozenNorm(outside // 4)
        self.conv_branch2b1 = _convolution(outside // 4, outside // 2, 3, 1, 4)
        self.bn_branch2b2 = FrozenNorm(outside // 2)
        self.conv_branch2b2 = _convolution(outside // 2, outside, 1)
        self.conv_branch1 = _convolution(inside, outside, 1)
        self.dropout = nn.Dropout2d(dropout)

    def forward(self, features: Tensor) -> Tensor:
        """Return (B, C, h, w) features of (B, D, H, W) ones."""
        active = self.bn_branch2a(features).relu()
        middle = self.dropout(self.bn_branch2b1(self.conv_branch2a(active)).relu())
        middle = self.dropout(self.bn_branch2b2(self.conv_branch2b1(middle)).relu())
        found: Tensor = self.conv_branch2b2(middle) + self.conv_branch1(active)
        return found


class ResNet38(nn.Module):
    """The network as timm's are: `forward_features` gives (B, 4096, H / 8, W / 8).

    The stem, the first stage and every norm stay as they are, whatever an optimiser is given.
    """

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.num_features = 4096
        self.pretrained_cfg = {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225), "classifier": "fc8"}
        self.conv1a = _convolution(3, 64, 3)
        shapes = {
            "b2": (64, 128, 128, 2), "b3": (128, 256, 256, 2), "b4": (256, 512, 512, 2), "b5": (512, 512, 1024, 1),
        }  # fmt: skip
        for name, count in _UNITS:
            inside, middle, outside, stride = shapes[name]
            later = (2, 2) if name == "b5" else (1, 1)
            self.add_module(name, Unit(inside, middle, outside, stride, (1, later[1])))
            for number in range(1, count):
                self.add_module(f"{name}_{number}", Unit(outside, middle, outside, 1, later))
        self.b6 = Bottleneck(1024, 2048, 0.3)
        self.b7 = Bottleneck(2048, 4096, 0.5)
        self.bn7 = FrozenNorm(4096)
        self.fc8 = nn.Conv2d(4096, num_classes, 1, bias=False) if num_classes else None
        self.feature_info = [
            {"module": "b2_2", "num_chs": 128, "reduction": 2}, {"module": "b3_2", "num_chs": 256, "reduction": 4},
            {"module": "b4_5", "num_chs": 512, "reduction": 8}, {"module": "b5_2", "num_chs": 1024, "reduction": 8},
            {"module": "bn7", "num_chs": 4096, "reduction": 8},
        ]  # fmt: skip

    def forward_features(self, images: Tensor) -> Tensor:
        """Return dense features of normalised (B, 3, H, W) images."""
        with torch.no_grad():
            features: Tensor = self.conv1a(images)
            features = self._stage("b2", 3, features)
        for name, count in _UNITS[1:]:
            features = self._stage(name, count, features)
        found: Tensor = self.bn7(self.b7(self.b6(features))).relu()
        return found

    def forward(self, images: Tensor) -> Tensor:
        """Return features, or (B, num_classes) logits where there is a classifier."""
        features = self.forward_features(images)
        return features if self.fc8 is None else self.fc8(features).mean((2, 3))

    def _stage(self, name: str, count: int, features: Tensor) -> Tensor:
        for number in range(count):
            features = self.get_submodule(f"{name}_{number}" if number else name)(features)
        return features


def resnet38d(
    pretrained: bool = False, num_classes: int = 1000, output_stride: int = STRIDE, global_pool: str = "", **_: Any
) -> ResNet38:
    """Return the network; timm calls this with its own arguments.

    Raises
    ------
    AssertionError
        For another stride than 8, as timm's own networks do.
    """
    assert output_stride == STRIDE, f"output_stride {STRIDE}"
    return ResNet38(num_classes)


def _convolution(inside: int, outside: int, side: int, stride: int = 1, dilation: int = 1) -> nn.Conv2d:
    return nn.Conv2d(inside, outside, side, stride, side // 2 * dilation, dilation, bias=False)
