"""AFA (Ru et al., CVPR 2022): affinity learned from a transformer's attention refines the labels of its own head."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional
from wsss_methods.single_stage import HalfSize, multi_scale, split_loss, stretched, warm_poly

from harness import Augment, Batch, Method, Phase, Step, TrainParams


class AFAParams(TrainParams):
    """Settings of AFA; the defaults are those of the authors' code, rulixiang/afa, on VOC.

    Attributes
    ----------
    epochs, batch_size : int
        20,000 steps of 4 images.
    warmup : float
        Share of the training in which the learning rate rises.
    segment_from, spread_from : float
        Shares of the training after which head and affinity learn, and after which the head's labels are spread.
    head_lr_factor, weight_decay : float
    high, low : float
        Backgrounds: a place is a class against the first, and background against both.
    radius : int
        How far apart, in rows and columns, places are that affinity is between.
    segmentation, affinity : float
        Weights of these losses.
    """

    image_size: int = Field(512, ge=32)
    epochs: int = Field(8, ge=0)
    batch_size: int = Field(4, ge=1)
    lr: float = Field(6e-5, gt=0)
    warmup: float = Field(0.075, ge=0, lt=1)
    segment_from: float = Field(0.1, ge=0, le=1)
    spread_from: float = Field(0.3, ge=0, le=1)
    head_lr_factor: float = Field(10.0, gt=0)
    weight_decay: float = Field(0.01, ge=0)
    high: float = Field(0.55, ge=0, le=1)
    low: float = Field(0.35, ge=0, le=1)
    radius: int = Field(8, ge=1)
    segmentation: float = Field(0.1, ge=0)
    affinity: float = Field(0.1, ge=0)


class AFA(Method):
    """What patches attend to in the last two blocks becomes the affinity of pairs, and spreads the maps of classes.

    CAMs refined by PAR say which pairs of near places are alike; the affinity learns them. Later the maps are spread by
    it once, refined by PAR, and where they are sure train the segmentation head, which is scored.
    """

    name = "afa"
    cite = "ru2022afa"
    families = ("vit",)
    output = "probability"
    background = True
    predicts_presence = True
    check_settings: ClassVar[Mapping[str, Any]] = {"segment_from": 0.0, "spread_from": 0.0, "radius": 2}
    Params = AFAParams

    params: AFAParams

    def build(self, backbone: Any, num_classes: int) -> nn.Module:
        return AFANet(backbone, num_classes)

    def phases(self, model: Any) -> list[Phase]:
        p = self.params
        norms = {id(q) for m in model.backbone.modules() if isinstance(m, nn.LayerNorm) for q in m.parameters()}
        own = [q for q in model.backbone.parameters() if id(q) not in norms]
        new = [q for name, q in model.named_parameters() if not name.startswith("backbone.")]
        groups = [{"params": own, "lr": p.lr}, {"params": new, "lr": p.lr * p.head_lr_factor}]
        drawn = Augment(p.image_size, "scale", (0.5, 2.0), 0.5)
        options = {"weight_decay": p.weight_decay}
        return [Phase(p.epochs, groups, "AdamW", options, lambda done: warm_poly(done, p.warmup, 1.0), drawn)]

    def training_step(self, model: Any, batch: Batch, step: Step) -> dict[str, Tensor]:
        p, present = self.params, batch.labels[:, 1:]
        seen = model(batch.images, affinity=True)
        losses = {"cls": functional.binary_cross_entropy_with_logits(seen["logits"].float(), present)}
        if step.iteration < p.segment_from * step.total:
            return losses
        affinity, grid = seen["affinity"].float(), seen["grid"]
        near = window(grid[0], grid[1], p.radius, affinity.device)
        with torch.no_grad():
            (cams,) = multi_scale(lambda images: (model.maps(images),), batch.images)
            cams = stretched(cams) * present[:, :, None, None]
            refiner = HalfSize(batch)
            labels = wanted = refiner.labels(cams, p.high, p.low)
            if step.iteration >= p.spread_from * step.total:
                wanted = refiner.labels(cams, p.high, p.low, Spread(affinity, near, grid))
        coarse = functional.interpolate(labels[:, None].float(), grid).long()[:, 0]
        enlarged = functional.interpolate(seen["segmentation"].float(), wanted.shape[-2:], mode="bilinear")
        losses["affinity"] = p.affinity * affinity_loss(affinity, coarse, near)
        losses["segmentation"] = p.segmentation * split_loss(enlarged, wanted)
        return losses

    def score(self, model: Any, images: Tensor, labels: Tensor | None) -> tuple[Tensor, Tensor]:
        seen = model(images)
        return seen["segmentation"].float().softmax(1), seen["logits"].sigmoid()


class AFANet(nn.Module):
    """A ViT with a classifier of its patches' maxima, a head over four blocks, and an affinity from its attention."""

    def __init__(self, backbone: Any, num_classes: int) -> None:
        super().__init__()
        self.backbone = backbone
        count = len(backbone.dims)
        self.blocks = tuple(range(-min(2, count), 0))
        self.levels = [round((place + 1) * count / 4) - 1 for place in range(4)]
        self.classifier = nn.Conv2d(backbone.dim, num_classes - 1, 1, bias=False)
        self.sides = nn.ModuleList(nn.Conv2d(backbone.dims[level], 256, 1) for level in self.levels)
        self.head = nn.Sequential(
            nn.Conv2d(1024, 256, 1, bias=False), nn.BatchNorm2d(256), nn.ReLU(), nn.Dropout2d(0.1),
            nn.Conv2d(256, num_classes, 1),
        )  # fmt: skip
        self.pairs = nn.Conv2d(len(self.blocks) * backbone.num_heads, 1, 1)

    def forward(self, images: Tensor, affinity: bool = False) -> dict[str, Any]:
        """Return logits by maximum, of the segmentation, and (B, N, N) affinities of the N patches if wanted."""
        blocks = self.blocks if affinity else ()
        features = self.backbone.features(images, levels=self.levels, attention=blocks, logits=True)
        finest = features.levels[0].shape[-2:]  # a ViT's are all alike
        seen = (side(level) for side, level in zip(self.sides, features.levels, strict=True))
        joined = torch.cat([functional.interpolate(one, finest, mode="bilinear") for one in seen], 1)
        found = {
            "logits": self.classifier(features.dense.amax((2, 3), keepdim=True))[:, :, 0, 0],
            "segmentation": self.head(joined),
            "grid": features.dense.shape[-2:],
        }
        if affinity:
            patches = features.dense[0, 0].numel()
            scale = (self.backbone.dim / self.backbone.num_heads) ** 0.5  # the authors' products have none
            raw = torch.cat([one[..., -patches:, -patches:] for one in features.attention], 1) * scale
            found["affinity"] = self.pairs(raw + raw.transpose(2, 3))[:, 0].sigmoid()
        return found

    def maps(self, images: Tensor) -> Tensor:
        """Return (B, K, h, w) maps of the classifier."""
        return self.classifier(self.backbone(images))


