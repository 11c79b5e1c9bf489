"""The losses of ViT-PCM (paper, sections 4 and 5), with the clipping of the official code."""

from __future__ import annotations

from torch import Tensor

EPSILON = 1e-7  # Keras'


def pool(probabilities: Tensor) -> Tensor:
    """Global max pooling (equation 3): (B, K, h, w) to (B, K); ties share the gradient, as in TensorFlow."""
    return probabilities.amax((2, 3))


def mce(pooled: Tensor, labels: Tensor) -> Tensor:
    """Multi-label classification error (equation 1): mean binary cross-entropy over classes, background included.

    Parameters
    ----------
    pooled, labels : Tensor
        (B, K) probabilities and multi-hot labels.
    """
    clipped = pooled.clamp(EPSILON, 1 - EPSILON)
    return -(labels * (clipped + EPSILON).log() + (1 - labels) * (1 - clipped + EPSILON).log()).mean()


def sharpen(probabilities: Tensor, labels: Tensor) -> Tensor:
    """Zero absent classes, divide each by its maximum over the patches, make the classes sum to one again.

    Parameters
    ----------
    probabilities : Tensor
        (B, K, h, w).
    labels : Tensor
        (B, K) multi-hot.
    """
    masked = probabilities * labels[:, :, None, None]
    peaked = masked / masked.amax((2, 3), keepdim=True).clamp(min=EPSILON)
    return peaked / peaked.sum(1, keepdim=True).clamp(min=EPSILON)


def equivariance(student: Tensor, target: Tensor, seen: Tensor | None = None) -> Tensor:
    """Cross-entropy between the branches (equation 8), mean over images and patches.

    Parameters
    ----------
    student, target : Tensor
        (B, K, h, w) probabilities.
    seen : Tensor, optional
        (B, h, w) bool: the patches that both branches saw; all, unless given.
    """
    normal = student / student.sum(1, keepdim=True).clamp(min=EPSILON)
    loss = -(target * normal.clamp(EPSILON, 1 - EPSILON).log()).sum(1)
    return loss.mean() if seen is None else loss[seen].mean()
