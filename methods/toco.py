"""ToCo (Ru et al., CVPR 2023): a ViT whose tokens are kept apart, and whose CAMs train its segmentation head."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils.parametrizations import weight_norm
from wsss_methods.single_stage import HalfSize, split_loss
from wsss_methods.student import Student, StudentParams, gated_maps, token_contrast, token_labels
from wsss_methods.vitpcm.views import jitter

from harness import Batch, Method, Params, Phase, Step


class ToCoParams(StudentParams):
    """Settings of ToCo; the defaults are those of the authors' code, rulixiang/ToCo, on VOC.

    Attributes
    ----------
    crops : float
        Weight of the loss on class tokens of crops (CTC).
    local_crops, local_size : int
        How many crops, and their side in pixels.
    temperature : float
        Of CTC.
    momentum : float
        Of the teacher of the projection.
    """

    crops: float = Field(0.5, ge=0)
    local_crops: int = Field(8, ge=0)
    local_size: int = Field(96, ge=16)
    temperature: float = Field(0.5, gt=0)
    momentum: float = Field(0.9, ge=0, lt=1)


class ToCo(Method):
    """Maps of an intermediate block say which final tokens must differ, and which crops show no more than background.

    Patch tokens of one pseudo-label are pulled together, of two pushed apart (PTC). Class tokens of uncertain crops are
    pulled to that of the whole image, those of background crops pushed from it (CTC). CAMs of the last block, refined
    by PAR where they are sure, train the segmentation head, which is scored.
    """

    name = "toco"
    cite = "ru2023toco"
    families = ("vit",)
    output = "probability"
    background = True
    predicts_presence = True
    check_settings: ClassVar[Mapping[str, Any]] = {"local_crops": 2, "segment_from": 0.0}
    Params = ToCoParams

    params: ToCoParams

    def build(self, backbone: Any, num_classes: int) -> nn.Module:
        return ToCoNet(backbone, num_classes, self.params.level)

    def phases(self, model: Any) -> list[Phase]:
        own = [q for name, q in model.backbone.named_parameters() if not name.endswith("pos_embed")]
        return [self.params.phase(own, model.new_parameters())]

    def training_step(self, model: Any, batch: Batch, step: Step) -> dict[str, Tensor]:
        p, present = self.params, batch.labels[:, 1:]
        seen = model(batch.images)
        cams, auxiliary = gated_maps(model, batch)
        labels = token_labels(auxiliary, batch, seen["dense"].shape[-2:], p.high, p.low)
        losses = {
            "cls": functional.binary_cross_entropy_with_logits(seen["logits"].float(), present),
            "aux": functional.binary_cross_entropy_with_logits(seen["auxiliary"].float(), present),
            "tokens": p.tokens * token_contrast(seen["dense"].float(), labels),
        }
        if p.crops and p.local_crops:
            losses["crops"] = p.crops * self._crops(model, batch.images, auxiliary, seen["token"])
        if step.iteration >= p.segment_from * step.total:
            wanted = HalfSize(batch).labels(cams, p.high, p.low)
            enlarged = functional.interpolate(seen["segmentation"].float(), wanted.shape[-2:], mode="bilinear")
            losses["segmentation"] = p.segmentation * split_loss(enlarged, wanted)
        return losses

    def _crops(self, model: Any, images: Tensor, auxiliary: Tensor, token: Tensor) -> Tensor:
        """Return CTC over the image, a recoloured mirror of it, and crops of where the maps are not sure of a class."""
        p, side = self.params, min(self.params.local_size, *images.shape[-2:])
        strongest = functional.interpolate(auxiliary.amax(1, keepdim=True), images.shape[-2:], mode="bilinear")[:, 0]
        codes = torch.bucketize(strongest, strongest.new_tensor([p.low, p.high])).float()
        crops, flags = [], []
        for _ in range(p.local_crops):
            places = draw_places(codes < 2, side)
            crops.append(cut(images, places, side))
            flags.append(cut(codes[:, None], places, side).mean((1, 2, 3)) > 0.2)  # more than background
        model.follow(p.momentum)
        other = model.backbone.features(jitter(images).flip(3).clamp(0, 1)).tokens[:, 0]
        local = model.backbone.features(torch.cat(crops)).tokens[:, 0].chunk(p.local_crops)
        student = torch.stack([model.student(one) for one in (token, other, *local)], 1)
        with torch.no_grad():
            teacher = torch.stack([model.teacher(one) for one in (token, other)], 1)
        sure = torch.ones(len(images), 2, dtype=torch.bool, device=images.device)
        return crop_contrast(
            student.float(), teacher.float(), torch.cat([sure, torch.stack(flags, 1)], 1), p.temperature
        )

    def score(self, model: Any, images: Tensor, labels: Tensor | None) -> tuple[Tensor, Tensor]:
        seen = model(images)
        return seen["segmentation"].float().softmax(1), seen["logits"].sigmoid()


class ToCoCAMParams(Params):
    """Settings of the maps of ToCo.

    Attributes
    ----------
    read : {"final", "auxiliary"}
        Of which classifier.
    """

    read: Literal["final", "auxiliary"] = Field("final", json_schema_extra={"stage": "score"})


class ToCoCAM(Method):
    """ToCo's trained model, read by the maps of its classifier instead of its segmentation head."""

    name = "toco-cam"
    cite = "ru2023toco"
    families = ("vit",)
    parent = "toco"
    predicts_presence = True
    Params = ToCoCAMParams

    params: ToCoCAMParams

    def background_rule(self, family: str) -> str:
        return "fixed:0.5"

    def build_from(self, parent: Any, backbone: Any, num_classes: int) -> nn.Module:
        model: nn.Module = parent
        return model

    def phases(self, model: Any) -> list[Phase]:
        return []

    def score(self, model: Any, images: Tensor, labels: Tensor | None) -> tuple[Tensor, Tensor]:
        maps = model.maps(images)[self.params.read == "auxiliary"]
        return maps.relu(), model(images)["logits"].sigmoid()


