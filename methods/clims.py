"""CLIMS (Xie et al., CVPR 2022): maps that CLIP agrees with, on what they keep of an image and on what they leave."""

from __future__ import annotations

from typing import Any

from pydantic import Field
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional
from wsss_methods.field import FieldMethod, FieldParams, mean_padded

from harness import Batch, File, Phase, RunSpec, Step, build_tower

SIDE = 224  # of what CLIP sees


class CLIMSParams(FieldParams):
    """Settings of CLIMS; the defaults are those of the authors' code, CVI-SZU/CLIMS, on VOC.

    Attributes
    ----------
    texts : File or None
        A safetensors file of CLIP's text vectors: `classes`, (K, D) in the dataset's order, and `background`, (M, D).
    clip : File or None
        The weights of CLIP's image tower.
    tower : str
        The timm id of that tower.
    object, background, co_occurring, area : float
        Weights of the losses: what a map keeps must be its class, what it leaves must not, what it keeps must not be a
        background that goes with the class, and it must be small.
    suspicious : float
        Likeness to a background's text above which it counts.
    detached : int
        The first stages or blocks that are not trained.
    """

    image_size: int = Field(512, ge=32)
    batch_size: int = Field(16, ge=1)
    epochs: int = Field(15, ge=0)
    lr: float = Field(2.5e-4, gt=0)
    texts: File | None = None
    clip: File | None = None
    tower: str = "vit_base_patch32_clip_quickgelu_224.openai"
    object: float = Field(10.0, ge=0)
    background: float = Field(24.0, ge=0)
    co_occurring: float = Field(1.0, ge=0)
    area: float = Field(0.2, ge=0)
    suspicious: float = Field(0.26, ge=0, le=1)
    detached: int = Field(1, ge=0)


class CLIMS(FieldMethod):
    """CAM's model goes on without a loss on labels: a frozen CLIP judges what a map keeps, and what it leaves.

    Each present class's map is a probability at every place. What it keeps should look like the class's name, what it
    leaves should not, and neither should what it keeps look like water or rails.
    """

    name = "clims"
    cite = "xie2022clims"
    parent = "cam"
    supervision = ("image_labels", "text")
    predicts_presence = True
    Params = CLIMSParams

    params: CLIMSParams
    _judge: nn.Module | None = None

    @classmethod
    def skip(cls, spec: RunSpec) -> str | None:
        lacking = [name for name in ("texts", "clip") if not spec.params[name]]
        options = " ".join(f"--input {name}=FILE" for name in lacking)
        return f"needs CLIP: {options}; see docs/methods/clims.md" if lacking else None

    def background_rule(self, family: str) -> str:
        return "fixed:0.15"

    def build_from(self, parent: Any, backbone: Any, num_classes: int) -> nn.Module:
        model: nn.Module = parent
        return model

    def phases(self, model: Any) -> list[Phase]:
        p = self.params
        return [self.sgd(p.epochs, model.backbone.parameters_from(p.detached), model.classifier.parameters())]

    def training_step(self, model: Any, batch: Batch, step: Step) -> dict[str, Tensor]:
        p, images = self.params, mean_padded(batch, model.backbone)
        judge, classes, background = self._clip(str(images.device))
        kept = model(images).sigmoid().float()
        shown = functional.interpolate(images, (SIDE, SIDE), mode="bilinear", align_corners=True)
        gates = functional.interpolate(kept, (SIDE, SIDE), mode="bilinear", align_corners=True)
        which, names = batch.labels[:, 1:].nonzero(as_tuple=True)
        gate, shown, mean = gates[which, names, None], shown[which], model.backbone.mean
        inside, outside = (judge(mean + (shown - mean) * one) for one in (gate, 1 - gate))
        found = losses(inside, outside, classes[names], background, p.suspicious)
        weights = {"object": p.object, "background": p.background, "co_occurring": p.co_occurring}
        return {name: weights[name] * loss for name, loss in found.items()} | {"area": p.area * kept.mean()}

    def _clip(self, device: str) -> tuple[nn.Module, Tensor, Tensor]:
        """Return CLIP's image tower, and its vectors of the classes and of backgrounds, of length 1."""
        assert self.params.texts
        assert self.params.clip
        if self._judge is None:
            self._judge = build_tower(self.params.tower, self.params.clip.path).to(device)
            texts = load_file(self.params.texts.path)
            self._classes, self._background = (
                functional.normalize(texts[name].float(), dim=1).to(device) for name in ("classes", "background")
            )
        return self._judge, self._classes, self._background

    def score(self, model: Any, images: Tensor, labels: Tensor | None) -> tuple[Tensor, Tensor]:
        maps = model(images)
        return maps.relu(), maps.sigmoid().amax((2, 3))


def losses(inside: Tensor, outside: Tensor, names: Tensor, background: Tensor, suspicious: float) -> dict[str, Tensor]:
    """Return what CLIP thinks of (n, D) vectors of what maps keep and leave, by (n, D) names and (M, D) backgrounds.

    Likenesses are cosines within [1e-4, 0.9999]; a background counts where its likeness is above `suspicious`.
    """
    kept, left = ((one * names).sum(1).clamp(1e-4, 0.9999) for one in (inside, outside))
    beside = (inside @ background.T).clamp(1e-4, 0.9999)
    return {
        "object": -kept.log().mean(),
        "background": -(1 - left).log().mean(),
        "co_occurring": -((1 - beside).log() * (beside > suspicious)).sum(),
    }
