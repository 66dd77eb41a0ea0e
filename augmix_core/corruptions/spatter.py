"""Spatter on one image: drops of water or splashes of mud, (H, W, 3) uint8 -> the same, truncated.

The published generators build it from OpenCV's filters; their definitions are written here once more.
"""

import numpy as np
from numpy.typing import NDArray

from augmix_core.backends import NATIVE
from augmix_core.corruptions import filters
from augmix_core.corruptions.draws import Draws
from augmix_core.corruptions.filters import Float32
from augmix_core.corruptions.weather import thrice
from augmix_core.errors import missing_extra

Image8 = NDArray[np.uint8]

WATER = (175, 238, 238)  # pale turquoise
MUD = (63, 42, 20)
WEAK_EDGE, STRONG_EDGE = 50, 150
FARTHEST = 20_000  # thousandths of a pixel: beyond it a drop is as thick as it gets
STEPS = {1: 1000, 2: 1400, 5: 2197}  # length of a step of so many pixels squared, as OpenCV's 5 x 5 transform has it
NEIGHBOURS = [
    (dy, dx, np.int16(STEPS[dy * dy + dx * dx]))
    for dy in range(-2, 3)
    for dx in range(-2, 3)
    if dy * dy + dx * dx in STEPS
]
TANGENT_OF_AN_EIGHTH = 13573  # tan(22.5 degrees) as a fraction of 2**15, as OpenCV's edge detector has it


def spatter(
    image: Image8, layer: tuple[float, float, float, float, float, int], draws: Draws, variant: str | None
) -> Image8:
    """Splash the image.

    layer: mean and std of normal noise, sigma of its blur, the threshold over which there is liquid, for water its
    strength and for mud the sigma that rounds it, and 0 for water, 1 for mud.
    """
    mean, std, sigma, threshold, mix, is_mud = layer
    noise = draws.normal(*image.shape[:2], mean=mean, std=std)
    liquid = filters.gaussian(noise, sigma, variant, mode="nearest")
    if is_mud:
        return muddied(image, liquid > threshold, mix, variant)
    return watered(image, np.where(liquid < threshold, np.float32(0), liquid), mix, variant)


def muddied(image: Image8, splashes: NDArray[np.bool_], sigma: float, variant: str | None) -> Image8:
    """Cover the inner part of the splashes (H, W), rounded by a Gaussian, with mud."""
    mask = filters.gaussian(splashes.astype(np.float32), sigma, variant, mode="nearest")
    mask[mask < np.float32(0.8)] = 0
    mask = thrice(mask)
    mixed = image.reshape(mask.shape) * (1 - mask) + np.tile(np.array(MUD, np.float32), image.shape[1]) * mask
    return filters.to_bytes(mixed).reshape(image.shape)


def watered(image: Image8, liquid: Float32, strength: float, variant: str | None) -> Image8:
    """Brighten the image by drops: liquid (H, W), 0 where there is none, embossed by the distance from its edges."""
    drops = (liquid * np.float32(255)).astype(np.int32) & 255
    mask = (drops * relief(drops, variant)).astype(np.float32)
    thickest = mask.max()
    if thickest == 0:
        return image
    mask *= np.float32(strength) / thickest
    light = thrice(mask) * np.tile(np.array(WATER, np.float32), image.shape[1])
    return filters.to_bytes(image.reshape(light.shape) + light).reshape(image.shape)


def relief(drops: NDArray[np.int32], variant: str | None) -> NDArray[np.int32]:
    """Return (H, W) levels of light on drops (H, W) 0..255."""
    depth = box_sum(distance_to(edges(drops), variant)) // 9_000
    lit = embossed(equalized(depth))
    return (2 * box_sum(lit) + 9) // 18


def distance_to(found: NDArray[np.bool_], variant: str | None) -> NDArray[np.int32]:
    """Return each pixel's distance from the nearest one found, in thousandths of a pixel, at most FARTHEST.

    It is the length of the shortest way in steps to a neighbour, across a corner, or as a knight of chess.
    """
    height, width = found.shape
    if variant is not None:
        target = np.empty(found.shape, np.int32)
        NATIVE.measure_distances(np.ascontiguousarray(found), target, height, width, *STEPS.values(), FARTHEST)
        return target
    padded = np.full((height + 4, width + 4), FARTHEST, np.int16)
    distance = padded[2:-2, 2:-2]
    distance[found] = 0
    before = np.zeros_like(distance)
    while not np.array_equal(before, distance):
        before[...] = distance
        for dy, dx, length in NEIGHBOURS:
            np.minimum(distance, padded[2 + dy : 2 + dy + height, 2 + dx : 2 + dx + width] + length, out=distance)
    return distance.astype(np.int32)