class ToCoNet(Student):
    """A student with a projection of class tokens, and the projection's teacher."""

    def __init__(self, backbone: Any, num_classes: int, level: int) -> None:
        super().__init__(backbone, num_classes, level)
        self.student, self.teacher = Projection(backbone.dim), Projection(backbone.dim)
        self.teacher.load_state_dict(self.student.state_dict())

    def new_parameters(self) -> list[nn.Parameter]:
        return [*super().new_parameters(), *(q for q in self.student.parameters() if q is not self.student.gain)]

    @torch.no_grad()
    def follow(self, momentum: float) -> None:
        """Let the teacher follow the student."""
        for slow, fast in zip(self.teacher.parameters(), self.student.parameters(), strict=True):
            slow.lerp_(fast, 1 - momentum)


class Projection(nn.Module):
    """Three layers, a vector of length 1, and a layer whose rows have length 1."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(dim, 2048), nn.GELU(), nn.Linear(2048, 2048), nn.GELU(), nn.Linear(2048, 256)
        )
        for layer in self.layers:
            if isinstance(layer, nn.Linear):
                nn.init.trunc_normal_(layer.weight, std=0.02)
                nn.init.zeros_(layer.bias)
        self.last = weight_norm(nn.Linear(256, 1024, bias=False))
        nn.init.ones_(self.gain)

    @property
    def gain(self) -> nn.Parameter:
        """The lengths of the last layer's rows, which stay."""
        lengths: nn.Parameter = self.last.parametrizations.weight.original0
        return lengths

    def forward(self, tokens: Tensor) -> Tensor:
        return self.last(functional.normalize(self.layers(tokens), dim=-1))


def crop_contrast(student: Tensor, teacher: Tensor, flags: Tensor, temperature: float) -> Tensor:
    """Return CTC: views that show the image's classes should be near the whole image, background views far from it.

    Parameters
    ----------
    student : Tensor
        (B, V, D) projections of all views.
    teacher : Tensor
        (B, T, D) of whole images, without gradient.
    flags : Tensor
        (B, V) bool: whether a view shows more than background.
    temperature : float
    """
    near = (teacher @ student.transpose(1, 2) / temperature).exp()  # (B, T, V)
    far = (near * ~flags[:, None]).sum(2, keepdim=True) + 1e-4
    costs = -(near / (near + far)).log() * flags[:, None]
    whole = costs.sum(2) + (1 + far[:, :, 0]).log()
    return (whole.mean(1) / flags.sum(1).clamp(min=1)).mean()


def draw_places(wanted: Tensor, side: int) -> Tensor:
    """Return (B, 2) top left corners of squares centred at a random wanted pixel, or anywhere where none is wanted."""
    height, width = wanted.shape[1:]
    odds = wanted.flatten(1).float()
    odds = torch.where(odds.any(1, keepdim=True), odds, torch.ones_like(odds))
    centre = torch.multinomial(odds, 1)[:, 0]
    return torch.stack([
        (centre // width - side // 2).clamp(0, height - side), (centre % width - side // 2).clamp(0, width - side),
    ], 1)  # fmt: skip


def cut(maps: Tensor, places: Tensor, side: int) -> Tensor:
    """Return (B, C, side, side) squares of (B, C, H, W) maps at their corners."""
    rows = places[:, 0, None] + torch.arange(side, device=maps.device)
    columns = places[:, 1, None] + torch.arange(side, device=maps.device)
    batch = torch.arange(len(maps), device=maps.device)[:, None, None]
    return maps.permute(0, 2, 3, 1)[batch, rows[:, :, None], columns[:, None]].permute(0, 3, 1, 2)
