"""The only door to pydensecrf: fully connected CRF inference on one picture."""

from __future__ import annotations

from typing import Literal

import numpy as np

from harness.errors import EnvironmentUnfitError
from harness.strict import Frozen


class CRFParams(Frozen):
    """Settings of the dense CRF of Krähenbühl and Koltun (2011).

    Attributes
    ----------
    summary, source : str
        What the preset is and where its numbers come from.
    iterations : int
        Mean-field iterations.
    gaussian_xy, gaussian_weight : float
        Smoothness kernel: standard deviation in pixels, and weight.
    bilateral_xy, bilateral_rgb, bilateral_weight : float
        Appearance kernel: standard deviations in pixels and in grey levels, and weight.
    clip : float
        Probabilities below it are raised to it before the logarithm.
    channels : {"all", "open"}
        Whether classes that the protocol closed take part with probability `clip`, or are left out.
    """

    summary: str = ""
    source: str = ""
    iterations: int = 10
    gaussian_xy: float
    gaussian_weight: float
    bilateral_xy: float
    bilateral_rgb: float
    bilateral_weight: float
    clip: float = 1e-5
    channels: Literal["open"] = "open"


def dense_crf(image: np.ndarray, probabilities: np.ndarray, params: CRFParams) -> np.ndarray:
    """Refine class probabilities by the picture's colours.

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
    from pydensecrf.utils import unary_from_softmax

    channels, height, width = probabilities.shape
    if channels == 1:
        return probabilities
    field = densecrf.DenseCRF2D(width, height, channels)
    field.setUnaryEnergy(np.ascontiguousarray(unary_from_softmax(probabilities, clip=params.clip)))
    field.addPairwiseGaussian(sxy=params.gaussian_xy, compat=params.gaussian_weight)
    field.addPairwiseBilateral(
        sxy=params.bilateral_xy,
        srgb=params.bilateral_rgb,
        rgbim=np.array(image),
        compat=params.bilateral_weight,
    )
    return np.array(field.inference(params.iterations), np.float32).reshape(channels, height, width)


def require() -> None:
    """Raise EnvironmentUnfitError if pydensecrf cannot be imported."""
    try:
        import pydensecrf.densecrf  # noqa: F401
    except ImportError:
        raise EnvironmentUnfitError("the dense CRF needs pydensecrf: pip install 'wsss-harness[crf]'") from None
