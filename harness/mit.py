"""MiT-B1, the encoder of SegFormer (Xie et al., NeurIPS 2021), as AFA uses it: mmsegmentation's, the last stride 1.

`harness.backbones` adds it to timm's models, so that it is `mit_b1`, or `timm:mit_b1`.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from harness.errors import UserError
from harness.features import Backbone, Features

STRIDE = 16
WEIGHTS = "mit_b1_20220624-02e5a6a1.pth of OpenMMLab, SegFormer's weights under mmsegmentation's names"
WIDTHS, STRIDES, HEADS = (64, 128, 320, 512), (4, 8, 16, 16), (1, 2, 5, 8)


def mit_b1(
    pretrained: bool = False, num_classes: int = 1000, global_pool: str = "", drop_path_rate: float = 0.1, **_: Any
) -> nn.Module:
    """Return the network; timm calls this with its own arguments.

    Raises
    ------
    EnvironmentUnfitError
        Without mmsegmentation.
    """
    from harness.deeplab.mm import MixVisionTransformer

    class MiT(MixVisionTransformer):
        """The network as timm's are: `forward_features` gives (B, 512, H / 16, W / 16)."""

        num_features = WIDTHS[-1]
        pretrained_cfg = {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225), "classifier": "head"}
        feature_info = [
            {"module": f"layers.{number}", "num_chs": width, "reduction": stride}
            for number, (width, stride) in enumerate(zip(WIDTHS, STRIDES, strict=True))
        ]

        @property
        def blocks(self) -> nn.ModuleList:
            """All blocks, in order."""
            return nn.ModuleList(block for stage in self.layers for block in stage[1])

        @property
        def norm(self) -> nn.Module:
            """The last norm."""
            last: nn.Module = self.layers[-1][2]
            return last

        def forward_features(self, images: Tensor) -> Tensor:
            """Return dense features of normalised (B, 3, H, W) images."""
            dense: Tensor = self(images)[-1]
            return dense

    shape = {
        "embed_dims": WIDTHS[0], "num_layers": [2, 2, 2, 2], "num_heads": list(HEADS), "patch_sizes": [7, 3, 3, 3],
        "strides": [4, 2, 2, 1], "sr_ratios": [8, 4, 2, 1],
    }  # fmt: skip
    with torch.device("cpu"):  # it reads numbers while it is made, also where only its parameters are counted
        net = MiT(**shape, drop_path_rate=drop_path_rate)
    if num_classes:
        net.head = nn.Linear(WIDTHS[-1], num_classes)
    net.init_weights()
    for patches, blocks, _ in net.layers:  # SegFormer's own, where mmsegmentation has 1e-6
        for norm in (patches.norm, *(block.attn.norm for block in blocks if block.attn.sr_ratio > 1)):
            norm.eps = 1e-5
    return net


class MiTBackbone(Backbone):
    """MiT as a backbone: levels are its four stages, `attention` counts the blocks of the last one; no class tokens."""

    def __init__(self, net: Any, timm_id: str, kind: str, stride: int) -> None:
        super().__init__(net, timm_id, kind, stride)
        self.num_heads = HEADS[-1]

    def features(
        self,
        images: Tensor,
        levels: Sequence[int] = (),
        attention: Sequence[int] = (),
        class_tokens: Tensor | None = None,
        logits: bool = False,
    ) -> Features:
        """Return dense features of images and whatever else is asked for, as `Backbone.features` does.

        Raises
        ------
        UserError
            If class tokens or a block are asked for that there are not.
        """
        if class_tokens is not None:
            raise UserError(f"{self.timm_id} has no class tokens")
        blocks = self.net.layers[-1][1]
        if any(not -len(blocks) <= block < len(blocks) for block in attention):
            raise UserError(f"{self.timm_id} shows the attention of its last {len(blocks)} blocks")
        seen: dict[nn.Module, Tensor] = {}

        def watch(module: Any, _: Any, given: dict[str, Tensor]) -> None:
            seen[module] = _products(module, given["query"], given["key"])

        watched = [blocks[block].attn.attn for block in attention]
        with ExitStack() as during:
            for module in watched:
                during.enter_context(module.register_forward_pre_hook(watch, with_kwargs=True))
            maps = self.net((images - self.mean) / self.std)
        found = (seen[module] if logits else seen[module].softmax(-1) for module in watched)
        return Features(maps[-1], tuple(maps[self._index(level)] for level in levels), attention=tuple(found))


def _products(attention: nn.MultiheadAttention, query: Tensor, key: Tensor) -> Tensor:
    """Return (B, heads, N, M) products of (N, B, D) queries and (M, B, D) keys, over the root of a head's channels."""
    width, heads = attention.embed_dim, attention.num_heads
    both = zip((query, key), attention.in_proj_weight.split(width), attention.in_proj_bias.split(width), strict=False)
    projected = [functional.linear(own, weight, bias) for own, weight, bias in both]
    rows, columns = (one.unflatten(2, (heads, width // heads)).permute(1, 2, 0, 3) for one in projected)
    return rows @ columns.transpose(2, 3) * (width // heads) ** -0.5
