"""From score maps to pseudo-masks: gate classes, normalise, resize, add a background, decide.

The same few steps for every method, in this order; each is a field of the protocol.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from harness.rules import Rules


def open_classes(rules: Rules, labels: np.ndarray, presence: np.ndarray | None) -> np.ndarray:
    """Return the classes that may appear in a mask: sorted indices from 1.

    Parameters
    ----------
    rules : Rules
    labels : ndarray
        (num_classes,) image labels; looked at only where the gating is `gt`.
    presence : ndarray or None
        (num_classes - 1,) predicted probabilities; looked at only where it is `predicted`.
    """
    if rules.gating.kind == "gt":
        return np.flatnonzero(labels[1:]) + 1
    if rules.gating.kind == "none":
        return np.arange(1, len(labels))
    if presence is None:
        raise ValueError("the gating is predicted, but the method predicts no presence")
    return np.flatnonzero(presence >= rules.gating.value) + 1


def background_is_closed(rules: Rules, labels: np.ndarray) -> bool:
    """Return whether a mask may show no background: (num_classes,) image labels say that there is none, and count."""
    return rules.gated_background and rules.gating.kind == "gt" and not labels[0]


def probabilities(scores: np.ndarray, classes: np.ndarray, size: tuple[int, int], rules: Rules, output: str) -> Tensor:
    """Turn a score map into probabilities at image size.

    Parameters
    ----------
    scores : ndarray
        (C, h, w) as the method gave it; with a background channel if the background rule is `model`.
    classes : ndarray
        The open classes, from `open_classes`.
    size : tuple of int
        Height and width of the image.
    rules : Rules
    output : {"activation", "probability", "labels"}
        What the scores are; `labels` are (1, H, W) positions of classes at image size.

    Returns
    -------
    Tensor
        (1 + len(classes), H, W) float32, non-negative; channel 0 is the background.
    """
    if output == "labels":
        return torch.from_numpy(np.stack([scores[0] == number for number in (0, *classes)])).float()
    return with_background(normalised(scores, classes, rules, output), size, rules)


def normalised(scores: np.ndarray, classes: np.ndarray, rules: Rules, output: str) -> Tensor:
    """Return (C, h, w) maps of the open classes in [0, 1], after the background's where the method has its own."""
    channels = [0, *classes] if rules.background.kind == "model" else classes - 1
    return _normalise(torch.from_numpy(scores[channels].astype(np.float32)), rules.normalisation, output)


def with_background(maps: Tensor, size: tuple[int, int], rules: Rules) -> Tensor:
    """Return normalised maps at image size, with a background channel first; see `probabilities`."""
    if len(maps):
        corners = rules.align_corners if rules.upsampling == "bilinear" else None
        maps = functional.interpolate(maps[None], size, mode=rules.upsampling, align_corners=corners)[0]
    if rules.background.kind == "model":
        return maps
    if not len(maps):
        return torch.ones(1, *size)
    value = rules.background.value
    power = rules.background.kind == "power"
    background = (1 - maps.amax(0)).clamp(min=0) ** value if power else maps.new_full(size, value)
    return torch.cat([background[None], maps])


def _normalise(maps: Tensor, rule: str, output: str) -> Tensor:
    """Bring every channel to [0, 1] over the image."""
    if rule == "vitpcm":
        maps = maps / maps.amax((1, 2), keepdim=True).clamp(min=1e-7)
        return maps / maps.sum(0).clamp(min=1e-7) if output == "probability" else maps
    if rule == "none" or output == "probability":
        return maps
    if rule == "minmax":
        maps = maps - maps.amin((1, 2), keepdim=True)
    return maps / maps.amax((1, 2), keepdim=True).clamp(min=1e-7)
