"""Augmentation ops: what an AugMix chain is made of.

image: (H, W, 3) uint8 RGB, any size. magnitude: the op's own unit (degrees, pixels, bits, shear factor).
Ops are deterministic; the plan draws op, level and sign. Source: AugMix (Hendrycks et al., 2020), section 3, and
its released code, whose int() truncations and value ranges are kept.
"""

import math
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from augmix_core import reference
from augmix_core.errors import did_you_mean

STANDARD_OPS = (
    "autocontrast",
    "equalize",
    "posterize",
    "rotate",
    "solarize",
    "shear_x",
    "shear_y",
    "translate_x",
    "translate_y",
)
OVERLAPPING_OPS = ("color", "contrast", "brightness", "sharpness")
"""These resemble test corruptions (contrast, brightness, saturate, blur), so they are never a default."""
ALL_OPS = STANDARD_OPS + OVERLAPPING_OPS

MAX_LEVEL = 10.0
MAX_POSTERIZE_BITS_REMOVED = 4
MAX_ROTATION_DEG = 30
MAX_SOLARIZE_DROP = 256
MAX_SHEAR = 0.3
MAX_TRANSLATION_SHARE = 1 / 3  # of the image's width or height
MAX_ENHANCEMENT = 1.8

Backend = Literal["auto", "native", "avx512", "avx2", "portable", "reference"]
BACKENDS: tuple[str, ...] = ("auto", "native", "avx512", "avx2", "portable", "reference")


def magnitude_of(name: str, level: float, negative: bool, image_size: tuple[int, int]) -> float:
    """Return the magnitude that the released code gives an op at a level.

    Args:
        level: in [0.1, 10]; integer-valued ops truncate toward zero.
        negative: the coin for ops that have a direction; the others ignore it.
        image_size: (H, W) in pixels, for the translation bounds.
    Note:
        The enhancement factors grow with the level from near 0 (black, grey), so a low level is the strong one.
    """
    height, width = image_size
    sign = -1 if negative else 1
    match name:
        case "autocontrast" | "equalize":
            return 0
        case "posterize":
            return 4 - int(level * MAX_POSTERIZE_BITS_REMOVED / 10)
        case "solarize":
            return 256 - int(level * MAX_SOLARIZE_DROP / 10)
        case "rotate":
            return sign * int(level * MAX_ROTATION_DEG / 10)
        case "shear_x" | "shear_y":
            return sign * (level * MAX_SHEAR / 10)
        case "translate_x":
            return sign * int(level * (width / 3) / 10)
        case "translate_y":
            return sign * int(level * (height / 3) / 10)
        case "color" | "contrast" | "brightness" | "sharpness":
            return level * MAX_ENHANCEMENT / 10 + 0.1
    raise AssertionError(name)


def apply_op(
    name: str, image: NDArray[np.uint8], magnitude: float = 0, *, fill: int = 0, backend: str = "auto"
) -> NDArray[np.uint8]:
    """Apply one op with Pillow's pixels.

    Args:
        name: one of ALL_OPS.
        image: (H, W, 3) uint8 RGB.
        magnitude: posterize bits kept 1..8 · solarize threshold 0..256 · rotate degrees counter-clockwise ·
            shear m of AFFINE (1, m, 0, 0, 1, 0) · translate pixels, positive moves the content left or up, at most
            a third of the side · color, contrast, brightness, sharpness Pillow's enhancement factor.
        fill: 0..255, the grey level that geometric ops pull in.
        backend: see `augmix_core.augmix`.
    Returns:
        (H, W, 3) uint8.
    Raises:
        ValueError: An unknown op, a wrong image, or a magnitude out of range or not finite; never clamped.
        RuntimeError: The backend cannot run here.
    """
    check_backend(backend)
    check_images(image[np.newaxis] if isinstance(image, np.ndarray) else image)
    check_fill(fill)
    check_magnitude(name, magnitude, (image.shape[0], image.shape[1]))
    return reference.apply_op(name, image, magnitude, fill)


def check_magnitude(name: str, magnitude: float, image_size: tuple[int, int]) -> None:
    """Refuse an unknown op and a magnitude that the op does not take."""
    if name not in ALL_OPS:
        raise ValueError(f"op {name!r} is unknown; {did_you_mean(name, ALL_OPS)}")
    height, width = image_size
    bounds: dict[str, tuple[float, float]] = {
        "posterize": (1, 8),
        "solarize": (0, 256),
        "translate_x": (-width * MAX_TRANSLATION_SHARE, width * MAX_TRANSLATION_SHARE),
        "translate_y": (-height * MAX_TRANSLATION_SHARE, height * MAX_TRANSLATION_SHARE),
    } | dict.fromkeys(OVERLAPPING_OPS, (0, math.inf))
    low, high = bounds.get(name, (-math.inf, math.inf))
    if name in ("autocontrast", "equalize"):
        return
    if not math.isfinite(magnitude) or not low <= magnitude <= high:
        raise ValueError(f"{name} magnitude is {magnitude}; it must be finite and from {low:g} to {high:g}")
    if name in ("posterize", "solarize") and magnitude != int(magnitude):
        raise ValueError(f"{name} magnitude is {magnitude}; it must be a whole number")


def check_images(images: object) -> None:
    """Refuse anything but (N, H, W, 3) uint8."""
    if not isinstance(images, np.ndarray) or images.dtype != np.uint8 or images.ndim != 4 or images.shape[3] != 3:
        found = f"{images.dtype} {images.shape}" if isinstance(images, np.ndarray) else type(images).__name__
        raise ValueError(f"images must be RGB as a uint8 array of shape (N, H, W, 3), got {found}")
    if 0 in images.shape[1:3]:
        raise ValueError(f"images have shape {images.shape}; height and width must be at least 1 pixel")


def check_fill(fill: int) -> None:
    """Refuse a fill that is not a grey level."""
    if isinstance(fill, bool) or not isinstance(fill, int) or not 0 <= fill <= 255:
        raise ValueError(f"fill is {fill!r}; it must be a whole grey level from 0 to 255")


def check_backend(backend: str) -> None:
    """Refuse an unknown backend, and one that this installation cannot run."""
    if backend not in BACKENDS:
        raise ValueError(f"backend {backend!r} is unknown; {did_you_mean(backend, BACKENDS)}")
    if backend not in ("auto", "reference"):
        raise RuntimeError(
            f"backend {backend!r} needs compiled kernels, which this version does not have; use 'auto' or 'reference'"
        )
