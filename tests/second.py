"""Plugins that use the second edition of the contract: a method with a parent, and a refiner that learns."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional

from harness import Augment, Batch, Method, Phase, Refiner, Step, TrainedRefinerParams, TrainParams


class ChildParams(TrainParams):
    """Settings of child."""

    epochs: int = Field(2, ge=0)


class Child(Method):
    """CAM's classifier, trained on in two phases; what is found between them lies in a buffer."""

    name = "child"
    parent = "cam"
    predicts_presence = True
    Params = ChildParams

    def build_from(self, parent: Any, backbone: Any, num_classes: int) -> nn.Module:
        parent.register_buffer("seen", torch.zeros(()))
        return parent

    def phases(self, model: Any) -> list[Phase]:
        group = [{"params": list(model.classifier.parameters()), "lr": 0.01}]
        crop = Augment(48, "scale", (0.6, 1.2), flip=0.5, jitter=(0.1, 0.1, 0.1, 0.05))
        whole = [{"params": list(model.parameters()), "lr": 0.001}]
        return [
            Phase(1, group, augment=crop, batch_size=2, clip_norm=1.0),
            Phase(self.params.epochs - 1, whole, "SGD", odds=lambda labels: labels[:, 1:].sum(1)),
        ]

    def start_phase(self, model: Any, data: Any, phase: int) -> None:
        means = [batch.images.mean() for batch in data.in_order(16, 4)]
        model.seen.copy_(torch.stack(means).mean() + phase)

    def training_step(self, model: Any, batch: Batch, step: Step) -> dict[str, Tensor]:
        assert batch.images.shape[-1] == (48 if step.phase == 0 else self.params.image_size)
        logits = (model(batch.images) + model.seen).mean((2, 3))
        return {"bce": functional.binary_cross_entropy_with_logits(logits, batch.labels[:, 1:])}

    def score(self, model: Any, images: Tensor, labels: Tensor | None) -> tuple[Tensor, Tensor]:
        maps = model(images)
        return maps.relu(), maps.mean((2, 3)).sigmoid()


class LearnerParams(TrainedRefinerParams):
    """Settings of learner."""

    epochs: int = Field(2, ge=0)
    batch_size: int = Field(4, ge=1)


class Learner(Refiner):
    """A linear layer on features that tells foreground of confident masks from their background."""

    name = "learner"
    trained = True
    refines = "maps"
    background_rule = "fixed:0.3"
    Params = LearnerParams

    def learns_from(self) -> tuple[str, ...]:
        return "fixed:0.6", "fixed:0.2"

    def build(self, backbone: Any, num_classes: int) -> nn.Module:
        model = nn.Module()
        model.backbone, model.head = backbone, nn.Conv2d(backbone.dim, 1, 1)
        return model

    def phases(self, model: Any) -> list[Phase]:
        group = [{"params": list(model.head.parameters()), "lr": 0.01}]
        return [Phase(self.params.epochs, group, augment=Augment(64, "scale", (0.8, 1.2)))]

    def training_step(self, model: Any, batch: Batch, step: Step) -> dict[str, Tensor]:
        high, low = batch.pseudo[:, 0], batch.pseudo[:, 1]
        known = batch.valid[:, 0] & ((high > 0) | (low == 0))
        logits = functional.interpolate(model.head(model.backbone(batch.images)), high.shape[-2:])[:, 0]
        losses = functional.binary_cross_entropy_with_logits(logits, (high > 0).float(), reduction="none")
        return {"foreground": (losses * known).sum() / known.sum().clamp(min=1)}

    def refine(self, image: np.ndarray, probabilities: np.ndarray) -> np.ndarray:
        pixels = torch.from_numpy(image.copy()).permute(2, 0, 1)[None].float() / 255
        pixels = functional.interpolate(pixels, (64, 64))
        with torch.no_grad():
            inside = self.model.head(self.model.backbone(pixels)).sigmoid()
        return probabilities * functional.interpolate(inside, probabilities.shape[1:])[0].numpy()
