"""The Pillow reference: plan + image -> view. Short, readable, and the truth that faster kernels must equal.

Image in, image out: (H, W, 3) uint8 RGB. Chains run in Pillow, as the released code does; the mix is integer, so
it is the same on every machine and at most one level from mixing in floats.
"""

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageEnhance, ImageOps

if TYPE_CHECKING:
    from augmix_core.plan import ViewPlan

ONE_Q15 = 32768


def augmented_view(image: NDArray[np.uint8], plan: "ViewPlan", fill: int) -> NDArray[np.uint8]:
    """Run the chains of a plan on a clean image and mix them with it."""
    weights = q15_weights(plan.skip_weight, plan.mixture_weights)
    mixed = weights[0] * image.astype(np.int32)
    for weight, chain in zip(weights[1:], plan.chains, strict=True):
        augmented = image
        for call in chain:
            augmented = apply_op(call.name, augmented, call.magnitude, fill)
        mixed += weight * augmented.astype(np.int32)
    return ((mixed + ONE_Q15 // 2) >> 15).astype(np.uint8)


def q15_weights(skip_weight: float, mixture_weights: tuple[float, ...]) -> list[int]:
    """Return the weights of the clean image and of each chain in 1/32768, summing to 32768.

    Rounded by largest remainder, ties to the smaller index. The released code's m is 1 - skip_weight.
    """
    exact = [skip_weight * ONE_Q15] + [(1.0 - skip_weight) * weight * ONE_Q15 for weight in mixture_weights]
    floors = [int(value) for value in exact]
    by_remainder = sorted(range(len(exact)), key=lambda i: floors[i] - exact[i])
    for i in by_remainder[: ONE_Q15 - sum(floors)]:
        floors[i] += 1
    return floors


def apply_op(name: str, image: NDArray[np.uint8], magnitude: float, fill: int) -> NDArray[np.uint8]:
    """Apply one op; name and magnitude have been checked."""
    return np.asarray(pillow_op(name, Image.fromarray(image), magnitude, (fill, fill, fill)))


def pillow_op(name: str, image: Image.Image, magnitude: float, fill: tuple[int, int, int]) -> Image.Image:
    """The op in Pillow's own words."""

    def affine(*matrix: float) -> Image.Image:
        return image.transform(image.size, Image.Transform.AFFINE, matrix, Image.Resampling.BILINEAR, fillcolor=fill)

    match name:
        case "autocontrast":
            return ImageOps.autocontrast(image)
        case "equalize":
            return ImageOps.equalize(image)
        case "posterize":
            return ImageOps.posterize(image, int(magnitude))
        case "solarize":
            return ImageOps.solarize(image, int(magnitude))
        case "rotate":
            return image.rotate(magnitude, Image.Resampling.BILINEAR, fillcolor=fill)
        case "shear_x":
            return affine(1, magnitude, 0, 0, 1, 0)
        case "shear_y":
            return affine(1, 0, 0, magnitude, 1, 0)
        case "translate_x":
            return affine(1, 0, magnitude, 0, 1, 0)
        case "translate_y":
            return affine(1, 0, 0, 0, 1, magnitude)
        case "color":
            return ImageEnhance.Color(image).enhance(magnitude)
        case "contrast":
            return ImageEnhance.Contrast(image).enhance(magnitude)
        case "brightness":
            return ImageEnhance.Brightness(image).enhance(magnitude)
        case "sharpness":
            return ImageEnhance.Sharpness(image).enhance(magnitude)
    raise AssertionError(name)
