"""WeakTr (Zhu et al., 2023): MCTformer that learns how much each head of the attention is worth."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack
from typing import Any, ClassVar

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional
from wsss_methods.mctformer import MCTformer, MCTformerParams

from harness import Batch, Step


class WeakTrParams(MCTformerParams):
    """Settings of WeakTr; the defaults are those of the authors' code, hustvl/WeakTr, on VOC.

    Attributes
    ----------
    reduction : int
        By which the layers that weigh heads are narrowed.
    """

    lr: float = Field(7.5e-5, gt=0)
    weight_decay: float = Field(0.03, ge=0)
    reduction: int = Field(8, ge=1)


class WeakTr(MCTformer):
    """Class tokens and patches are classified as MCTformer's second version does; heads are weighed image by image.

    What the weighted heads attend to from class tokens, times what patches say of themselves, is spread by what they
    attend to from patch to patch. The mean of this map is a third logit, whose loss teaches the weights alone.
    """

    name = "weaktr"
    cite = "zhu2023weaktr"
    check_settings: ClassVar[Mapping[str, Any]] = {"reduction": 1}  # the toy ViT has few heads
    Params = WeakTrParams

    params: WeakTrParams

    def build(self, backbone: Any, num_classes: int) -> nn.Module:
        model = super().build(backbone, num_classes)
        model.patches = nn.Conv2d(backbone.dim, num_classes - 1, 3, padding=1)
        model.fusion = Fusion(len(backbone.dims), backbone.num_heads, backbone.dim, self.params.reduction)
        return model

    def training_step(self, model: Any, batch: Batch, step: Step) -> dict[str, Tensor]:
        tokens, patches, fine = seen(model, batch.images)
        present = batch.labels[:, 1:]
        logits = {"bce": tokens, "patches": patches.mean((2, 3)), "fine": fine.mean((2, 3))}
        return {
            name: functional.binary_cross_entropy_with_logits(found.float(), present) for name, found in logits.items()
        }

    def score(self, model: Any, images: Tensor, labels: Tensor | None) -> tuple[Tensor, Tensor]:
        tokens, _, fine = seen(model, images)
        return fine, tokens.sigmoid()


class Fusion(nn.Module):
    """One weight for each head of all blocks, from the strongest of what it gives over the tokens.

    Parameters
    ----------
    blocks, heads : int
        Of the ViT, and of each of its blocks.
    dim : int
        Channels of a token.
    reduction : int
    """

    def __init__(self, blocks: int, heads: int, dim: int, reduction: int) -> None:
        super().__init__()
        self.heads, channels, every = heads, dim // heads, blocks * heads
        self.pool = nn.Sequential(nn.Linear(channels, channels // reduction), nn.Linear(channels // reduction, 1))
        width = max(1, every // reduction)
        self.weigh = nn.Sequential(
            nn.Linear(every, width, bias=False), nn.ReLU(), nn.Linear(width, every, bias=False), nn.Sigmoid()
        )

    def forward(self, outputs: list[Tensor]) -> Tensor:
        """Return (B, blocks, heads) weights of the (B, N, dim) outputs of each block's attention.

        As in the authors' code a head's share is every `heads`-th channel of what the block has projected.
        """
        strongest = torch.stack([output.unflatten(2, (-1, self.heads)).amax(1) for output in outputs], 1)
        pooled = self.pool(strongest.transpose(2, 3))[..., 0]  # (B, blocks, heads)
        weights: Tensor = self.weigh(pooled.flatten(1)).view_as(pooled)
        return weights


def seen(model: Any, images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return logits of class tokens, (B, K, h, w) logits of patches, and fine maps, which teach the fusion alone."""
    outputs: list[Tensor] = []
    blocks = range(len(model.backbone.dims))
    with ExitStack() as during:
        for block in model.backbone.net.blocks:
            during.enter_context(block.attn.register_forward_hook(lambda _, inputs, output: outputs.append(output)))
        features = model.backbone.features(images, levels=(-1,), attention=blocks, class_tokens=model.tokens)
    patches, classes = model.patches(features.levels[0]), model.tokens.shape[1]
    weights = model.fusion([output.detach() for output in outputs]).to(patches.dtype)
    attention = [one.detach() for one in features.attention]
    pairs = zip(weights.unbind(1), attention, strict=True)
    mean = torch.stack([(weight[:, :, None, None] * heads).mean(1) for weight, heads in pairs]).mean(0)
    coarse = mean[:, :classes, classes:] * patches.detach().relu().flatten(2)
    fine = (coarse @ mean[:, classes:, classes:].transpose(1, 2)).view_as(patches)
    return features.level_tokens[0].mean(-1), patches, fine
