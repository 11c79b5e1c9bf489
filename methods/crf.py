"""Dense CRF as a refiner, with its settings from a named preset: `--refine crf:vitpcm`."""

from __future__ import annotations

import numpy as np

from harness import Refiner
from harness.crf import CRFParams, dense_crf


class DenseCRF(Refiner):
    """Fully connected CRF (Krähenbühl and Koltun, 2011) over the image's colours."""

    name = "crf"
    Params = CRFParams

    def refine(self, image: np.ndarray, probabilities: np.ndarray) -> np.ndarray:
        return dense_crf(image, probabilities, self.params)
