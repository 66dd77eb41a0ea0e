"""Corruptions by tone, by digital processing and by deformation, of one image: (H, W, 3) uint8 -> the same."""

import functools
import io

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from augmix_core.backends import NATIVE, VARIANT_NUMBERS
from augmix_core.corruptions import filters
from augmix_core.corruptions.draws import Draws
from augmix_core.corruptions.filters import Float32, to_bytes, to_levels

Image8 = NDArray[np.uint8]

UNIT = np.arange(256) / 255


def contrast(image: Image8, factor: float, draws: Draws, variant: str | None) -> Image8:
    """Shrink each channel towards its mean."""
    sums = channel_sums(image, variant)
    mean = np.array(sums)[:, None] / (255 * image.shape[0] * image.shape[1])
    return look_up(image, to_levels((UNIT - mean) * factor + mean), variant)


def channel_sums(image: Image8, variant: str | None) -> tuple[int, ...]:
    """The sums of red, green and blue."""
    if variant is not None:
        return NATIVE.sum_channels(np.ascontiguousarray(image), VARIANT_NUMBERS[variant])
    return tuple(image.reshape(-1, 3).sum(axis=0, dtype=np.int64).tolist())


def brightness(image: Image8, shift: float, draws: Draws, variant: str | None) -> Image8:
    """Raise V of HSV, clipped at 1; at a fixed hue and saturation that scales the three channels alike."""
    return look_up(image, brightness_table(shift), variant)


@functools.lru_cache(maxsize=64)
def brightness_table(shift: float) -> Image8:
    """(256, 256): what a channel becomes, by the pixel's largest channel and its own level."""
    value = UNIT[:, None]
    raised = np.clip(value + shift, 0, 1)
    return to_levels(np.where(value > 0, UNIT * (raised / np.where(value > 0, value, 1)), raised))


def look_up(image: Image8, table: Image8, variant: str | None) -> Image8:
    """Map levels by a table for each channel, (3, 256), or for each largest level of a pixel, (256, 256)."""
    if variant is not None:
        target = np.empty_like(image, order="C")
        NATIVE.look_up(np.ascontiguousarray(image), table, target)
        return target
    row = np.arange(3) if len(table) == 3 else largest(image)[..., None]
    return table[row, image]


def largest(image: Image8) -> Image8:
    """(H, W): V of HSV as a level."""
    return np.maximum(np.maximum(image[..., 0], image[..., 1]), image[..., 2])


def saturate(image: Image8, scale_and_shift: tuple[float, float], draws: Draws, variant: str | None) -> Image8:
    """Scale and shift S of HSV, clipped to [0, 1]; a grey pixel has hue 0, so a shift turns it red."""
    scale, shift = scale_and_shift
    value = largest(image)
    least = np.minimum(np.minimum(image[..., 0], image[..., 1]), image[..., 2])
    stretch = saturation_table(scale, shift)[value, least]
    level = value.astype(np.float32)[..., None]
    coloured = level - (level - image) * stretch[..., None]
    if shift > 0:
        is_grey = value == least
        coloured[is_grey, 1:] = level[is_grey] * np.float32(1 - min(shift, 1))
    return to_bytes(coloured)


@functools.lru_cache(maxsize=64)
def saturation_table(scale: float, shift: float) -> Float32:
    """(256, 256): how much farther from the largest channel the others move, by the largest and the least level."""
    value, least = UNIT[:, None], UNIT
    saturation = np.clip((value - least) / np.where(value > 0, value, 1), 0, 1)
    wanted = np.clip(saturation * scale + shift, 0, 1)
    return (wanted / np.where(saturation > 0, saturation, 1)).astype(np.float32)


def pixelate(image: Image8, share: float, draws: Draws, variant: str | None) -> Image8:
    """Shrink both sides to a share by box averages, then enlarge again."""
    pillow = Image.fromarray(image)
    small = pillow.resize((int(pillow.width * share), int(pillow.height * share)), Image.Resampling.BOX)
    return np.asarray(small.resize(pillow.size, Image.Resampling.BOX))


def jpeg_compression(image: Image8, quality: int, draws: Draws, variant: str | None) -> Image8:
    """Go through a JPEG of this quality."""
    return through_jpeg(image, quality)


def reencoded(images: NDArray[np.uint8], quality: int = 85) -> NDArray[np.uint8]:
    """Return images (N, H, W, 3) as they come back from the JPEG files in which ImageNet-C was published.

    Those were also optimised, which makes a file smaller and leaves its pixels alone.
    """
    return np.stack([through_jpeg(image, quality) for image in images]) if len(images) else images.copy()


def through_jpeg(image: Image8, quality: int) -> Image8:
    """Encode and decode."""
    encoded = io.BytesIO()
    Image.fromarray(image).save(encoded, "JPEG", quality=quality)
    return np.asarray(Image.open(encoded))


def elastic_transform(image: Image8, strength: tuple[float, float, float], draws: Draws, variant: str | None) -> Image8:
    """Move three points and the plane with them, then each pixel by a smooth random field.

    strength, in pixels: the field's scale, the sigma of the Gaussian that smooths it, and how far a point may move.
    """
    scale, sigma, reach = strength
    height, width = image.shape[:2]
    y, x = np.arange(height, dtype=np.float32)[:, None], np.arange(width, dtype=np.float32)
    matrix = moved_plane(height, width, draws.uniform(3, 2, low=-reach, high=reach))
    plane_x, plane_y = (near(a * x + c) + near(b * y) for a, b, c in matrix)
    warped = filters.sample(image.astype(np.float32), plane_y, plane_x, "mirror", variant)
    field_x, field_y = (
        np.float32(scale) * filters.gaussian(noise, sigma, variant, truncate=3.0, mode="reflect")
        for noise in draws.signed(2, height, width)
    )
    return to_bytes(filters.sample(warped, y + field_y, x + field_x, "reflect", variant))


def near(place: NDArray[np.float64]) -> Float32:
    """Keep coordinates within what `filters.sample` takes; points that fall almost in a line stretch the plane."""
    return np.clip(place, -(2.0**18), 2.0**18).astype(np.float32)


def moved_plane(height: int, width: int, moves: NDArray[np.float64]) -> NDArray[np.float64]:
    """(2, 3) matrix (x, y, 1) -> source (x, y), when three points around the centre are moved by (3, 2): x, y.

    The points are the centre + (t, t), + (t, -t) and - (t, t), t a third of the short side.
    """
    third = min(height, width) // 3
    points = np.array([width // 2, height // 2]) + third * np.array([[1, 1], [1, -1], [-1, -1]])
    (ax, ay), (bx, by), (cx, cy) = (points + moves).tolist()
    area = (bx - ax) * (cy - ay) - (by - ay) * (cx - ax)
    # how far a place lies from the first moved point to the second, and to the third
    to_second = np.array([cy - ay, ax - cx, ay * (cx - ax) - ax * (cy - ay)]) / area
    to_third = np.array([ay - by, bx - ax, ax * (by - ay) - ay * (bx - ax)]) / area
    source = np.outer(points[1] - points[0], to_second) + np.outer(points[2] - points[0], to_third)
    source[:, 2] += points[0]
    return source
