"""CLIP-ES (Lin et al., CVPR 2023): maps of CLIP, by the gradients of a softmax over texts; nothing is trained."""

from __future__ import annotations

from typing import Any

import torch
from pydantic import Field
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional
from wsss_methods.caa import affinity, spread

from harness import File, Method, Params, RunSpec, Session, TrainingData

SCALE = 100.0  # of CLIP's cosines
LEAST = 1e-30  # a map's range: of a class that is nearly sure gradients are small


class CLIPESParams(Params):
    """Settings of CLIP-ES; the defaults are those of the authors' code, linyq2117/CLIP-ES, on VOC.

    Attributes
    ----------
    inference_size : int
        Unless the protocol says `native`, as the authors' does.
    texts : File or None
        What `harness prepare text` makes: `classes`, (K, D) vectors in the dataset's order, `background`, (M, D), and
        `projection`, (D, width) from the backbone's features to theirs. Given by `--input`.
    blocks : int
        Last blocks whose attention spreads the maps; 0 leaves them as they are.
    normalisations : int
        How often columns and rows of that attention are made to sum to one.
    box : float
        Share of a map's maximum; what is outside the boxes around it does not spread. The authors have 0.7 for COCO.
    """

    inference_size: int = Field(512, ge=16, json_schema_extra={"stage": "score"})
    texts: File | None = None
    blocks: int = Field(8, ge=0, json_schema_extra={"stage": "score"})
    normalisations: int = Field(3, ge=0, json_schema_extra={"stage": "score"})
    box: float = Field(0.4, ge=0, le=1, json_schema_extra={"stage": "score"})


class CLIPES(Method):
    """Grad-CAM of a frozen CLIP for the chance of each class among the present classes and words for backgrounds.

    The gradient is that of the features before the last block's attention, of which a map is the weighted sum. Maps are
    then spread by what the patches attend to, see `caa`. Classes compete: more words for backgrounds mean less map.
    """

    name = "clip-es"
    cite = "lin2023clipes"
    families = ("vit",)
    supervision = ("image_labels", "text")
    predicts_presence = True
    conditions_on_labels = True
    needs_grad = True
    Params = CLIPESParams

    params: CLIPESParams

    @classmethod
    def skip(cls, spec: RunSpec) -> str | None:
        if not spec.params["texts"]:
            return "needs CLIP's text vectors: --input texts=FILE; see docs/methods/clip-es.md"
        return None if spec.weights != "random" else "CLIP at a random start knows nothing: give --weights"

    def background_rule(self, family: str) -> str:
        return "power:1"

    def build(self, backbone: Any, num_classes: int) -> nn.Module:
        assert self.params.texts
        return CLIPESNet(backbone, load_file(self.params.texts.path), num_classes - 1)

    def fit(self, model: Any, data: TrainingData, session: Session) -> None:
        """There is nothing to train."""

    def score(self, model: Any, images: Tensor, labels: Tensor | None) -> tuple[Tensor, Tensor]:
        p = self.params
        count = len(model.backbone.dims)
        logits, watched, attention = model(images, range(max(0, count - p.blocks), count))
        present = logits.new_ones(len(images), len(model.classes)) if labels is None else labels[:, 1:]
        chances = competing(logits, present)
        maps = torch.zeros(*present.shape, *model.grid(images), device=images.device)
        for number in present.any(0).nonzero()[:, 0].tolist():
            (gradient,) = torch.autograd.grad(chances[:, number].sum(), watched, retain_graph=True)
            maps[:, number] = activation(watched, gradient, model.prefix).view_as(maps[:, number])
        maps = (maps * present[:, :, None, None]).detach()
        if attention is not None:
            pairs = zip(maps, attention, strict=True)
            maps = torch.stack([spread(own, affinity(weights, p.normalisations), p.box) for own, weights in pairs])
        low = maps.amin((2, 3), keepdim=True)
        classes = len(model.classes)
        against = logits[:, classes:].logsumexp(1, keepdim=True)  # of all backgrounds together
        presence = (logits[:, :classes] - against).sigmoid().detach()
        return (maps - low) / (maps.amax((2, 3), keepdim=True) - low).clamp(min=LEAST), presence


