"""Augmentation ops: what an AugMix chain is made of.

image: (H, W, 3) uint8 RGB, any size. magnitude: the op's own unit (degrees, pixels, bits, shear factor).
Ops are deterministic; the plan draws op, level and sign. Source: AugMix (Hendrycks et al., 2020), section 3, and
its released code, whose int() truncations and value ranges are kept. Other libraries' levels and magnitudes are
dialects; an op itself, at a magnitude, is always Pillow's.
"""

import math

import numpy as np
from numpy.typing import NDArray

from augmix_core import backends, reference
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

MIN_LEVEL = 0.1
MAX_LEVEL = 10.0
MAX_POSTERIZE_BITS_REMOVED = 4
MAX_ROTATION_DEG = 30
MAX_SOLARIZE_DROP = 256
MAX_SHEAR = 0.3
MAX_TRANSLATION_SHARE = 1 / 3  # of the image's width or height
MAX_ENHANCEMENT = 1.8

DIALECTS = ("official", "released", "torchvision", "timm")
TORCHVISION_BINS = 10
"""Its levels are bins 0 .. aug_severity - 1 of these; bin 0 is the identity of all geometric ops."""


def magnitude_of(
    name: str, level: float, negative: bool, image_size: tuple[int, int], dialect: str = "official"
) -> float:
    """Return the magnitude that a dialect gives an op at a level.

    Args:
        level: in [0, 10]; for torchvision a bin, 0 to 9. Integer-valued ops truncate toward zero.
        negative: the coin for ops that have a direction; the others ignore it.
        image_size: (H, W) in pixels, for the translation bounds.
    Note:
        In the official dialect the enhancement factors grow with the level from near 0 (black, grey), so a low level is
        the strong one.
    Source: google-research/augmix, augmentations.py; torchvision.transforms.v2.AugMix; timm.data.auto_augment.
    """
    height, width = image_size
    sign = -1 if negative else 1
    match dialect:
        case "torchvision":
            return torchvision_magnitude(name, level, sign, height, width)
        case "timm":
            return timm_magnitude(name, level, sign, height, width)
    return official_magnitude(name, level, sign, height, width)


def official_magnitude(name: str, level: float, sign: int, height: int, width: int) -> float:
    """The released code's."""
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


def torchvision_magnitude(name: str, level: float, sign: int, height: int, width: int) -> float:
    """Ten bins of each range; rotations are not truncated, enhancements go both ways from 1. At least 1 bit is kept."""
    last = TORCHVISION_BINS - 1
    match name:
        case "posterize":
            return max(1, round(4 - level * MAX_POSTERIZE_BITS_REMOVED / last))
        case "solarize":
            return math.ceil(255 - level * 255 / last)
        case "rotate":
            return sign * (level * MAX_ROTATION_DEG / last)
        case "shear_x" | "shear_y":
            return sign * (level * MAX_SHEAR / last)
        case "translate_x":
            return sign * int(level * (width / 3) / last)
        case "translate_y":
            return sign * int(level * (height / 3) / last)
        case "color" | "contrast" | "brightness" | "sharpness":
            return 1 + sign * (level * 0.9 / last)
    return official_magnitude(name, level, sign, height, width)


def timm_magnitude(name: str, level: float, sign: int, height: int, width: int) -> float:
    """Fractions of degrees and pixels; translations to 30 % of the side; enhancements go both ways from 1."""
    match name:
        case "rotate":
            return sign * (level * MAX_ROTATION_DEG / 10)
        case "translate_x":
            return sign * (level * 0.3 / 10 * width)
        case "translate_y":
            return sign * (level * 0.3 / 10 * height)
        case "color" | "contrast" | "brightness" | "sharpness":
            return max(0.1, 1 + sign * (level * 0.9 / 10))
    return official_magnitude(name, level, sign, height, width)


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
    variant = backends.variant_of(backend)
    check_images(image[np.newaxis] if isinstance(image, np.ndarray) else image)
    check_fill(fill)
    check_magnitude(name, magnitude, (image.shape[0], image.shape[1]))
    if variant is None:
        return reference.apply_op(name, image, magnitude, fill)
    return backends.native_op(image, ALL_OPS.index(name), magnitude, fill, variant)


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
