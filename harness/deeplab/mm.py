"""The only door to mmsegmentation, mmengine and mmcv: what this package takes from them, importable anywhere.

Read and tried with onedl-mmengine 0.10.12, onedl-mmcv 2.3.6 and onedl-mmsegmentation 1.4.2. `import mmcv.ops` would
fail there (no compiled part): nothing here needs it.
"""

from __future__ import annotations

from harness.errors import EnvironmentUnfitError
from harness.torchvision_ops import ensure_importable

ensure_importable()
try:
    from mmseg.models.backbones import ResNet, ResNetV1c
    from mmseg.models.data_preprocessor import SegDataPreProcessor
    from mmseg.models.decode_heads.decode_head import BaseDecodeHead
    from mmseg.models.segmentors import EncoderDecoder
    from mmseg.registry import MODELS
    from mmseg.structures import SegDataSample
except ImportError as error:
    raise EnvironmentUnfitError(
        f"verification needs mmsegmentation, which does not import ({error}): "
        "pip install 'wsss-harness[verify]', or see what `harness doctor` says"
    ) from error

__all__ = [
    "MODELS",
    "BaseDecodeHead",
    "EncoderDecoder",
    "ResNet",
    "ResNetV1c",
    "SegDataPreProcessor",
    "SegDataSample",
]