def edges(drops: NDArray[np.int32]) -> NDArray[np.bool_]:
    """Return where Canny's detector (H, W) finds edges: ridges of the Sobel gradient that somewhere exceed STRONG_EDGE.

    The gradient's size is |dx| + |dy|, its direction one of four; the image's edge is repeated, and no gradient is
    beyond it.
    """
    try:
        from scipy.ndimage import label
    except ImportError as error:
        raise missing_extra("scipy", "score") from error
    padded = framed(drops, 0)
    down = padded[:-2] + 2 * padded[1:-1] + padded[2:]
    along = padded[:, :-2] + 2 * padded[:, 1:-1] + padded[:, 2:]
    dx, dy = down[:, 2:] - down[:, :-2], along[2:] - along[:-2]
    steep = np.zeros(padded.shape, np.int32)
    steep[1:-1, 1:-1] = np.abs(dx) + np.abs(dy)
    steepness = steep.ravel()
    row = drops.shape[1] + 2
    at = np.flatnonzero(steepness > WEAK_EDGE)
    inner = (at // row - 1) * (row - 2) + at % row - 1
    dx, dy = dx.ravel()[inner], dy.ravel()[inner]
    rise, eighth = np.abs(dy) << 15, np.abs(dx) * TANGENT_OF_AN_EIGHTH
    flat, upright = rise < eighth, rise > eighth + (np.abs(dx) << 16)
    step = np.where(flat, 1, np.where(upright, row, np.where((dx ^ dy) < 0, row - 1, row + 1)))
    here, before, after = steepness[at], steepness[at - step], steepness[at + step]
    is_ridge = (here > before) & ((here > after) | ((here == after) & (flat | upright)))
    ridge, strong = np.zeros(drops.size, bool), np.zeros(drops.size, bool)
    ridge[inner[is_ridge]] = True
    strong[inner[is_ridge & (here > STRONG_EDGE)]] = True
    lines, count = label(ridge.reshape(drops.shape), np.ones((3, 3)))
    is_edge = np.zeros(count + 1, bool)
    is_edge[lines.ravel()[strong]] = True
    return is_edge[lines]


def equalized(levels: NDArray[np.int32]) -> NDArray[np.int32]:
    """Spread levels (H, W) over 0..255 by their ranks; those of the lowest level become 0, unless there is no other."""
    counts = np.bincount(levels.ravel(), minlength=256)
    lowest = int(np.flatnonzero(counts)[0])
    others = levels.size - counts[lowest]
    if others == 0:
        return levels
    return np.rint((np.cumsum(counts) - counts[lowest]).clip(0) * (255 / others)).astype(np.int32)[levels]


def framed(plane: NDArray[np.int32], inward: int) -> NDArray[np.int32]:
    """Add a frame of one pixel: a copy of the values so many pixels from the edge, 0 or 1."""
    down, right = min(inward, plane.shape[0] - 1), min(inward, plane.shape[1] - 1)
    wider = np.empty((plane.shape[0] + 2, plane.shape[1] + 2), plane.dtype)
    wider[1:-1, 1:-1] = plane
    wider[0, 1:-1], wider[-1, 1:-1] = plane[down], plane[-1 - down]
    wider[:, 0], wider[:, -1] = wider[:, 1 + right], wider[:, -2 - right]
    return wider


def box_sum(plane: NDArray[np.int32]) -> NDArray[np.int32]:
    """Sum each value's neighbourhood of 3 x 3, the plane mirrored at its edge."""
    padded = framed(plane, 1)
    down = padded[:-2] + padded[1:-1] + padded[2:]
    return down[:, :-2] + down[:, 1:-1] + down[:, 2:]


def embossed(levels: NDArray[np.int32]) -> NDArray[np.int32]:
    """Correlate with [[-2, -1, 0], [-1, 1, 1], [0, 1, 2]] and clip to 0..255: light that comes from the upper left."""
    p = framed(levels, 1)
    lit = 2 * (p[2:, 2:] - p[:-2, :-2]) + (p[2:, 1:-1] - p[:-2, 1:-1]) + (p[1:-1, 2:] - p[1:-1, :-2]) + p[1:-1, 1:-1]
    return np.clip(lit, 0, 255)
