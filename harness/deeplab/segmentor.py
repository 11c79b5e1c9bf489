"""DeepLabV2 as one of mmsegmentation's segmentors: several scales through shared weights, and their losses."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from harness.deeplab.mm import MODELS, EncoderDecoder


@MODELS.register_module()
class DeepLabV2(EncoderDecoder):
    """Backbone and head, applied to an image at several scales; the prediction is the maximum of the logits.

    Parameters
    ----------
    scales : tuple of float
        The first is 1.
    losses : {"msc", "single"}
    bn : {"frozen", "statistics", "trained"}
    stem : {"frozen", "trained"}
        See `Recipe`.
    """

    def __init__(self, scales: tuple[float, ...], losses: str, bn: str, stem: str, **options: Any) -> None:
        super().__init__(test_cfg={"mode": "whole"}, **options)
        self.scales = scales
        self.losses = losses
        self.bn = bn
        if bn != "trained":
            for layer in self._normalisations():
                layer.requires_grad_(False)
        if stem == "frozen":
            for name, parameter in self.backbone.named_parameters():
                if not name.startswith("layer"):
                    parameter.requires_grad_(False)

    def init_weights(self) -> None:
        """Do nothing: `build` draws the weights and `initialise` loads them, and mmengine's runner undoes neither."""

    def train(self, mode: bool = True) -> DeepLabV2:
        """Set the mode of training or evaluation; frozen batch normalisation stays in that of evaluation."""
        super().train(mode)
        if self.bn == "frozen":
            for layer in self._normalisations():
                layer.eval()
        return self

    def pyramid(self, images: Tensor) -> list[Tensor]:
        """Return (B, C, h, w) logits of (B, 3, H, W) normalised images at each scale, each at its own size."""
        sizes = [[int(side * scale) for side in images.shape[2:]] for scale in self.scales[1:]]
        scaled = [functional.interpolate(images, size, mode="bilinear") for size in sizes]
        return [self.decode_head(self.extract_feat(view)) for view in (images, *scaled)]

    def _forward(self, inputs: Tensor, data_samples: Any = None) -> Tensor:
        return maximum(self.pyramid(inputs))

    def encode_decode(self, inputs: Tensor, batch_img_metas: Any) -> Tensor:
        """Return (B, C, H, W) logits at the size of the images."""
        return functional.interpolate(self._forward(inputs), inputs.shape[2:], mode="bilinear")

    def loss(self, inputs: Tensor, data_samples: Any) -> dict[str, Tensor]:
        """Return the cross-entropies, by scale, of (B, 3, H, W) normalised images; pixels of 255 are left out."""
        labels = torch.stack([sample.gt_sem_seg.data for sample in data_samples])
        logits = self.pyramid(inputs)
        if self.losses == "single":
            whole = functional.interpolate(maximum(logits), labels.shape[2:], mode="bilinear")
            return {"loss": self._cross_entropy(whole, labels)}
        named = {f"loss_{scale:g}": own for scale, own in zip(self.scales, logits, strict=True)}
        if len(logits) > 1:
            named["loss_max"] = maximum(logits)
        return {name: self._cross_entropy(own, labels) for name, own in named.items()}

    def _cross_entropy(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Compare logits with (B, 1, H, W) labels, downsampled to their size."""
        small = downsample(labels.squeeze(1), logits.shape[2:]).long()
        return self.decode_head.loss_decode(logits, small, ignore_index=self.decode_head.ignore_index)

    def _normalisations(self) -> list[nn.Module]:
        return [layer for layer in self.modules() if isinstance(layer, nn.modules.batchnorm._BatchNorm)]


def downsample(labels: Tensor, size: Sequence[int]) -> Tensor:
    """Return (B, h, w) labels of (B, H, W) ones, each the nearest; where two are as near, PIL's choice."""
    rows, columns = (_nearest(old, new, labels.device) for old, new in zip(labels.shape[1:], size, strict=True))
    return labels[:, rows[:, None], columns]


def _nearest(old: int, new: int, device: torch.device) -> Tensor:
    """Return for each of `new` pixels the one of `old` that its centre falls into, summed up as PIL does it."""
    step = old / new
    return torch.tensor([int(place) for place in accumulate([step / 2, *[step] * (new - 1)])], device=device)


def maximum(logits: list[Tensor]) -> Tensor:
    """Return the element-wise maximum of (B, C, ., .) logits, at the size of the first."""
    size = logits[0].shape[2:]
    return torch.stack([functional.interpolate(own, size, mode="bilinear") for own in logits]).max(0).values
