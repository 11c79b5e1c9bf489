"""Saliency maps as the background (EDAM, ICD and MCIS): `--refine saliency:edam --input saliency=FOLDER`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np
import torch
from PIL import Image
from pydantic import Field
from torch.nn import functional

from harness import Folder, Refiner, RefinerParams


class SaliencyParams(RefinerParams):
    """Settings of a background from saliency; the presets are those of the authors' codes.

    Attributes
    ----------
    rule : {"edam", "icd", "mcis"}
        How a saliency map and the classes' maps become a mask; see `Saliency`.
    saliency : Folder or None
        8-bit grey images as large as the dataset's, called by their ids; what is bright is salient. Given by `--input`.
    background : int
        Of 255; pixels of no more than this are background (edam, icd).
    least : float
        Class scores below it count for nothing (mcis).
    sure : float
        Above it a class contradicts the background, or another class (mcis).
    """

    rule: Literal["edam", "icd", "mcis"]
    saliency: Folder | None = None
    background: int = Field(20, ge=0, le=255)
    least: float = Field(0.3, ge=0, le=1)
    sure: float = Field(0.95, ge=0, le=1)


class Saliency(Refiner):
    """The background is what a network for saliency, trained on pixel masks of other data, does not see.

    `edam`: what is not salient is background, but for exact peaks of a class; the rest is the best class, if any is
    there at all. `icd`: the same, and where saliency and classes disagree a pixel has no label. `mcis`: the background
    scores 1 minus saliency; two sure classes, or a sure class on a background, leave a pixel without a label.
    """

    name = "saliency"
    cite = "wu2021edam"
    refines = "maps"
    background_rule = "model"
    supervision = ("saliency",)
    expected_failures = {"constant_image": "the background comes from an input, not from the image"}
    Params = SaliencyParams

    params: SaliencyParams

    def missing(self, image_ids: Sequence[str]) -> str:
        if self.params.saliency is None:
            return "needs saliency maps: --input saliency=FOLDER"
        lacking = sorted({*image_ids} - self.params.saliency.files().keys())
        return f"no saliency map of {len(lacking)} of {len(image_ids)} images, as {lacking[0]}" if lacking else ""

    def refine_by_id(self, image_id: str, image: np.ndarray, probabilities: np.ndarray) -> np.ndarray:
        assert self.params.saliency
        with Image.open(self.params.saliency.files()[image_id]) as file:
            saliency = np.array(file.convert("L"))
        if saliency.shape != image.shape[:2]:
            raise ValueError(f"saliency map of {image_id} is {saliency.shape}, its image {image.shape[:2]} (h, w)")
        maps = functional.interpolate(torch.from_numpy(probabilities)[None], saliency.shape, mode="bilinear")[0].numpy()
        rule = {"edam": self.edam, "icd": self.icd, "mcis": self.mcis}[self.params.rule]
        return rule(saliency, maps)

    def edam(self, saliency: np.ndarray, maps: np.ndarray) -> np.ndarray:
        """Return (1 + C, H, W) scores from (H, W) bytes and (C, H, W) maps in [0, 1]."""
        dark = saliency <= self.params.background
        extremes = np.where(maps < 1e-6, -2.0, np.where(maps > 0.99999, 2.0, maps))
        return np.concatenate([dark[None], extremes], dtype=np.float32)

    def icd(self, saliency: np.ndarray, maps: np.ndarray) -> np.ndarray:
        """Return (2 + C, H, W) scores, the last for no label."""
        dark, there = saliency <= self.params.background, (maps > 0).any(0)
        if (~dark).mean() < 0.01:
            dark &= ~there
        return np.concatenate([2.0 * dark[None], maps, 3.0 * (dark == there)[None]], dtype=np.float32)

    def mcis(self, saliency: np.ndarray, maps: np.ndarray) -> np.ndarray:
        """Return (2 + C, H, W) scores, the last for no label; maps are stretched from their minimum first."""
        low, high = maps.min((1, 2), keepdims=True), maps.max((1, 2), keepdims=True)
        maps = (maps - low) / np.maximum(high - low, 1e-7)
        scores = np.concatenate([1 - saliency[None] / 255, np.where(maps < self.params.least, 0, maps)])
        behind = scores.argmax(0) == 0
        doubt = (scores > 0.99).sum(0) > 1
        doubt |= behind & ((saliency >= 32) | (maps > self.params.sure).any(0))
        if (scores.argmax(0) > 0)[~doubt].sum() < 0.01 * doubt.size:
            doubt[:] = True
        return np.concatenate([scores, 2.0 * doubt[None]], dtype=np.float32)