class Spread:
    """Spreads scores of images to places of high affinity, once.

    Parameters
    ----------
    affinity : Tensor
        (B, N, N).
    near : Tensor
        (N, N) bool: between which places there is any.
    grid : tuple of int
    """

    def __init__(self, affinity: Tensor, near: Tensor, grid: Any) -> None:
        self.weights = transition(affinity.detach(), near)
        self.grid = grid

    def __call__(self, scores: Tensor) -> Tensor:
        small = functional.interpolate(scores, self.grid, mode="bilinear", align_corners=False)
        there = (small.flatten(2) @ self.weights).view_as(small)
        return functional.interpolate(there, scores.shape[-2:], mode="bilinear", align_corners=False)


def transition(affinity: Tensor, near: Tensor) -> Tensor:
    """Return (B, N, N) squared affinities of near places, each column divided by its sum and 0.1."""
    strong = affinity.square() * near
    return strong / (strong.sum(1, keepdim=True) + 0.1)


def window(height: int, width: int, radius: int, device: Any = None) -> Tensor:
    """Return (N, N) bool: which places are at most a radius of rows and columns apart; a place is near to itself."""
    rows = torch.arange(height, device=device).repeat_interleave(width)
    columns = torch.arange(width, device=device).repeat(height)
    return ((rows[:, None] - rows).abs() <= radius) & ((columns[:, None] - columns).abs() <= radius)


def affinity_loss(affinity: Tensor, labels: Tensor, near: Tensor) -> Tensor:
    """Return half the mean of 1 - affinity over pairs of one label, and half that of affinity over other pairs.

    Parameters
    ----------
    affinity : Tensor
        (B, N, N).
    labels : Tensor
        (B, h, w); 255 takes no part.
    near : Tensor
        (N, N) bool.
    """
    own = labels.flatten(1)
    known = (own[:, :, None] < 255) & (own[:, None] < 255) & near
    same = own[:, :, None] == own[:, None]
    like, unlike = known & same, known & ~same
    alike = ((1 - affinity) * like).sum() / (like.sum() + 1)
    return (alike + (affinity * unlike).sum() / (unlike.sum() + 1)) / 2
