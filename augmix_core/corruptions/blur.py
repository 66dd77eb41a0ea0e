"""Blur corruptions of one image: (H, W, 3) uint8 -> the same, truncated as the published generators do."""

import functools

import numpy as np
from numpy.typing import NDArray

from augmix_core.backends import NATIVE
from augmix_core.corruptions import filters
from augmix_core.corruptions.draws import Draws
from augmix_core.corruptions.filters import Float32, Taps, to_bytes

Image8 = NDArray[np.uint8]


def defocus_blur(image: Image8, radius_and_alias: tuple[float, float], draws: Draws, variant: str | None) -> Image8:
    """Spread each pixel over a disk of this radius, whose rim is smoothed with a Gaussian of sigma `alias`."""
    return to_bytes(filters.correlate(image.astype(np.float32), disk(*radius_and_alias), "mirror", variant))


@functools.lru_cache(maxsize=32)
def disk(radius: float, alias: float) -> Taps:
    """The smoothed disk, on a grid of 17 x 17 pixels or of the disk's own size.

    Smoothing mirrors a disk that reaches the grid's edge, and the weights then sum to more than 1, as they do in the
    generator: images become up to 1.3 % brighter.
    """
    steps = np.arange(-8, 9) if radius <= 8 else np.arange(-radius, radius + 1)
    flat = (steps**2 + steps[:, None] ** 2 <= radius**2).astype(np.float64)
    weights = flat / flat.sum()
    reach = 1 if radius <= 8 else 2
    rim = np.exp(-0.5 * (np.arange(-reach, reach + 1) / alias) ** 2)
    for _ in range(2):  # along each axis
        padded = np.pad(weights, ((reach, reach), (0, 0)), mode="reflect")
        weights = sum(share * padded[i : i + len(steps)] for i, share in enumerate(rim / rim.sum())).T
    rows, columns = np.nonzero(weights > 1e-9)
    offsets = np.stack([steps[rows], steps[columns]], axis=1).astype(np.int32)
    return Taps(offsets, weights[rows, columns].astype(np.float32))


def glass_blur(image: Image8, strength: tuple[float, int, int], draws: Draws, variant: str | None) -> Image8:
    """Blur with a Gaussian, displace the pixels, blur again.

    strength: the Gaussian's sigma in pixels, how far a pixel may be displaced, and how many times all are.
    """
    sigma, reach, passes = strength
    blurred = to_bytes(gaussian(image, sigma, variant))
    return to_bytes(gaussian(displaced(blurred, reach, passes, draws, variant), sigma, variant))


def displaced(image: Image8, reach: int, passes: int, draws: Draws, variant: str | None) -> Image8:
    """From the last pixel to the first, but for a margin, let each become what a neighbour is by then.

    A neighbour is -reach .. reach - 1 rows and columns away. The published generator means to swap the two, but swaps
    views of one array, which copies. The columns come from the low halves of the words, the rows from the high ones.
    """
    height, width = image.shape[:2]
    rows, columns = max(height - 2 * reach, 0), max(width - 2 * reach, 0)
    words = draws.words(passes * rows * columns)
    image = np.array(image, order="C")
    if variant is not None:
        NATIVE.displace(image, words, height, width, reach, passes)
        return image
    bound, half = np.uint32(2 * reach), np.uint32(16)
    dx = ((words & np.uint32(0xFFFF)) * bound >> half).astype(np.int64) - reach
    dy = ((words >> half) * bound >> half).astype(np.int64) - reach
    here = np.arange(height * width).reshape(height, width)
    moved = here[height - reach : reach : -1, width - reach : reach : -1].reshape(-1)
    pixels = image.reshape(-1, 3)
    for drawn in (dy * width + dx).reshape(passes, -1):
        pixels = pixels[origins(moved, moved + drawn, len(pixels))]
    return pixels.reshape(image.shape)


def origins(moved: NDArray[np.int64], neighbours: NDArray[np.int64], count: int) -> NDArray[np.int64]:
    """(count,) whose old pixel each pixel ends up with, when `moved` copy their neighbours one after the other.

    A neighbour that has had its turn hands on what it got itself; so chains are followed, twice as far in each round.
    """
    turn = np.full(count, -1)
    turn[moved] = np.arange(len(moved))
    had_its_turn = (turn[neighbours] >= 0) & (turn[neighbours] < np.arange(len(moved)))
    handed_on = np.arange(2 * count)  # node p: the old pixel p; node count + p: the pixel at p after its turn
    handed_on[count + moved] = np.where(had_its_turn, count + neighbours, neighbours)
    while (handed_on[handed_on] != handed_on).any():
        handed_on = handed_on[handed_on]
    return np.where(turn >= 0, handed_on[count:], np.arange(count))


def motion_blur(image: Image8, radius_and_sigma: tuple[float, float], draws: Draws, variant: str | None) -> Image8:
    """Drag the image along a line at an angle of up to 45 degrees."""
    (angle_deg,) = draws.uniform(1, low=-45, high=45)
    return to_bytes(filters.motion(image.astype(np.float32), *radius_and_sigma, float(angle_deg), variant))


def zoom_blur(image: Image8, stop_and_step: tuple[float, float], draws: Draws, variant: str | None) -> Image8:
    """Average the image and its enlargements by 1, 1 + step, 1 + 2 step, ... below `stop`, as far as np.arange goes."""
    factors = (1.0, *np.arange(1, *stop_and_step).tolist())
    return to_bytes(filters.sum_of_zooms(image.astype(np.float32), factors, variant) / np.float32(len(factors)))


def gaussian_blur(image: Image8, sigma: float, draws: Draws, variant: str | None) -> Image8:
    """Blur each channel with a Gaussian cut at 4 sigma, the edge repeated."""
    return to_bytes(gaussian(image, sigma, variant))


def gaussian(image: Image8, sigma: float, variant: str | None) -> Float32:
    """Blur levels as scikit-image does."""
    return filters.gaussian(image.astype(np.float32), sigma, variant, truncate=4.0, mode="nearest")
