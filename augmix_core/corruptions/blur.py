"""Blur corruptions of one image: (H, W, 3) uint8 -> the same, truncated as the published generators do."""

import numpy as np
from numpy.typing import NDArray

from augmix_core.corruptions.draws import Draws
from augmix_core.corruptions.noise import to_levels
from augmix_core.errors import missing_extra

Image8 = NDArray[np.uint8]


def gaussian_blur(image: Image8, sigma: float, draws: Draws, variant: str | None) -> Image8:
    """Blur each channel with a Gaussian cut at 4 sigma, the edge repeated."""
    try:
        from scipy.ndimage import gaussian_filter
    except ImportError as error:
        raise missing_extra("scipy", "score") from error
    return to_levels(gaussian_filter(image / 255.0, sigma=(sigma, sigma, 0), mode="nearest", truncate=4.0))
