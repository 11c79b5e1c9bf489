"""ViT-PCM (Rossetti et al., ECCV 2022): classified patches, tied to the image labels by global max pooling."""

from __future__ import annotations

from typing import Any, Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn
from wsss_methods.vitpcm import losses, views
from wsss_methods.vitpcm.model import PCMNet

from harness import Batch, Method, Phase, Step, TrainParams

# What the paper's text says where the official code does otherwise; it is silent on the rest.
PAPER = {
    "warmup_epochs": 2,
    "unfreeze_blocks": 4,
    "l2": 0.1,
    "init_std": 1.0,
    "target": "merged",
    "sharpen": False,
}


class VitPCMParams(TrainParams):
    """Settings of ViT-PCM; the defaults are those of the official code.

    Attributes
    ----------
    variant : {"code", "paper"}
        Whose word is taken where code and paper disagree, for the settings that are not given themselves:
        `warmup_epochs`, `unfreeze_blocks`, `l2`, `init_std`, `target` and `sharpen`.
    equivariance : bool
        Whether L_ET and its second branch take part.
    hv_bilstm : bool
        Whether the HV-BiLSTM conditions the patches.
    hidden : int
        Width of each of its LSTMs.
    dropout : float
        Around the HV-BiLSTM.
    backbone_dropout : float
        After attention and in the MLPs of a ViT, in frozen blocks too.
    init_std, l2 : float
        Of the classifier's kernel: standard deviation at the start, and weight of its squared norm in the loss.
    warmup_epochs : int
        Epochs with a frozen backbone, at `warmup_lr`.
    unfreeze_blocks : int or "all"
        How many of a ViT's last blocks are trained after that, with its last norm, at `lr`; a CNN is trained whole.
    target : {"plain", "merged"}
        Which branch is the target of L_ET: the first one, or that of the merged images.
    sharpen : bool
        Whether the target is masked by the image labels and stretched to a maximum of 1 per class.
    crop_probability : float
        Of a crop in the second branch.
    flip_lr, flip_ud, transpose : float
        Probabilities with which an image is mirrored left to right, upside down, and transposed, in each branch.
    jitter : bool
        Whether colours are changed, in each branch.
    """

    variant: Literal["code", "paper"] = "code"
    image_size: int = Field(384, ge=64)
    inference_size: int = Field(960, ge=16, json_schema_extra={"stage": "score"})
    epochs: int = Field(80, ge=0)
    batch_size: int = Field(16, ge=4, multiple_of=4)
    accumulate: int = Field(4, ge=1)
    lr: float = Field(1e-4, gt=0)
    equivariance: bool = True
    hv_bilstm: bool = True
    hidden: int = Field(192, ge=1)
    dropout: float = Field(0.2, ge=0, lt=1)
    backbone_dropout: float = Field(0.1, ge=0, lt=1)
    init_std: float = Field(0.05, gt=0)
    l2: float = Field(0.01, ge=0)
    warmup_epochs: int = Field(1, ge=0)
    warmup_lr: float = Field(1e-3, gt=0)
    unfreeze_blocks: int | Literal["all"] = 5
    target: Literal["plain", "merged"] = "plain"
    sharpen: bool = True
    crop_probability: float = Field(0.3, ge=0, le=1)
    flip_lr: float = Field(0.5, ge=0, le=1)
    flip_ud: float = Field(0.5, ge=0, le=1)
    transpose: float = Field(0.5, ge=0, le=1)
    jitter: bool = True

    @model_validator(mode="before")
    @classmethod
    def _take_the_papers_word(cls, values: Any) -> Any:
        return PAPER | values if values.get("variant") == "paper" else values


class VitPCM(Method):
    """Patch-class mapping by global max pooling over ViT patches, with an equivariant second branch."""

    name = "vitpcm"
    cite = "rossetti2022vitpcm"
    output = "probability"
    background = True
    predicts_presence = True
    splittable = True
    Params = VitPCMParams

    params: VitPCMParams

    def backbone_options(self, family: str) -> dict[str, Any]:
        return {"proj_drop_rate": self.params.backbone_dropout} if family == "vit" else {}

    def build(self, backbone: Any, num_classes: int) -> nn.Module:
        p = self.params
        return PCMNet(backbone, num_classes, p.hidden if p.hv_bilstm else 0, p.dropout, p.init_std)

    def phases(self, model: Any) -> list[Phase]:
        p = self.params
        warmup = min(p.warmup_epochs, p.epochs)
        head = model.head_parameters()
        return [
            Phase(warmup, [{"params": head, "lr": p.warmup_lr}], options={"eps": losses.EPSILON}),
            Phase(
                p.epochs - warmup,
                [{"params": [*head, *self._unfrozen(model.backbone)], "lr": p.lr}],
                options={"eps": losses.EPSILON},
            ),
        ]

    def _unfrozen(self, backbone: Any) -> list[nn.Parameter]:
        if backbone.family == "cnn" or self.params.unfreeze_blocks == "all":
            return list(backbone.parameters())
        blocks = backbone.net.blocks[len(backbone.net.blocks) - self.params.unfreeze_blocks :]
        return [*blocks.parameters(), *backbone.net.norm.parameters()]

    def training_step(self, model: Any, batch: Batch, step: Step) -> dict[str, Tensor]:
        p = self.params
        grid = p.image_size // model.backbone.stride
        flips = views.constant((p.flip_lr, p.flip_ud, p.transpose), batch.images.device)
        plain = views.draw_plain(len(batch.images), grid, flips)
        shown = plain.turn(self._recolour(batch.images))
        own = model(shown).float()
        losses_of = {
            "mce": losses.mce(losses.pool(own), batch.labels),
            "l2": p.l2 * model.classifier.weight.square().sum(),
        }
        if p.equivariance:
            small = views.draw_small(len(shown), grid, max(2, round(grid / 3)), grid // 2, p.crop_probability, flips)
            merged = views.merge(small.show(self._recolour(batch.images), model.backbone.stride))
            losses_of["et"] = self._equivariance(model, batch.labels, (plain, shown, own), (small, merged))
        return losses_of

    def _equivariance(
        self, model: Any, labels: Tensor, first: tuple[views.View, Tensor, Tensor], second: tuple[views.View, Tensor]
    ) -> Tensor:
        """Return L_ET: one branch without dropout and gradient is the target of the other.

        The code compares in the frame of the merged branch, where every patch was seen by both; the paper brings both
        branches back to the frame of the image, where a crop leaves patches that only one has seen.
        """
        plain, shown, own = first
        small, merged = second
        seen = None
        if self.params.target == "plain":
            target = small.show(plain.unturn(_inference(model, shown)))
            student = views.split(model(merged).float())
        else:
            target, seen = small.back(views.split(_inference(model, merged)), own.shape[-1])
            student = plain.unturn(own)
        if self.params.sharpen:
            target = losses.sharpen(target, labels)
        return losses.equivariance(student, target, seen)

    def _recolour(self, images: Tensor) -> Tensor:
        return views.jitter(images) if self.params.jitter else images

    def score(self, model: Any, images: Tensor, labels: Tensor | None) -> tuple[Tensor, Tensor]:
        probabilities = model(images)
        return probabilities, losses.pool(probabilities)[:, 1:]


@torch.no_grad()
def _inference(model: Any, images: Tensor) -> Tensor:
    """Return the model's probabilities without dropout and without gradient."""
    model.eval()
    probabilities = model(images).float()
    model.train()
    return probabilities
