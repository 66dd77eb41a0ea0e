"""Noise corruptions of one image: (H, W, 3) uint8 -> the same, truncated as the published generators do."""

import numpy as np
from numpy.typing import NDArray

from augmix_core.corruptions.draws import Draws

Image8 = NDArray[np.uint8]


def to_levels(unit: NDArray[np.floating]) -> Image8:
    """Clip to [0, 1] and truncate to 0..255."""
    return (np.clip(unit, 0, 1) * 255).astype(np.uint8)


def gaussian_noise(image: Image8, sigma: float, draws: Draws, variant: str | None) -> Image8:
    """Add independent normal noise of standard deviation sigma to every channel value."""
    return to_levels(image / 255.0 + draws.normal(*image.shape, std=sigma))


def shot_noise(image: Image8, photons: float, draws: Draws, variant: str | None) -> Image8:
    """Count photons: Poisson of the value times `photons`, divided by it again."""
    rng = np.random.Generator(np.random.Philox(key=draws.key))
    return to_levels(rng.poisson(image / 255.0 * photons) / photons)


def impulse_noise(image: Image8, share: float, draws: Draws, variant: str | None) -> Image8:
    """Set a share of all channel values to 0 or 255, half of them each."""
    drawn = draws.uniform(*image.shape)
    return np.where(drawn < share / 2, 0, np.where(drawn < share, 255, image)).astype(np.uint8)


def speckle_noise(image: Image8, sigma: float, draws: Draws, variant: str | None) -> Image8:
    """Add normal noise in proportion to the value."""
    unit = image / 255.0
    return to_levels(unit + unit * draws.normal(*image.shape, std=sigma))