class CLIPESNet(nn.Module):
    """CLIP's image tower, frozen, and vectors of texts."""

    classes: Tensor
    background: Tensor
    projection: Tensor

    def __init__(self, backbone: Any, texts: dict[str, Tensor], classes: int) -> None:
        super().__init__()
        self.backbone = backbone.requires_grad_(False)
        self.prefix = backbone.net.num_prefix_tokens
        for name in ("classes", "background"):
            self.register_buffer(name, functional.normalize(texts[name].float(), dim=1))
        self.register_buffer("projection", texts["projection"].float())
        if len(self.classes) != classes:
            raise ValueError(f"the texts are of {len(self.classes)} classes, the dataset has {classes}")
        if self.projection.shape != (self.classes.shape[1], backbone.dim):
            raise ValueError(f"the texts are of a CLIP with a width of {self.projection.shape[1]}, not {backbone.dim}")

    def grid(self, images: Tensor) -> tuple[int, int]:
        """Return how many patches images have, down and across."""
        down, across = (-(-side // self.backbone.stride) for side in images.shape[-2:])
        return down, across

    def forward(self, images: Tensor, blocks: range) -> tuple[Tensor, Tensor, Tensor | None]:
        """Return (B, K + M) logits, the features that maps are made of, and the mean attention between patches.

        Parameters
        ----------
        images : Tensor
            (B, 3, H, W).
        blocks : range
            Whose attention.

        Returns
        -------
        logits : Tensor
            (B, K + M) of classes, then of backgrounds: 100 times the cosine of the mean patch.
        watched : Tensor
            (B, prefix + h * w, width) what enters the last block's attention, to take gradients by.
        attention : Tensor or None
            (B, h * w, h * w).
        """
        kept: list[Tensor] = []

        def watch(_: nn.Module, __: Any, output: Tensor) -> Tensor:
            kept.append(output.detach().requires_grad_())
            return kept[0]

        hook = self.backbone.net.blocks[-1].norm1.register_forward_hook(watch)
        try:
            features = self.backbone.features(images, attention=tuple(blocks))
        finally:
            hook.remove()
        vectors = functional.normalize(features.dense.mean((2, 3)).float() @ self.projection.T, dim=1)
        logits = SCALE * vectors @ torch.cat([self.classes, self.background]).T
        patches = features.dense[0, 0].numel()
        shares = [one[..., -patches:, -patches:].mean(1).detach().float() for one in features.attention]
        return logits, kept[0], sum(shares, torch.zeros_like(shares[0])) / len(shares) if shares else None


def competing(logits: Tensor, present: Tensor) -> Tensor:
    """Return (B, K + M) chances among present classes and all backgrounds.

    Parameters
    ----------
    logits : Tensor
        (B, K + M).
    present : Tensor
        (B, K); what is 0 takes no part.
    """
    absent = functional.pad(present == 0, (0, logits.shape[1] - present.shape[1]))
    return logits.masked_fill(absent, -torch.inf).softmax(1)


def activation(watched: Tensor, gradient: Tensor, prefix: int) -> Tensor:
    """Return (B, N) maps: patches times the mean gradient of patches, without what is negative, from 0 to 1.

    Parameters
    ----------
    watched, gradient : Tensor
        (B, prefix + N, D).
    prefix : int
        Tokens before the patches.
    """
    weight = gradient[:, prefix:].mean(1)
    maps = (watched[:, prefix:].detach() @ weight[:, :, None])[..., 0].relu().float()
    low = maps.amin(1, keepdim=True)
    return (maps - low) / (maps.amax(1, keepdim=True) - low).clamp(min=LEAST)
