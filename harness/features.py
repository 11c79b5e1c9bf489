"""What a backbone gives: dense features, those of its levels, tokens and attention; one module for ViTs and CNNs."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from harness.errors import UserError


@dataclass(frozen=True)
class Features:
    """What `Backbone.features` returns; what was not asked for is empty.

    Attributes
    ----------
    dense : Tensor
        (B, dim, h, w), the same as `backbone(images)`.
    levels : tuple of Tensor
        (B, d, h, w) of each level that was asked for, as it leaves its stage or block: a ViT's final norm comes later.
    level_tokens : tuple of Tensor
        (B, n, dim) class and register tokens of the same levels, before the final norm too; empty for a CNN.
    tokens : Tensor or None
        (B, n, dim) class and register tokens after the last block and the final norm; None for a CNN.
    attention : tuple of Tensor
        (B, heads, n + h * w, n + h * w) of each block that was asked for, tokens first, rows attend to columns. After
        the softmax; with `logits`, what enters it: query times key over the square root of the channels of a head, so
        that `dim / num_heads` to the power of 0.5 takes the scale away again.
    """

    dense: Tensor
    levels: tuple[Tensor, ...] = ()
    level_tokens: tuple[Tensor, ...] = ()
    tokens: Tensor | None = None
    attention: tuple[Tensor, ...] = ()


class Backbone(nn.Module):
    """A timm network that maps images to a grid of features.

    Levels count the stages of a CNN, of which 0 is the stem, and the blocks of a ViT; -1 is the last.

    Attributes
    ----------
    timm_id : str
    family : {"vit", "cnn"}
    dim : int
        Channels of a feature.
    stride : int
        Pixels per feature, both ways.
    dims, strides : tuple of int
        The same of each level.
    num_heads : int
        Heads of a ViT's attention; 0 for a CNN.
    net : Module
        The timm network, without head.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, net: Any, timm_id: str, kind: str, stride: int) -> None:
        super().__init__()
        self.net = net
        self.timm_id = timm_id
        self.family = kind
        self.stride = stride
        self.dim = int(net.num_features)
        self.dims = tuple(int(level["num_chs"]) for level in net.feature_info)
        self.strides = tuple(min(int(level["reduction"]), stride) for level in net.feature_info)  # less where dilated
        heads = (module.num_heads for module in net.modules() if hasattr(module, "num_heads"))
        self.num_heads = next(heads, 0) if kind == "vit" else 0
        self.norms_frozen = False
        for name in ("mean", "std"):
            value = torch.tensor(net.pretrained_cfg[name]).view(1, 3, 1, 1)
            self.register_buffer(name, value, persistent=False)

    def forward(self, images: Tensor) -> Tensor:
        """Return (B, dim, h, w) features of (B, 3, H, W) images in [0, 1]; normalises as the weights expect.

        h and w are H and W over the stride, rounded up.
        """
        return self.features(images).dense

    def features(
        self,
        images: Tensor,
        levels: Sequence[int] = (),
        attention: Sequence[int] = (),
        class_tokens: Tensor | None = None,
        logits: bool = False,
    ) -> Features:
        """Return dense features of images as `forward` does, and whatever else is asked for, from one pass.

        Parameters
        ----------
        images : Tensor
            (B, 3, H, W) in [0, 1].
        levels : sequence of int
            Stages or blocks whose features are returned, in this order.
        attention : sequence of int
            Blocks of a ViT whose attention is returned, in this order.
        class_tokens : Tensor, optional
            (1, n, dim) tokens that stand in for the ViT's own class and register tokens; their positions are added
            already.
        logits : bool
            Attention before the softmax.

        Raises
        ------
        UserError
            If the backbone lacks what is asked for.
        """
        if self.family == "cnn" and (attention or class_tokens is not None):
            raise UserError(f"{self.timm_id} is a convolutional network: it has no attention and no class tokens")
        stages = [self._stage(level) for level in levels]
        blocks = [self._index(block) for block in attention]
        outputs: dict[nn.Module, Tensor] = {}

        def keep(stage: nn.Module, _: Any, output: Tensor) -> None:
            outputs[stage] = output

        with ExitStack() as during:
            for stage in stages:
                during.enter_context(stage.register_forward_hook(keep))
            if class_tokens is not None:
                during.enter_context(self._replace_tokens(class_tokens))
            watched = during.enter_context(_Attention(blocks, logits)) if blocks else None
            last = self.net.forward_features((images - self.mean) / self.std)

        if self.family == "cnn":
            return Features(last, tuple(outputs[stage] for stage in stages))
        count = self.net.num_prefix_tokens if class_tokens is None else class_tokens.shape[1]
        grid = [-(-side // self.stride) for side in images.shape[-2:]]
        if last.shape[1] - count != grid[0] * grid[1]:
            raise UserError(f"{self.timm_id} takes images whose sides are multiples of {self.stride} only")
        if watched and watched.calls != len(self.net.blocks):
            raise UserError(f"{self.timm_id} does not call fused attention once in each block: it has none to show")

        def dense(tokens: Tensor) -> Tensor:
            return tokens[:, count:].transpose(1, 2).unflatten(2, grid)

        return Features(
            dense=dense(last),
            levels=tuple(dense(outputs[stage]) for stage in stages),
            level_tokens=tuple(outputs[stage][:, :count] for stage in stages),
            tokens=last[:, :count],
            attention=tuple(watched.seen[block] for block in blocks) if watched else (),
        )

    @property
    def class_token(self) -> Tensor:
        """A copy of the ViT's class token with its position, (1, 1, dim), as `class_tokens` of `features` take it.

        Raises
        ------
        UserError
            If the backbone has none.
        """
        token: Tensor | None = getattr(self.net, "cls_token", None)
        if self.family == "cnn" or token is None:
            raise UserError(f"{self.timm_id} has no class token")
        positions = None if self.net.no_embed_class else self.net.pos_embed
        return (token if positions is None else token + positions[:, :1]).detach().clone()

    def parameters_from(self, level: int) -> list[nn.Parameter]:
        """Return the parameters that come after the features of the level before, final norm included; all for 0.

        A phase that trains these alone leaves the earlier stages or blocks as they are.
        """
        modules = list(self.net.modules())  # a network holds them in the order in which they run
        level = self._index(level)
        first = modules.index([*self._stage(level - 1).modules()][-1]) + 1 if level else 0
        return [parameter for module in modules[first:] for parameter in module.parameters(recurse=False)]

    def freeze_norms(self) -> None:
        """Let batch norms keep their running statistics, in training too; their scale and shift stay trainable."""
        self.norms_frozen = True
        self.train(self.training)

    def train(self, mode: bool = True) -> Backbone:
        """Set training mode; frozen batch norms stay as they are."""
        super().train(mode)
        if self.norms_frozen:
            for module in self.modules():
                if isinstance(module, nn.modules.batchnorm._BatchNorm):
                    module.eval()
        return self

    def _index(self, level: int) -> int:
        """Return a level counted from the first."""
        count = len(self.dims)
        if not -count <= level < count:
            raise UserError(f"{self.timm_id} has {count} levels: {level} is none of -{count} to {count - 1}")
        return level % count

    def _stage(self, level: int) -> nn.Module:
        module: nn.Module = self.net.get_submodule(self.net.feature_info[self._index(level)]["module"])
        return module

    def _replace_tokens(self, tokens: Tensor) -> Any:
        """Return a hook that puts tokens in the place of the ViT's own, where these have their positions."""
        own = self.net.num_prefix_tokens
        if tokens.shape[1] != own and getattr(self.net, "rope", None) is not None:
            raise UserError(f"{self.timm_id} has rotary positions: it takes {own} class tokens, not {tokens.shape[1]}")

        def replace(_: nn.Module, inputs: tuple[Tensor]) -> Tensor:
            return torch.cat([tokens.expand(len(inputs[0]), -1, -1), inputs[0][:, own:]], 1)

        return self.net.norm_pre.register_forward_pre_hook(replace)


class _Attention(TorchFunctionMode):
    """Sees the attention of chosen blocks, after the softmax or before it.

    Fused attention keeps none, and every family of timm prepares query and key in its own way (norms, rotary
    positions); what they have in common is the call that is watched here. It runs on unchanged.
    """

    def __init__(self, blocks: Collection[int], logits: bool) -> None:
        super().__init__()
        self.blocks = blocks
        self.logits = logits
        self.calls = 0
        self.seen: dict[int, Tensor] = {}

    def __torch_function__(
        self, function: Any, types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        if function is functional.scaled_dot_product_attention:
            if self.calls in self.blocks:
                query, key = args[:2]
                products = query @ key.transpose(-2, -1) * query.shape[-1] ** -0.5
                self.seen[self.calls] = products if self.logits else products.softmax(-1)
            self.calls += 1
        return function(*args, **(kwargs or {}))
