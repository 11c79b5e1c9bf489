"""DeepLabV2's head."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from harness.deeplab.mm import MODELS, BaseDecodeHead

DILATIONS = (6, 12, 18, 24)


@MODELS.register_module()
class DeepLabV2Head(BaseDecodeHead):
    """Four dilated 3x3 convolutions straight to the classes, summed: the ASPP of Chen et al. (2018), section 3.2.

    There is no normalisation, activation, dropout or classifier after them; they start from N(0, 0.01), without bias.

    Parameters
    ----------
    in_channels : int
        Of the backbone's last features.
    num_classes : int
        Background included.
    """

    def __init__(self, in_channels: int, num_classes: int, **options: Any) -> None:
        super().__init__(
            in_channels,
            channels=in_channels,
            num_classes=num_classes,
            out_channels=num_classes,
            dropout_ratio=0,
            loss_decode={"type": "CrossEntropyLoss", "avg_non_ignore": True},
            init_cfg={"type": "Normal", "layer": "Conv2d", "std": 0.01},
            **options,
        )
        del self.conv_seg
        self.branches = nn.ModuleList(
            nn.Conv2d(in_channels, num_classes, 3, padding=dilation, dilation=dilation) for dilation in DILATIONS
        )

    def forward(self, inputs: tuple[Tensor, ...]) -> Tensor:
        """Return (B, num_classes, h, w) logits of the last of the backbone's features, at their size."""
        features = self._transform_inputs(inputs)
        first, *others = (branch(features) for branch in self.branches)
        return sum(others, first)
