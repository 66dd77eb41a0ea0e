"""Augmentation ops: what an AugMix chain is made of.

image: (H, W, 3) uint8 RGB, any size. magnitude: the op's own unit (degrees, pixels, bits, shear factor).
Ops are deterministic; the plan draws op, level and sign. Source: AugMix (Hendrycks et al., 2020), section 3, and
its released code, whose int() truncations and value ranges are kept. Other libraries' levels and magnitudes are
dialects; an op itself, at a magnitude, is always Pillow's.
"""

import functools
import math
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

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
DIALECTS = ("official", "released", "torchvision", "timm")


@dataclass(frozen=True, slots=True)
class Rule:
    """How an op's magnitude follows from a level: base + factor * amount, amount = level * scale / levels.

    Levels is 10, and 9 for torchvision, whose levels are the bins 0 to 9.
    """

    scale: float = 0
    base: float = 0
    factor: int = 1
    """-1 where the magnitude falls with the level; `signed` ops draw it."""
    signed: bool = False
    whole: Literal["", "truncated", "rounded"] = ""
    """What is done to the amount; for ops whose magnitude is a whole number."""
    at_least: float = -math.inf


@functools.lru_cache(maxsize=64)
def magnitude_rules(dialect: str, image_size: tuple[int, int]) -> dict[str, Rule]:
    """Return the rule of every op.

    official: in the released code enhancement factors grow with the level from near 0 (black, grey), so a low level is
    the strong one. torchvision: rotations are not truncated, enhancements go both ways from 1, and posterize keeps at
    least the one bit that Pillow asks for. timm: neither rotations nor translations are truncated, translations go to
    30 % of the side, enhancements both ways from 1.
    Source: google-research/augmix, augmentations.py; torchvision.transforms.v2.AugMix; timm.data.auto_augment.
    """
    height, width = image_size
    rules = {
        "autocontrast": Rule(),
        "equalize": Rule(),
        "posterize": Rule(4, base=4, factor=-1, whole="truncated"),
        "rotate": Rule(30, signed=True, whole="truncated"),
        "solarize": Rule(256, base=256, factor=-1, whole="truncated"),
        "shear_x": Rule(0.3, signed=True),
        "shear_y": Rule(0.3, signed=True),
        "translate_x": Rule(width / 3, signed=True, whole="truncated"),
        "translate_y": Rule(height / 3, signed=True, whole="truncated"),
        **dict.fromkeys(OVERLAPPING_OPS, Rule(1.8, base=0.1)),
    }
    if dialect == "torchvision":
        rules |= {
            "posterize": Rule(4, base=4, factor=-1, whole="rounded", at_least=1),
            "rotate": Rule(30, signed=True),
            "solarize": Rule(255, base=255, factor=-1, whole="truncated"),
            **dict.fromkeys(OVERLAPPING_OPS, Rule(0.9, base=1, signed=True)),
        }
    if dialect == "timm":
        rules |= {
            "rotate": Rule(30, signed=True),
            "translate_x": Rule(0.3 * width, signed=True),
            "translate_y": Rule(0.3 * height, signed=True),
            **dict.fromkeys(OVERLAPPING_OPS, Rule(0.9, base=1, signed=True, at_least=0.1)),
        }
    return rules


@dataclass(frozen=True, slots=True)
class LevelLaw:
    """Where levels are drawn: uniformly from lowest to aug_severity; as whole numbers if they are bins."""

    lowest: float = MIN_LEVEL
    levels: int = 10
    binned: bool = False


LEVEL_LAWS = {"torchvision": LevelLaw(0, 9, binned=True), "timm": LevelLaw(0)}


def level_law(dialect: str) -> LevelLaw:
    """Return the dialect's."""
    return LEVEL_LAWS.get(dialect, LevelLaw())


def magnitude_of(
    name: str, level: float, negative: bool, image_size: tuple[int, int], dialect: str = "official"
) -> float:
    """Return the magnitude that a dialect gives an op at a level.

    Args:
        level: in [0, 10]; for torchvision a bin, 0 to 9.
        negative: the coin for ops that have a direction; the others ignore it.
        image_size: (H, W) in pixels, for the translation bounds.
    """
    rule = magnitude_rules(dialect, image_size)[name]
    amount = level * rule.scale / level_law(dialect).levels
    if rule.whole:
        amount = int(amount + (0.5 if rule.whole == "rounded" else 0))
    sign = -1 if negative else 1
    return max(rule.base + (sign if rule.signed else rule.factor) * amount, rule.at_least)


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
        "translate_x": (-width / 3, width / 3),
        "translate_y": (-height / 3, height / 3),
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


def check_batch(images: NDArray[np.uint8], sample_ids: ArrayLike) -> NDArray[Any]:
    """Refuse anything but (N, H, W, 3) uint8 with one id for each; return the ids as an array."""
    check_images(images)
    ids = np.asarray(sample_ids)
    if ids.shape != (len(images),):
        raise ValueError(f"sample_ids has shape {ids.shape}; one id for each of the {len(images)} images is needed")
    return ids


def check_fill(fill: int) -> None:
    """Refuse a fill that is not a grey level."""
    if isinstance(fill, bool) or not isinstance(fill, int) or not 0 <= fill <= 255:
        raise ValueError(f"fill is {fill!r}; it must be a whole grey level from 0 to 255")
