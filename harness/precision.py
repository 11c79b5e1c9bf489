"""The precision in which networks run: float32, float32 whose products are TF32 on a GPU, or bfloat16 where it can."""

from __future__ import annotations

from typing import Any


def set_precision(precision: str) -> None:
    """Say for this process whether a GPU may round the factors of float32 products to TF32: never for `fp32`."""
    import torch

    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = precision != "fp32"


def autocast(device: str, precision: str) -> Any:
    """Return the context in which a model runs."""
    import torch

    return torch.autocast(device, torch.bfloat16, enabled=precision == "bf16")
