"""Noise corruptions of one image: (H, W, 3) uint8 -> the same, truncated as the published generators do.

From a level, any of the noises draws one of 256 levels; so each is a table of 256 laws, exact with clipping and
truncation, and costs a word and a look-up for each value.
"""

import functools
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from augmix_core.backends import NATIVE, VARIANT_NUMBERS
from augmix_core.corruptions.draws import Draws
from augmix_core.errors import missing_extra

Image8 = NDArray[np.uint8]
Law = Callable[[float], NDArray[np.float64]]
"""Strength -> (256, 256): the probability that level v becomes k or lower, at [v, k]."""

LEVELS = np.arange(256)
LAW_BITS, LEVEL_BITS = 24, 8


def gaussian_noise(image: Image8, sigma: float, draws: Draws, variant: str | None) -> Image8:
    """Add independent normal noise of standard deviation sigma to every channel value."""
    return draw_levels(image, alias_table(gaussian_law, sigma), draws, variant)


def shot_noise(image: Image8, photons: float, draws: Draws, variant: str | None) -> Image8:
    """Count photons: Poisson of the value times `photons`, divided by it again."""
    return draw_levels(image, alias_table(shot_law, photons), draws, variant)


def impulse_noise(image: Image8, share: float, draws: Draws, variant: str | None) -> Image8:
    """Set a share of all channel values to 0 or 255, half of them each."""
    return draw_levels(image, alias_table(impulse_law, share), draws, variant)


def speckle_noise(image: Image8, sigma: float, draws: Draws, variant: str | None) -> Image8:
    """Add normal noise in proportion to the value."""
    return draw_levels(image, alias_table(speckle_law, sigma), draws, variant)


def gaussian_law(sigma: float) -> NDArray[np.float64]:
    """v + 255 sigma z < k + 1, all from 255 up being 255."""
    return normal_law(np.full(256, 255 * sigma))


def speckle_law(sigma: float) -> NDArray[np.float64]:
    """v + v sigma z < k + 1."""
    return normal_law(LEVELS * sigma)


def normal_law(spread: NDArray[np.floating]) -> NDArray[np.float64]:
    """v + spread[v] z < k + 1."""
    try:
        from scipy.special import ndtr
    except ImportError as error:
        raise missing_extra("scipy", "score") from error
    with np.errstate(divide="ignore"):
        law = ndtr((LEVELS + 1 - LEVELS[:, None]) / spread[:, None])
    law[:, 255] = 1
    return law


def shot_law(photons: float) -> NDArray[np.float64]:
    """A count j gives the level 255 j / photons, truncated."""
    try:
        from scipy.special import pdtr
    except ImportError as error:
        raise missing_extra("scipy", "score") from error
    level = (np.clip(np.arange(np.ceil(photons) + 1) / photons, 0, 1) * 255).astype(int)
    largest_count = np.searchsorted(level, LEVELS, side="right") - 1  # at least 0: no photon gives level 0
    law: NDArray[np.float64] = pdtr(largest_count, LEVELS[:, None] / 255 * photons)
    law[:, 255] = 1
    return law


def impulse_law(share: float) -> NDArray[np.float64]:
    """0 and 255 have half the share each, the level itself the rest."""
    law = np.where(LEVELS[:, None] <= LEVELS, 1 - share / 2, share / 2)
    law[:, 255] = 1
    return law


def draw_levels(image: Image8, table: NDArray[np.uint32], draws: Draws, variant: str | None) -> Image8:
    """Draw a level for each value of the image."""
    words = draws.words(image.size)
    if variant is not None:
        target = np.empty_like(image, order="C")
        NATIVE.draw_levels(np.ascontiguousarray(image), words, table, target, VARIANT_NUMBERS[variant])
        return target
    entry = table[image.reshape(-1), words & np.uint32(255)]
    own = words >> np.uint32(LEVEL_BITS) < entry >> np.uint32(LEVEL_BITS)
    return np.where(own, words, entry).astype(np.uint8).reshape(image.shape)  # the low byte of either


@functools.lru_cache(maxsize=64)
def alias_table(law: Law, strength: float) -> NDArray[np.uint32]:
    """(256, 256): the laws for drawing with one look-up; see `draw_levels` in native/noise.h.

    Probabilities are rounded to 2**-24, so that the last bit of a library's function moves none of them.
    Source: Walker (1977), filling the smallest entry from the largest.
    """
    cumulative = np.rint(law(strength) * 2**LAW_BITS).astype(np.int32)
    full = 2 ** (LAW_BITS - LEVEL_BITS)
    smallest = np.diff(cumulative, axis=1, prepend=np.int32(0))  # filled entries leave both searches
    largest = smallest.copy()
    own = np.full((256, 256), full, np.int64)
    alias = np.tile(LEVELS, (256, 1))
    for _ in range(255):
        low, high = smallest.argmin(axis=1), largest.argmax(axis=1)
        own[LEVELS, low] = smallest[LEVELS, low]
        alias[LEVELS, low] = high
        rest = largest[LEVELS, high] - (full - smallest[LEVELS, low])
        smallest[LEVELS, high] = largest[LEVELS, high] = rest
        smallest[LEVELS, low], largest[LEVELS, low] = np.iinfo(np.int32).max, -1
    threshold = np.minimum(own << LEVEL_BITS, 2**LAW_BITS - 1)  # a full entry is its own alias
    return (threshold << LEVEL_BITS | alias).astype(np.uint32)
