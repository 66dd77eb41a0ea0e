"""Corruptions by tone and by digital processing, of one image. unit: (H, W, 3) float64 in [0, 1]; returns the same."""

import io

import numpy as np
from numpy.typing import NDArray
from PIL import Image

Unit = NDArray[np.float64]


def contrast(unit: Unit, factor: float, _: np.random.Generator) -> Unit:
    """Shrink each channel towards its mean."""
    mean = unit.mean(axis=(0, 1), keepdims=True)
    return (unit - mean) * factor + mean


def brightness(unit: Unit, shift: float, _: np.random.Generator) -> Unit:
    """Raise V of HSV, clipped at 1; at a fixed hue and saturation that scales the three channels alike."""
    value = unit.max(axis=2, keepdims=True)
    raised = np.clip(value + shift, 0, 1)
    return np.where(value > 0, unit * (raised / np.where(value > 0, value, 1)), raised)


def saturate(unit: Unit, scale_and_shift: tuple[float, float], _: np.random.Generator) -> Unit:
    """Scale and shift S of HSV, clipped to [0, 1]; a grey pixel has hue 0, so a shift turns it red."""
    scale, shift = scale_and_shift
    value = unit.max(axis=2, keepdims=True)
    chroma = value - unit.min(axis=2, keepdims=True)
    saturation = chroma / np.where(value > 0, value, 1)
    wanted = np.clip(saturation * scale + shift, 0, 1)
    coloured = value - (value - unit) * (wanted / np.where(saturation > 0, saturation, 1))
    reddened = value * np.concatenate([np.ones_like(wanted), 1 - wanted, 1 - wanted], axis=2)
    return np.where(saturation > 0, coloured, reddened)


def pixelate(unit: Unit, share: float, _: np.random.Generator) -> Unit:
    """Shrink both sides to a share by box averages, then enlarge again."""
    image = to_pillow(unit)
    small = image.resize((int(image.width * share), int(image.height * share)), Image.Resampling.BOX)
    return np.asarray(small.resize(image.size, Image.Resampling.BOX)) / 255.0


def jpeg_compression(unit: Unit, quality: int, _: np.random.Generator) -> Unit:
    """Go through a JPEG of this quality."""
    encoded = io.BytesIO()
    to_pillow(unit).save(encoded, "JPEG", quality=quality)
    return np.asarray(Image.open(encoded)) / 255.0


def to_pillow(unit: Unit) -> Image.Image:
    """Back to the very bytes that the unit image was made from."""
    return Image.fromarray(np.rint(unit * 255).astype(np.uint8))
