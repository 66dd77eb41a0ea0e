"""Filters on float32 arrays, compiled or in NumPy: what the blurs, the warps and the weather are made of.

image: (H, W) or (H, W, C) float32, any scale, at least 1 x 1; the result has its shape. variant: a compiled variant, or
None for NumPy; both give the same bits, because each value is one sum of float32 products in a fixed order.
mode, beyond the edge of a b c d: "nearest" a a | a b c d | d d, "reflect" b a | a b c d | d c, "mirror" c b | a b c d |
c b; SciPy's names.
"""

import functools
import math
from collections.abc import Sequence
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from augmix_core.backends import NATIVE, VARIANT_NUMBERS

Mode = Literal["nearest", "reflect", "mirror"]
MODE_NUMBERS = {"nearest": 0, "reflect": 1, "mirror": 2}

Float32 = NDArray[np.float32]


class Taps(NamedTuple):
    """A sparse kernel: the value at (y, x) becomes the sum of weight * image[y + dy, x + dx], in this order."""

    offsets: NDArray[np.int32]
    """(T, 2): dy, dx."""
    weights: Float32
    """(T,)"""


class Axis(NamedTuple):
    """Where the values of Z resized axes lie on the axis: value k lies between the one at `before` and the next."""

    before: NDArray[np.int32]
    """(Z, N), below N - 1 unless N is 1."""
    fraction: Float32
    """(Z, N) in [0, 1]: how much of the next one."""


def to_bytes(levels: NDArray[np.floating]) -> NDArray[np.uint8]:
    """Clip to 0..255 and truncate, as the published generators do."""
    return np.clip(levels, 0, 255).astype(np.uint8)


def to_levels(unit: NDArray[np.floating]) -> NDArray[np.uint8]:
    """Clip to [0, 1] and truncate to 0..255."""
    return (np.clip(unit, 0, 1) * 255).astype(np.uint8)


def beyond_edges(index: NDArray[np.integer], length: int, mode: Mode) -> NDArray[np.intp]:
    """Map any indices of an axis to 0 .. length - 1."""
    if mode == "nearest" or length == 1:
        return np.clip(index, 0, length - 1).astype(np.intp)
    period = 2 * length if mode == "reflect" else 2 * length - 2
    folded = np.mod(index, period)
    return np.where(folded < length, folded, (2 * length - 1 if mode == "reflect" else period) - folded).astype(np.intp)


def correlate(image: Float32, taps: Taps, mode: Mode, variant: str | None) -> Float32:
    """Sum the taps around each value."""
    height, width = image.shape[:2]
    if variant is not None:
        image = np.ascontiguousarray(image)
        target = np.empty_like(image)
        NATIVE.correlate(
            image,
            target,
            height,
            width,
            math.prod(image.shape[2:]),
            taps.offsets,
            taps.weights,
            MODE_NUMBERS[mode],
            VARIANT_NUMBERS[variant],
        )
        return target
    top, left = np.minimum(taps.offsets.min(axis=0), 0)
    bottom, right = np.maximum(taps.offsets.max(axis=0), 0)
    rows = beyond_edges(np.arange(top, height + bottom), height, mode)
    columns = beyond_edges(np.arange(left, width + right), width, mode)
    padded = image[rows][:, columns]
    total = np.zeros_like(image)
    for (dy, dx), weight in zip(taps.offsets, taps.weights, strict=True):
        total += weight * padded[dy - top : dy - top + height, dx - left : dx - left + width]
    return total


def gaussian(image: Float32, sigma: float, variant: str | None, *, truncate: float = 4.0, mode: Mode) -> Float32:
    """Blur both axes with a Gaussian of `sigma` pixels that is cut at `truncate` sigmas, as scipy.ndimage does."""
    if gaussian_radius(sigma, truncate) == 0:
        return image
    for axis in (0, 1):
        length = image.shape[axis]
        if 2 * gaussian_radius(sigma, truncate) < length:
            image = correlate(image, gaussian_taps(sigma, truncate, axis), mode, variant)
        else:
            image = apply_operator(gaussian_operator(length, sigma, truncate, mode), image, axis, variant)
    return image


def gaussian_radius(sigma: float, truncate: float) -> int:
    """Taps on each side of the middle."""
    return int(truncate * sigma + 0.5)


def gaussian_weights(sigma: float, truncate: float) -> NDArray[np.float64]:
    """(2 radius + 1,) weights that sum to 1."""
    steps = np.arange(-gaussian_radius(sigma, truncate), gaussian_radius(sigma, truncate) + 1)
    weights = np.exp(-0.5 * (steps / sigma) ** 2)
    return weights / weights.sum()


@functools.lru_cache(maxsize=256)
def gaussian_taps(sigma: float, truncate: float, axis: int) -> Taps:
    """The Gaussian along one axis."""
    radius = gaussian_radius(sigma, truncate)
    offsets = np.zeros((2 * radius + 1, 2), np.int32)
    offsets[:, axis] = np.arange(-radius, radius + 1)
    return Taps(offsets, gaussian_weights(sigma, truncate).astype(np.float32))


@functools.lru_cache(maxsize=64)
def gaussian_operator(length: int, sigma: float, truncate: float, mode: Mode) -> Float32:
    """(length, length): the Gaussian as a matrix, for one that is wider than the axis and meets each value often."""
    radius = gaussian_radius(sigma, truncate)
    operator = np.zeros((length, length))
    for row in range(length):
        columns = beyond_edges(np.arange(row - radius, row + radius + 1), length, mode)
        np.add.at(operator[row], columns, gaussian_weights(sigma, truncate))
    return operator.astype(np.float32)


