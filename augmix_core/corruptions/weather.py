"""Weather on one image: (H, W, 3) uint8 -> the same, truncated as the published generators do.

Every value is a short chain of float32 or integer operations in a fixed order, so all machines give the same bits.
"""

import math

import numpy as np
from numpy.typing import NDArray

from augmix_core.corruptions import filters
from augmix_core.corruptions.clouds import plasma
from augmix_core.corruptions.draws import Draws
from augmix_core.corruptions.filters import Float32
from augmix_core.corruptions.frost_textures import crop_of_own_texture, crop_of_texture

Image8 = NDArray[np.uint8]

GREY_WEIGHTS = (np.float32(0.299), np.float32(0.587), np.float32(0.114))  # ITU-R BT.601, as OpenCV and Pillow have it


def snow(
    image: Image8, layer: tuple[float, float, float, float, float, float, float], draws: Draws, variant: str | None
) -> Image8:
    """Whiten the image a little and add flakes that fall, once as drawn and once turned by half.

    layer: mean, std and zoom of the normal noise, the threshold under which there is no flake, radius and sigma of the
    motion blur, and the share of the image that is not whitened.
    """
    mean, std, zoom, threshold, radius, sigma, unwhitened = layer
    still = flakes(draws.normal(*image.shape[:2], mean=mean, std=std), zoom, threshold, variant)
    angle_deg = float(draws.uniform(1, low=-135, high=-45)[0])
    return snowed(image, driven(still, radius, sigma, angle_deg, variant), unwhitened)


def flakes(noise: Float32, zoom: float, threshold: float, variant: str | None) -> Float32:
    """Return flakes as whole levels: noise (H, W) enlarged, and 0 under the threshold."""
    enlarged = filters.clipped_zoom(noise, zoom, variant)
    enlarged[enlarged < threshold] = 0
    return np.trunc(np.clip(enlarged, 0, 1) * np.float32(255))


def driven(still: Float32, radius: float, sigma: float, angle_deg: float, variant: str | None) -> Float32:
    """Return the flakes as whole levels, driven by the wind."""
    return np.trunc(filters.motion(still, radius, sigma, angle_deg, variant))


def snowed(image: Image8, falling: Float32, unwhitened: float) -> Image8:
    """Whiten the image and add the flakes (H, W), as they are and turned by half."""
    height, width = image.shape[:2]
    levels = image.astype(np.float32)
    red, green, blue = (levels[..., c] * weight for c, weight in enumerate(GREY_WEIGHTS))
    white = thrice((red + green + blue) * np.float32(1.5) + np.float32(127.5))
    flat = levels.reshape(height, 3 * width)
    np.maximum(flat, white, out=white)
    flat *= np.float32(unwhitened)
    white *= np.float32(1 - unwhitened)
    flat += white
    flat += thrice(falling + falling[::-1, ::-1])
    np.minimum(flat, np.float32(255), out=flat)
    return flat.astype(np.uint8).reshape(image.shape)


def thrice(plane: NDArray) -> NDArray:
    """(H, W) -> (H, 3 W), each value for all three channels; NumPy is slow where it broadcasts over them."""
    return np.repeat(plane, 3, axis=1)


def frost(
    image: Image8,
    weights_and_scale: tuple[float, float, float],
    draws: Draws,
    variant: str | None,
    textures: tuple[Image8, ...] | None = None,
) -> Image8:
    """Add a random crop of a frost texture: weight of the image, weight of the texture, scale of the texture.

    textures: as `load_textures` gives them at this scale; None for the project's own, which resemble them.
    """
    image_weight, frost_weight, scale = weights_and_scale
    if textures is None:
        crop = crop_of_own_texture(image.shape[:2], scale, draws)
    else:
        crop = crop_of_texture(image.shape[:2], textures, draws)
    total = image * np.float32(image_weight)
    total += crop * np.float32(frost_weight)
    np.minimum(total, np.float32(255), out=total)
    return total.astype(np.uint8)


def fog(image: Image8, thickness_and_decay: tuple[float, float], draws: Draws, variant: str | None) -> Image8:
    """Add plasma, `thickness` at its thickest, and dim all so that the brightest value cannot rise."""
    thickness, decay = thickness_and_decay
    height, width = image.shape[:2]
    clouds = plasma(2 ** math.ceil(math.log2(max(height, width, 2))), decay, draws)[:height, :width]
    brightest = float(image.max())
    dimmed = brightest / (brightest + 255 * thickness)
    total = image.reshape(height, 3 * width) * np.float32(dimmed)
    total += thrice(clouds * np.float32(255 * thickness * dimmed))
    return total.astype(np.uint8).reshape(image.shape)
