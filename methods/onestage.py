"""Single-stage segmentation from image labels (Araslanov and Roth, CVPR 2020), which brought PAMR."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional
from wsss_methods.pamr import PAMR, PAMRParams

from harness import Augment, Batch, Method, Phase, Step, TrainParams

STRIDE = 4  # pixels of an image per place of its masks
WIDTH = 256
_LAMBDA = 0.01  # within the logarithm of the penalty


class OneStageParams(TrainParams):
    """Settings of the single stage; the defaults are those of the authors' code, visinf/1-stage-wseg, on a ResNet-50.

    Attributes
    ----------
    mask_epoch : int
        The first epoch, from 0, in which the network learns its own refined masks.
    head_lr_factor : float
        New layers learn this much faster than the backbone.
    momentum, weight_decay : float
    gate : float
        How often a deep feature is replaced by a shallow one.
    focus : float
        Power of the penalty on small masks.
    iterations : int
        Of PAMR.
    dilations : tuple of int
        Of PAMR, in places of the masks.
    sure_background, sure_class, least : float
        A place is a label where it is above this share of the largest value of background or class, and above the last.
    background_power : float
        On the background when it is scored.
    """

    image_size: int = Field(448, ge=32)
    epochs: int = Field(20, ge=0)
    batch_size: int = Field(16, ge=1)
    lr: float = Field(5e-4, gt=0)
    mask_epoch: int = Field(5, ge=0)
    head_lr_factor: float = Field(10.0, gt=0)
    momentum: float = Field(0.9, ge=0, lt=1)
    weight_decay: float = Field(5e-4, ge=0)
    gate: float = Field(0.3, ge=0, lt=1)
    focus: float = Field(3.0, ge=0)
    iterations: int = Field(10, ge=1)
    dilations: tuple[int, ...] = (1, 2, 4, 8, 12, 24)
    sure_background: float = Field(0.7, gt=0, le=1)
    sure_class: float = Field(0.6, gt=0, le=1)
    least: float = Field(0.2, ge=0, le=1)
    background_power: float = Field(3.0, gt=0, json_schema_extra={"stage": "score"})


class OneStage(Method):
    """A segmentation network learns from image labels by pooling over its own masks, and from its refined masks.

    The score of a class is the mean of its logits weighted by its mask (nGWP), with a penalty on small masks (focal).
    From some epoch on, masks refined by PAMR, where they are sure, are the labels of a cross-entropy.
    """

    name = "onestage"
    cite = "araslanov2020single"
    output = "probability"
    background = True
    predicts_presence = True
    check_settings: ClassVar[Mapping[str, Any]] = {"mask_epoch": 0, "iterations": 1, "batch_size": 4}
    Params = OneStageParams

    params: OneStageParams

    def build(self, backbone: Any, num_classes: int) -> nn.Module:
        return OneStageNet(backbone, num_classes, self.params.gate)

    def phases(self, model: Any) -> list[Phase]:
        p = self.params
        old = {id(parameter) for parameter in model.backbone.parameters()}
        groups = [
            {"params": list(model.backbone.parameters()), "lr": p.lr},
            {"params": [q for q in model.parameters() if id(q) not in old], "lr": p.lr * p.head_lr_factor},
        ]
        options = {"momentum": p.momentum, "weight_decay": p.weight_decay}
        drawn = Augment(p.image_size, "area", (0.9, 1.0), 0.5, (0.3, 0.3, 0.3, 0.1))
        return [Phase(p.epochs, groups, "SGD", options, augment=drawn)]

    def training_step(self, model: Any, batch: Batch, step: Step) -> dict[str, Tensor]:
        p, logits = self.params, model(batch.images).float()
        scores = class_scores(logits, p.focus)
        losses = {"cls": functional.binary_cross_entropy_with_logits(scores, batch.labels[:, 1:])}
        if step.epoch >= p.mask_epoch:
            refined = self._refined(batch.images, logits.detach().softmax(1)) * batch.labels[:, :, None, None]
            labels = sure(refined, p.sure_background, p.sure_class, p.least)
            losses["mask"] = mask_loss(logits, labels, batch.labels)
        return losses

    @torch.no_grad()
    def _refined(self, images: Tensor, masks: Tensor) -> Tensor:
        """Return masks after PAMR, by the colours of the images at their grid."""
        small = functional.interpolate(images, masks.shape[-2:], mode="bilinear", align_corners=True)
        pamr = PAMR(PAMRParams(dilations=self.params.dilations, iterations=self.params.iterations))
        return pamr.refined(small, masks)

    def score(self, model: Any, images: Tensor, labels: Tensor | None) -> tuple[Tensor, Tensor]:
        logits = model(images).float()
        masks = logits.softmax(1)
        weaker = torch.cat([masks[:, :1] ** self.params.background_power, masks[:, 1:]], 1)
        return weaker / weaker.sum(1, keepdim=True), class_scores(logits, self.params.focus).sigmoid()


class OneStageNet(nn.Module):
    """A decoder over deep features, at several dilations, and shallow ones at stride 4 that may replace them (GCI)."""

    def __init__(self, backbone: Any, num_classes: int, gate: float) -> None:
        super().__init__()
        self.backbone, self.gate = backbone, gate
        self.level = 1 if backbone.family == "cnn" else 0
        dim, shallow = backbone.dim, backbone.dims[self.level]
        self.pyramid = nn.ModuleList(
            [nn.Conv2d(dim, WIDTH, 1), *(nn.Conv2d(dim, WIDTH, 3, padding=d, dilation=d) for d in (12, 24, 36))]
        )
        self.pooled = nn.Conv2d(dim, WIDTH, 1)
        self.fuse = nn.Sequential(nn.Conv2d(5 * WIDTH, WIDTH, 1), nn.ReLU(), nn.Dropout(0.5))
        self.skip = _block(shallow, 48, 1)
        self.deep = _block(WIDTH + 48, WIDTH, 3)
        self.context = _block(WIDTH, 2 * WIDTH, 1)
        self.plain = nn.Sequential(nn.Conv2d(shallow, WIDTH, 1, bias=False), nn.BatchNorm2d(WIDTH, affine=False))
        self.shallow = _block(WIDTH, WIDTH, 1)
        self.decoder = nn.Sequential(
            _block(WIDTH, WIDTH, 3), nn.Dropout(0.5), _block(WIDTH, WIDTH, 3), nn.Dropout(0.1),
            nn.Conv2d(WIDTH, num_classes - 1, 1),
        )  # fmt: skip

    def forward(self, images: Tensor) -> Tensor:
        """Return (B, K, H / 4, W / 4) logits of (B, 3, H, W) images; the background's is 1 everywhere."""
        features = self.backbone.features(images, levels=(self.level,))
        grid = [-(-side // STRIDE) for side in images.shape[-2:]]

        def enlarged(maps: Tensor) -> Tensor:
            return functional.interpolate(maps, grid, mode="bilinear", align_corners=False)

        dense = features.dense
        mean = self.pooled(dense.mean((2, 3), keepdim=True)).relu().expand(-1, -1, *dense.shape[-2:])
        fused = self.fuse(torch.cat([*(convolution(dense).relu() for convolution in self.pyramid), mean], 1))
        near = enlarged(features.levels[0])
        deep = self.deep(torch.cat([enlarged(fused), self.skip(near)], 1))
        gamma, beta = self.context(deep).amax((2, 3), keepdim=True).chunk(2, 1)
        shallow = self.shallow((self.plain(near) * (gamma + 1) + beta).relu())
        logits = self.decoder(self._gated(deep, shallow))
        return torch.cat([torch.ones_like(logits[:, :1]), logits], 1)

    def _gated(self, deep: Tensor, shallow: Tensor) -> Tensor:
        """Replace features by shallow ones, at random in training, in the mean otherwise."""
        if not self.training:
            return (1 - self.gate) * deep + self.gate * shallow
        kept = torch.rand_like(deep) >= self.gate
        return torch.where(kept, (deep - self.gate * shallow) / (1 - self.gate), shallow)


def _block(channels: int, width: int, size: int) -> nn.Sequential:
    convolution = nn.Conv2d(channels, width, size, padding=size // 2, bias=False)
    return nn.Sequential(convolution, nn.BatchNorm2d(width), nn.ReLU())


def class_scores(logits: Tensor, focus: float) -> Tensor:
    """Return (B, K - 1) scores of classes: means of logits weighted by masks, and the penalty on small masks.

    Parameters
    ----------
    logits : Tensor
        (B, K, h, w), background first.
    focus : float
    """
    masks = logits.softmax(1)
    pooled = (masks * logits).sum((2, 3)) / (1 + masks.sum((2, 3)))
    size = masks.mean((2, 3))
    return (pooled + (1 - size) ** focus * (_LAMBDA + size).log())[:, 1:]


def sure(masks: Tensor, background: float, classes: float, least: float) -> Tensor:
    """Return (B, h, w) labels where masks are sure; 255 where none is, or two are.

    Parameters
    ----------
    masks : Tensor
        (B, K, h, w), 0 for absent classes.
    background, classes : float
        Shares of a mask's largest value above which it is sure.
    least : float
        What it must be above in any case.
    """
    share = masks.new_full((1, masks.shape[1], 1, 1), classes)
    share[:, 0] = background
    above = masks > torch.maximum(masks.amax((2, 3), keepdim=True) * share, masks.new_tensor(least))
    return torch.where(above.sum(1) == 1, above.float().argmax(1), 255)


def mask_loss(logits: Tensor, labels: Tensor, present: Tensor) -> Tensor:
    """Return the cross-entropy of sure labels, rare ones weighted up, over images of which every class has some.

    Parameters
    ----------
    logits : Tensor
        (B, K, h, w).
    labels : Tensor
        (B, h, w); 255 counts nowhere but in the number of places.
    present : Tensor
        (B, K), the background first.
    """
    places = functional.one_hot(torch.where(labels < 255, labels, 0), logits.shape[1]) * (labels < 255)[..., None]
    counts = places.sum((1, 2)).to(logits.dtype)  # (B, K)
    known = counts.sum(1, keepdim=True)
    weights = (known - counts) / (1 + known)
    costs = -(logits.log_softmax(1) * places.permute(0, 3, 1, 2) * weights[:, :, None, None]).sum(1).mean((1, 2))
    complete = ((counts > 0) | (present == 0)).all(1)
    return (costs * complete).sum() / complete.sum().clamp(min=1)
