"""The only door to mmsegmentation, mmengine and mmcv: what this package takes from them, importable anywhere.

Read and tried with onedl-mmengine 0.10.12, onedl-mmcv 2.3.6 and onedl-mmsegmentation 1.4.2. `import mmcv.ops` would
fail there (no compiled part), of which they warn: nothing here needs it.
"""

from __future__ import annotations

import warnings

from harness.errors import EnvironmentUnfitError
from harness.torchvision_ops import ensure_importable

ensure_importable()
try:
    with warnings.catch_warnings(action="ignore"):
        from mmengine.dataset import pseudo_collate
        from mmengine.hooks import Hook
        from mmengine.model import BaseModule, initialize
        from mmengine.optim import OptimWrapper
        from mmengine.runner import Runner
        from mmengine.structures import PixelData
        from mmseg.models.backbones import MixVisionTransformer, ResNet
        from mmseg.models.decode_heads.decode_head import BaseDecodeHead
        from mmseg.models.segmentors import EncoderDecoder
        from mmseg.registry import DATASETS, MODELS
        from mmseg.structures import SegDataSample
except ImportError as error:
    raise EnvironmentUnfitError(
        f"verification needs mmsegmentation, which does not import ({error}): "
        "pip install 'wsss-harness[verify]', or see what `harness doctor` says"
    ) from error

__all__ = [
    "DATASETS",
    "MODELS",
    "BaseDecodeHead",
    "BaseModule",
    "EncoderDecoder",
    "Hook",
    "MixVisionTransformer",
    "OptimWrapper",
    "PixelData",
    "ResNet",
    "Runner",
    "SegDataSample",
    "initialize",
    "pseudo_collate",
]