def apply_operator(operator: Float32, image: Float32, axis: int, variant: str | None) -> Float32:
    """Multiply an axis of the image by a square matrix."""
    if axis == 0:
        return multiply(operator, image.reshape(len(image), -1), variant).reshape(image.shape)
    if image.ndim == 2:
        return multiply(image, operator.T, variant)
    channels = [multiply(image[..., c], operator.T, variant) for c in range(image.shape[2])]
    return np.stack(channels, axis=2)


def multiply(left: Float32, right: Float32, variant: str | None) -> Float32:
    """Multiply two matrices, each value one sum in order; a BLAS would sum as its processor likes."""
    total = np.zeros((left.shape[0], right.shape[1]), np.float32)
    if variant is not None:
        left, right = np.ascontiguousarray(left), np.ascontiguousarray(right)
        NATIVE.multiply(left, right, total, *left.shape, right.shape[1], VARIANT_NUMBERS[variant])
        return total
    for k in range(left.shape[1]):
        total += left[:, k, None] * right[k]
    return total


def motion(image: Float32, radius: float, sigma: float, angle_deg: float, variant: str | None) -> Float32:
    """Drag each pixel along a line: half a Gaussian, the edge repeated, as ImageMagick's motion blur.

    Tap i of 2 ceil(radius) + 1 lies i steps along the angle (clockwise from the right), at the nearest pixel.
    """
    steps = np.arange(2 * math.ceil(radius) + 1)
    weights = np.exp(-0.5 * (steps / sigma) ** 2)
    angle = math.radians(angle_deg)
    offsets = np.ceil(np.stack([steps * math.sin(angle), steps * math.cos(angle)], axis=1) - 0.5)
    taps = Taps(offsets.astype(np.int32), (weights / weights.sum()).astype(np.float32))
    return correlate(image, taps, "nearest", variant)


def clipped_zoom(image: Float32, factor: float, variant: str | None) -> Float32:
    """Enlarge the centre of the image to the image's size, bilinearly; factor >= 1."""
    return sum_of_zooms(image, (float(factor),), variant)


def sum_of_zooms(image: Float32, factors: tuple[float, ...], variant: str | None) -> Float32:
    """Sum `clipped_zoom` over some factors, in order."""
    height, width = image.shape[:2]
    rows, columns = zoomed_axis(height, factors), zoomed_axis(width, factors)
    if variant is not None:
        image = np.ascontiguousarray(image)
        target = np.empty_like(image)
        NATIVE.sum_of_zooms(
            image, target, height, width, math.prod(image.shape[2:]), *rows, *columns, VARIANT_NUMBERS[variant]
        )
        return target
    total = np.zeros_like(image)
    across = (-1, *([1] * (image.ndim - 2)))
    for z in range(len(factors)):
        y, x = rows.before[z], columns.before[z]
        next_y, next_x = np.minimum(y + 1, height - 1), np.minimum(x + 1, width - 1)
        upper = image[y]
        line = upper + (image[next_y] - upper) * rows.fraction[z].reshape(-1, *([1] * (image.ndim - 1)))
        near = line[:, x]
        total += near + (line[:, next_x] - near) * columns.fraction[z].reshape(across)
    return total


@functools.lru_cache(maxsize=256)
def zoomed_axis(length: int, factors: Sequence[float]) -> Axis:
    """Of each factor: crop ceil(length / factor) from the centre, resize it as scipy.ndimage.zoom, trim the centre."""
    before = np.empty((len(factors), length), np.int32)
    fraction = np.empty((len(factors), length), np.float32)
    for z, factor in enumerate(factors):
        crop = math.ceil(length / factor)
        resized = round(crop * factor)
        step = (crop - 1) / (resized - 1) if resized > 1 else 0.0
        at = (np.arange(length) + (resized - length) // 2) * step
        below = np.clip(np.floor(at), 0, max(crop - 2, 0))
        before[z] = below + (length - crop) // 2
        fraction[z] = np.clip(at - below, 0, 1)
    return Axis(before, fraction)


def sample(image: Float32, y: Float32, x: Float32, mode: Mode, variant: str | None) -> Float32:
    """Interpolate the image bilinearly at (y, x), each (H, W) float32 in pixels and within 2**20 of the image."""
    height, width = image.shape[:2]
    if variant is not None:
        image, y, x = np.ascontiguousarray(image), np.ascontiguousarray(y), np.ascontiguousarray(x)
        target = np.empty_like(image)
        NATIVE.sample(
            image,
            target,
            height,
            width,
            math.prod(image.shape[2:]),
            y,
            x,
            MODE_NUMBERS[mode],
        )
        return target
    floor_y, floor_x = np.floor(y), np.floor(x)
    across = (*y.shape, *([1] * (image.ndim - 2)))
    share_y, share_x = (y - floor_y).reshape(across), (x - floor_x).reshape(across)
    above, left = floor_y.astype(np.int64), floor_x.astype(np.int64)
    rows = [beyond_edges(above + i, height, mode) for i in (0, 1)]
    columns = [beyond_edges(left + i, width, mode) for i in (0, 1)]
    lines = []
    for row in rows:
        near = image[row, columns[0]]
        lines.append(near + (image[row, columns[1]] - near) * share_x)
    return lines[0] + (lines[1] - lines[0]) * share_y
