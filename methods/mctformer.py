"""MCTformer (Xu et al., CVPR 2022): one class token per class, read by what it attends to."""

from __future__ import annotations

import math
from typing import Any, Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional

from harness import Augment, Batch, Method, Phase, Step, TrainParams

START, END = 1e-6, 1e-5  # learning rates at the beginning of the warm-up, and of all


class MCTformerParams(TrainParams):
    """Settings of MCTformer; the defaults are those of the authors' code, xulianuwa/MCTformer.

    Attributes
    ----------
    version : {1, 2}
        The second also classifies patches, and a map is what a token attends to times what its patches say.
    warmup_epochs : int
    weight_decay : float
        Not of class tokens, biases and norms.
    drop_path : float
    map_blocks : int
        Last blocks whose attention from class tokens to patches makes the maps.
    """

    version: Literal[1, 2] = 1
    image_size: int = Field(224, ge=16)
    epochs: int = Field(60, ge=0)
    batch_size: int = Field(64, ge=1)
    lr: float = Field(6.25e-5, gt=0)
    warmup_epochs: int = Field(5, ge=0)
    weight_decay: float = Field(0.05, ge=0)
    drop_path: float = Field(0.1, ge=0, lt=1)
    map_blocks: int = Field(3, ge=1, json_schema_extra={"stage": "score"})


class MCTformer(Method):
    """A ViT with as many class tokens as classes; the mean of a token's channels is its class's logit.

    The map of a class is what its token attends to in the last blocks, heads averaged, spread once by what patches
    attend to in all blocks. All tokens start as copies of the ViT's own: maps differ only by what labels teach them.
    """

    name = "mctformer"
    cite = "xu2022mctformer"
    families = ("vit",)
    predicts_presence = True
    Params = MCTformerParams

    params: MCTformerParams

    def backbone_options(self, family: str) -> dict[str, Any]:
        return {"drop_path_rate": self.params.drop_path}

    def build(self, backbone: Any, num_classes: int) -> nn.Module:
        model = nn.Module()
        model.backbone = backbone
        model.tokens = nn.Parameter(backbone.class_token.repeat(1, num_classes - 1, 1))
        if self.params.version == 2:
            model.patches = nn.Conv2d(backbone.dim, num_classes - 1, 3, padding=1)
        return model

    def phases(self, model: Any) -> list[Phase]:
        p = self.params
        plain = [parameter for parameter in model.parameters() if parameter.ndim < 2 or parameter is model.tokens]
        known = {id(parameter) for parameter in plain}
        decayed = [parameter for parameter in model.parameters() if id(parameter) not in known]
        groups = [
            {"params": decayed, "lr": p.lr, "weight_decay": p.weight_decay},
            {"params": plain, "lr": p.lr, "weight_decay": 0.0},
        ]
        drawn = Augment(p.image_size, "area", (0.08, 1.0), flip=0.5)
        return [Phase(p.epochs, groups, "AdamW", {}, self._rate, drawn)]

    def _rate(self, done: float) -> float:
        """Return the factor on the learning rate: a linear warm-up, then half a cosine."""
        p = self.params
        warm = min(1.0, p.warmup_epochs / max(1, p.epochs))
        if done < warm:
            return (START + (p.lr - START) * done / warm) / p.lr
        return (END + (p.lr - END) * (1 + math.cos(math.pi * (done - warm) / max(1e-9, 1 - warm))) / 2) / p.lr

    def training_step(self, model: Any, batch: Batch, step: Step) -> dict[str, Tensor]:
        features = model.backbone.features(batch.images, levels=(-1,), class_tokens=model.tokens)
        present, logits = batch.labels[:, 1:], features.level_tokens[0].mean(-1).float()
        losses = {"bce": functional.binary_cross_entropy_with_logits(logits, present)}
        if self.params.version == 2:
            pooled = model.patches(features.levels[0]).mean((2, 3)).float()
            losses["patches"] = functional.binary_cross_entropy_with_logits(pooled, present)
        return losses

    def score(self, model: Any, images: Tensor, labels: Tensor | None) -> tuple[Tensor, Tensor]:
        blocks = range(len(model.backbone.dims))
        features = model.backbone.features(images, levels=(-1,), attention=blocks, class_tokens=model.tokens)
        attention = [heads.mean(1) for heads in features.attention]
        said = model.patches(features.levels[0]).relu().flatten(2) if self.params.version == 2 else None
        maps = class_maps(attention, model.tokens.shape[1], self.params.map_blocks, said)
        return maps.unflatten(2, features.dense.shape[-2:]), features.level_tokens[0].mean(-1).sigmoid()


def class_maps(attention: list[Tensor], classes: int, blocks: int, said: Tensor | None = None) -> Tensor:
    """Return (B, K, N) class maps from (B, K + N, K + N) attention of each block, class tokens first.

    With what patches say of themselves, (B, K, N), that is multiplied in before maps spread from patch to patch.
    """
    seen = torch.stack(attention[-blocks:]).sum(0)[:, :classes, classes:]
    if said is not None:
        seen = seen * said
    affinity = torch.stack([one[:, classes:, classes:] for one in attention]).sum(0)
    return seen @ affinity.transpose(1, 2)
