"""Corruptions by tone and by digital processing, of one image: (H, W, 3) uint8 -> the same."""

import io

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from augmix_core.corruptions.draws import Draws
from augmix_core.corruptions.noise import to_levels

Image8 = NDArray[np.uint8]


def contrast(image: Image8, factor: float, draws: Draws, variant: str | None) -> Image8:
    """Shrink each channel towards its mean."""
    unit = image / 255.0
    mean = unit.mean(axis=(0, 1), keepdims=True)
    return to_levels((unit - mean) * factor + mean)


def brightness(image: Image8, shift: float, draws: Draws, variant: str | None) -> Image8:
    """Raise V of HSV, clipped at 1; at a fixed hue and saturation that scales the three channels alike."""
    unit = image / 255.0
    value = unit.max(axis=2, keepdims=True)
    raised = np.clip(value + shift, 0, 1)
    return to_levels(np.where(value > 0, unit * (raised / np.where(value > 0, value, 1)), raised))


def saturate(image: Image8, scale_and_shift: tuple[float, float], draws: Draws, variant: str | None) -> Image8:
    """Scale and shift S of HSV, clipped to [0, 1]; a grey pixel has hue 0, so a shift turns it red."""
    scale, shift = scale_and_shift
    unit = image / 255.0
    value = unit.max(axis=2, keepdims=True)
    chroma = value - unit.min(axis=2, keepdims=True)
    saturation = chroma / np.where(value > 0, value, 1)
    wanted = np.clip(saturation * scale + shift, 0, 1)
    coloured = value - (value - unit) * (wanted / np.where(saturation > 0, saturation, 1))
    reddened = value * np.concatenate([np.ones_like(wanted), 1 - wanted, 1 - wanted], axis=2)
    return to_levels(np.where(saturation > 0, coloured, reddened))


def pixelate(image: Image8, share: float, draws: Draws, variant: str | None) -> Image8:
    """Shrink both sides to a share by box averages, then enlarge again."""
    pillow = Image.fromarray(image)
    small = pillow.resize((int(pillow.width * share), int(pillow.height * share)), Image.Resampling.BOX)
    return np.asarray(small.resize(pillow.size, Image.Resampling.BOX))


def jpeg_compression(image: Image8, quality: int, draws: Draws, variant: str | None) -> Image8:
    """Go through a JPEG of this quality."""
    encoded = io.BytesIO()
    Image.fromarray(image).save(encoded, "JPEG", quality=quality)
    return np.asarray(Image.open(encoded))
