"""EDAM (Wu et al., CVPR 2021): masks of classes, learned by judging what each of them lets through of two images."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional
from wsss_methods.field import FieldMethod, FieldParams, mean_padded

from harness import Batch, Phase, Step


class EDAMParams(FieldParams):
    """Settings of EDAM; the defaults are those of the authors' code, allenwu97/EDAM.

    Attributes
    ----------
    width, heads, hidden : int
        Of the transformer of each class: channels, heads of attention, and channels between its last two layers.
    dropout : float
        In the transformers.
    """

    image_size: int = Field(368, ge=32)
    shortest: int = Field(256, ge=16)
    longest: int = Field(512, ge=16)
    jitter: float = Field(0.3, ge=0, le=1)
    epochs: int = Field(25, ge=0)
    batch_size: int = Field(8, ge=2)
    lr: float = Field(1e-3, gt=0)
    weight_decay: float = Field(5e-4, ge=0)
    width: int = Field(128, ge=4)
    heads: int = Field(2, ge=1)
    hidden: int = Field(512, ge=1)
    dropout: float = Field(0.1, ge=0, lt=1)


class EDAM(FieldMethod):
    """Masks of classes are learned as gates: what one lets through of two images must be enough to tell their class.

    At each place the masks of all classes and of a background nobody asks for have length 1 together. For each class a
    small transformer looks at the features of an image and of a partner that shares a class, times the class's mask.
    """

    name = "edam"
    cite = "wu2021edam"
    predicts_presence = True
    Params = EDAMParams

    params: EDAMParams

    def background_rule(self, family: str) -> str:
        return "fixed:0.5"

    def build(self, backbone: Any, num_classes: int) -> nn.Module:
        backbone.freeze_norms()
        return EDAMNet(backbone, num_classes - 1, self.params)

    def phases(self, model: Any) -> list[Phase]:
        p = self.params
        fast = [*model.masking.parameters(), *model.embedding.parameters(), *model.classifiers.parameters()]
        phase = self.sgd(p.epochs, [*model.backbone.parameters(), *model.transformers.parameters(), model.which], fast)
        return [replace(phase, options={"momentum": 0.9, "weight_decay": p.weight_decay}, pairs=True)]

    def training_step(self, model: Any, batch: Batch, step: Step) -> dict[str, Tensor]:
        half = len(batch.ids) // 2  # partners stand behind their images
        masks, embedded = model(mean_padded(batch, model.backbone))
        one, other = (masks[:half], embedded[:half]), (masks[half:], embedded[half:])
        logits = torch.cat([model.judged(*one, *other), model.judged(*other, *one)]).float()
        return {"bce": functional.binary_cross_entropy_with_logits(logits, batch.labels[:, 1:])}

    def score(self, model: Any, images: Tensor, labels: Tensor | None) -> tuple[Tensor, Tensor]:
        masks, embedded = model(images)
        return masks[:, :-1], model.judged(masks, embedded, masks, embedded).sigmoid()


class EDAMNet(nn.Module):
    """A backbone, a layer of masks, an embedding, and a transformer and a classifier for each class."""

    def __init__(self, backbone: Any, classes: int, params: EDAMParams) -> None:
        super().__init__()
        self.backbone = backbone
        self.masking = nn.Conv2d(backbone.dim, classes + 1, 3, padding=1, bias=False)
        self.embedding = nn.Conv2d(backbone.dim, params.width, 1)
        self.transformers = nn.ModuleList(
            nn.TransformerEncoderLayer(
                params.width, params.heads, params.hidden, params.dropout, batch_first=True, norm_first=True
            )
            for _ in range(classes)
        )
        self.which = nn.Parameter(0.02 * torch.randn(2, params.width))  # tells the image from its partner
        self.classifiers = nn.ModuleList(nn.Linear(params.width, 1) for _ in range(classes))

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Return (B, K + 1, h, w) masks, the background last, and (B, D, h, w) embedded features."""
        features = self.backbone(images)
        return normed(self.masking(features)), self.embedding(features)

    def judged(self, masks: Tensor, embedded: Tensor, other_masks: Tensor, other: Tensor) -> Tensor:
        """Return (B, K) logits of the classes of images, seen together with partners.

        Parameters
        ----------
        masks, embedded, other_masks, other : Tensor
            Of images, and of their partners, as `forward` gives them.
        """
        place = positions(embedded.shape[1], *embedded.shape[-2:]).to(embedded)
        logits = []
        for number, (transformer, classifier) in enumerate(zip(self.transformers, self.classifiers, strict=True)):
            parts = [gate[:, number, None] * seen + place for gate, seen in ((masks, embedded), (other_masks, other))]
            first, second = (part.flatten(2).transpose(1, 2) for part in parts)
            tokens = torch.cat([first + self.which[0], second + self.which[1]], 1)
            count = first.shape[1]
            logits.append(classifier(transformer(tokens)[:, :count].mean(1)))
        return torch.cat(logits, 1)


def normed(maps: Tensor) -> Tensor:
    """Return the absolute values of (B, C, h, w) maps at length 1 over the channels."""
    return functional.normalize(maps.float(), dim=1).abs()


def positions(width: int, height: int, wide: int) -> Tensor:
    """Return (width, height, wide) sines and cosines of places: half of the channels for rows, half for columns."""
    quarter = max(1, width // 4)
    rates = 10000.0 ** (-torch.arange(quarter) / quarter)

    def waves(count: int) -> Tensor:
        angles = torch.arange(count)[None] * rates[:, None]
        return torch.cat([angles.sin(), angles.cos()])

    rows = waves(height)[:, :, None].expand(-1, -1, wide)
    columns = waves(wide)[:, None].expand(-1, height, -1)
    both = torch.cat([rows, columns])
    return functional.pad(both, (0, 0, 0, 0, 0, max(0, width - len(both))))[:width]
