"""Noise corruptions of one image. unit: (H, W, 3) float64 in [0, 1]; returns the same, to be clipped by the caller."""

import numpy as np
from numpy.typing import NDArray

Unit = NDArray[np.float64]


def gaussian_noise(unit: Unit, sigma: float, rng: np.random.Generator) -> Unit:
    """Add independent normal noise of standard deviation sigma to every channel value."""
    return unit + rng.normal(scale=sigma, size=unit.shape)


def shot_noise(unit: Unit, photons: float, rng: np.random.Generator) -> Unit:
    """Count photons: Poisson of the value times `photons`, divided by it again."""
    return rng.poisson(unit * photons) / photons


def impulse_noise(unit: Unit, share: float, rng: np.random.Generator) -> Unit:
    """Set a share of all channel values to 0 or 1, half of them each."""
    drawn = rng.random(unit.shape)
    return np.where(drawn < share / 2, 0.0, np.where(drawn < share, 1.0, unit))


def speckle_noise(unit: Unit, sigma: float, rng: np.random.Generator) -> Unit:
    """Add normal noise in proportion to the value."""
    return unit + unit * rng.normal(scale=sigma, size=unit.shape)
