"""Blur corruptions of one image. unit: (H, W, 3) float64 in [0, 1]; returns the same."""

import numpy as np
from numpy.typing import NDArray

from augmix_core.errors import missing_extra


def gaussian_blur(unit: NDArray[np.float64], sigma: float, _: np.random.Generator) -> NDArray[np.float64]:
    """Blur each channel with a Gaussian cut at 4 sigma, the edge repeated."""
    try:
        from scipy.ndimage import gaussian_filter
    except ImportError as error:
        raise missing_extra("scipy", "score") from error
    return gaussian_filter(unit, sigma=(sigma, sigma, 0), mode="nearest", truncate=4.0)
