"""Let `import torchvision` succeed where its compiled part cannot load.

torchvision's wheel links CUDA; beside a CPU build of torch its extension does not load, yet its Python part registers
fakes for two of the extension's operators and so fails to import (torchvision 0.21 to 0.28, torch 2.6 to 2.13). timm
and the mm-packages import it, and call neither operator. Here they are declared without an implementation.
"""

from __future__ import annotations

import functools
import importlib.util
from pathlib import Path

import torch

_declared: list[torch.library.Library] = []


@functools.cache
def ensure_importable() -> bool:
    """Load torchvision's extension, or else declare its operators; return whether they had to be declared."""
    spec = importlib.util.find_spec("torchvision")
    if spec is None or spec.origin is None:
        return False
    try:
        for extension in Path(spec.origin).parent.glob("_C*.so"):
            torch.ops.load_library(str(extension))
    except OSError:
        library = torch.library.Library("torchvision", "DEF")
        for name in ("nms", "qnms"):
            library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        _declared.append(library)
        return True
    return False
