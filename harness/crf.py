"""The only door to pydensecrf: fully connected CRF inference on one image."""

from __future__ import annotations

from typing import Literal

import numpy as np

from harness.errors import EnvironmentUnfitError
from harness.method import RefinerParams


class CRFParams(RefinerParams):
    """Settings of the dense CRF of Krähenbühl and Koltun (2011).

    Attributes
    ----------
    iterations : int
        Mean-field iterations.
    gaussian_xy, gaussian_weight : float
        Smoothness kernel: standard deviation in pixels, and weight.
    bilateral_xy, bilateral_rgb, bilateral_weight : float
        Appearance kernel: standard deviations in pixels and in grey levels, and weight.
    clip : float
        Probabilities below it are raised to it before the logarithm.
    unary : {"probabilities", "labels"}
        Whether it starts from the probabilities, or from their best class.
    label_confidence : float
        Probability that a label is right, where labels are the unary.
    picture : {"rgb", "mean_subtracted"}
        What it looks at: the image; or, as some repositories do, BGR less its mean, cast to bytes with wrap-around.
    channels : {"open"}
        Classes that the protocol closed are left out, whatever the original does: with probability `clip` everywhere
        they change next to no label.
    """

    iterations: int = 10
    gaussian_xy: float
    gaussian_weight: float
    bilateral_xy: float
    bilateral_rgb: float
    bilateral_weight: float
    clip: float = 1e-5
    unary: Literal["probabilities", "labels"] = "probabilities"
    label_confidence: float = 0.7
    picture: Literal["rgb", "mean_subtracted"] = "rgb"
    channels: Literal["open"] = "open"


def dense_crf(image: np.ndarray, probabilities: np.ndarray, params: CRFParams) -> np.ndarray:
    """Refine class probabilities by the image's colours.

    Parameters
    ----------
    image : ndarray
        (H, W, 3) uint8 RGB.
    probabilities : ndarray
        (C, H, W) float32, summing to one over the channels.
    params : CRFParams

    Returns
    -------
    ndarray
        (C, H, W) float32.

    Raises
    ------
    EnvironmentUnfitError
        If pydensecrf is not installed.
    """
    require()
    from pydensecrf import densecrf
    from pydensecrf.utils import unary_from_labels, unary_from_softmax

    channels, height, width = probabilities.shape
    if channels == 1:
        return probabilities
    field = densecrf.DenseCRF2D(width, height, channels)
    if params.unary == "labels":
        best = probabilities.argmax(0)
        unary = unary_from_labels(best, channels, gt_prob=params.label_confidence, zero_unsure=False)
    else:
        unary = unary_from_softmax(probabilities, clip=params.clip)
    field.setUnaryEnergy(np.ascontiguousarray(unary))
    field.addPairwiseGaussian(sxy=params.gaussian_xy, compat=params.gaussian_weight)
    field.addPairwiseBilateral(
        sxy=params.bilateral_xy,
        srgb=params.bilateral_rgb,
        rgbim=_mean_subtracted(image) if params.picture == "mean_subtracted" else np.array(image),
        compat=params.bilateral_weight,
    )
    return np.array(field.inference(params.iterations), np.float32).reshape(channels, height, width)


def _mean_subtracted(image: np.ndarray) -> np.ndarray:
    """Return BGR less the Caffe mean as bytes: what is negative wraps around."""
    centred = image[..., ::-1] - np.array([104.008, 116.669, 122.675])
    return np.ascontiguousarray(centred.astype(np.int64).astype(np.uint8))


def require() -> None:
    """Raise EnvironmentUnfitError if pydensecrf cannot be imported."""
    try:
        import pydensecrf.densecrf  # noqa: F401
    except ImportError:
        raise EnvironmentUnfitError("the dense CRF needs pydensecrf: pip install 'wsss-harness[crf]'") from None
