"""AutoAugment for CIFAR and its random counterpart, both without the ops that overlap the test corruptions.

images: (N, H, W, 3) uint8 RGB. Every draw is keyed by (seed, epoch, sample id, view). Ops are Pillow's, as AugMix's
are, with bilinear interpolation and black borders; AutoAugment's own code and torchvision's default take the nearest
pixel, and their magnitudes are taken here.
"""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from augmix_core import reference
from augmix_core.ops import OVERLAPPING_OPS, STANDARD_OPS
from augmix_core.philox import Purpose, below, uniform, words

BINS = 10
OPS_A_POLICY = 2
POLICY_OPS = (*STANDARD_OPS, "invert")
"""What the random policy draws from: AutoAugment's ops without the overlapping ones."""
SIGNED = ("rotate", "shear_x", "shear_y", "translate_x", "translate_y")
MAX_TRANSLATION = 150 / 331  # of the side

Step = tuple[str, float, int]
"""Op, probability, bin of its magnitude 0 to 9."""

PUBLISHED_CIFAR_POLICY: tuple[tuple[Step, Step], ...] = (
    (("invert", 0.1, 0), ("contrast", 0.2, 6)),
    (("rotate", 0.7, 2), ("translate_x", 0.3, 9)),
    (("sharpness", 0.8, 1), ("sharpness", 0.9, 3)),
    (("shear_y", 0.5, 8), ("translate_y", 0.7, 9)),
    (("autocontrast", 0.5, 0), ("equalize", 0.9, 0)),
    (("shear_y", 0.2, 7), ("posterize", 0.3, 7)),
    (("color", 0.4, 3), ("brightness", 0.6, 7)),
    (("sharpness", 0.3, 9), ("brightness", 0.7, 9)),
    (("equalize", 0.6, 0), ("equalize", 0.5, 0)),
    (("contrast", 0.6, 7), ("sharpness", 0.6, 5)),
    (("color", 0.7, 7), ("translate_x", 0.5, 8)),
    (("equalize", 0.3, 0), ("autocontrast", 0.4, 0)),
    (("translate_y", 0.4, 3), ("sharpness", 0.2, 6)),
    (("brightness", 0.9, 6), ("color", 0.2, 8)),
    (("solarize", 0.5, 2), ("invert", 0.0, 0)),
    (("equalize", 0.2, 0), ("autocontrast", 0.6, 0)),
    (("equalize", 0.2, 0), ("equalize", 0.6, 0)),
    (("color", 0.9, 9), ("equalize", 0.6, 0)),
    (("autocontrast", 0.8, 0), ("solarize", 0.2, 8)),
    (("brightness", 0.1, 3), ("color", 0.7, 0)),
    (("solarize", 0.4, 5), ("autocontrast", 0.9, 0)),
    (("translate_y", 0.9, 9), ("translate_y", 0.7, 9)),
    (("autocontrast", 0.9, 0), ("solarize", 0.8, 3)),
    (("equalize", 0.8, 0), ("invert", 0.1, 0)),
    (("translate_y", 0.7, 9), ("autocontrast", 0.9, 0)),
)
"""Source: Cubuk et al. (2019), "AutoAugment", the policy found on CIFAR-10, as torchvision has it."""

CIFAR_POLICY: tuple[tuple[Step, ...], ...] = tuple(
    kept
    for steps in PUBLISHED_CIFAR_POLICY
    if (kept := tuple(step for step in steps if step[0] not in OVERLAPPING_OPS))
)
"""The same without overlapping ops: what is left of a pair stays, a pair of which nothing is left goes."""


@dataclass(frozen=True, slots=True)
class Call:
    """One op at one magnitude, in the op's own unit."""

    name: str
    magnitude: float


def magnitude_of_bin(name: str, magnitude_bin: int, image_size: tuple[int, int]) -> float:
    """Return the magnitude of a bin, unsigned: AutoAugment's ranges over ten bins.

    Source: Cubuk et al. (2019), table 6; translations reach 150 / 331 of the side as in torchvision.
    """
    share = magnitude_bin / (BINS - 1)
    match name:
        case "shear_x" | "shear_y":
            return 0.3 * share
        case "translate_x":
            return int(MAX_TRANSLATION * image_size[1] * share)
        case "translate_y":
            return int(MAX_TRANSLATION * image_size[0] * share)
        case "rotate":
            return 30 * share
        case "posterize":
            return 8 - round(4 * share)
        case "solarize":
            return math.ceil(255 * (1 - share))  # Pillow inverts values from the threshold on
    return 0


def draw_autoaugment(
    sample_ids: ArrayLike, *, epoch: ArrayLike, seed: int, image_size: tuple[int, int], view: int = 0
) -> list[list[Call]]:
    """Return the ops of each sample: a pair of the policy by lot, each op of it by its probability."""
    drawn = draw_words(sample_ids, epoch=epoch, seed=seed, view=view)
    chosen = below(drawn[:, 0, 0], len(CIFAR_POLICY)).tolist()
    applied, negative = uniform(drawn[:, 1:, 0]), drawn[:, 1:, 1] & 1
    return [
        [
            signed(name, magnitude_of_bin(name, magnitude_bin, image_size), bool(negative[n, k]))
            for k, (name, probability, magnitude_bin) in enumerate(CIFAR_POLICY[which])
            if applied[n, k] < probability
        ]
        for n, which in enumerate(chosen)
    ]


def draw_random_autoaugment(
    sample_ids: ArrayLike, *, epoch: ArrayLike, seed: int, image_size: tuple[int, int], view: int = 0
) -> list[list[Call]]:
    """Return the ops of each sample: two of AutoAugment's by lot, each at a magnitude bin by lot, always applied."""
    drawn = draw_words(sample_ids, epoch=epoch, seed=seed, view=view)[:, 1:]
    names, bins, negative = below(drawn[..., 2], len(POLICY_OPS)), below(drawn[..., 3], BINS), drawn[..., 1] & 1
    return [
        [
            signed(name, magnitude_of_bin(name, int(bins[n, k]), image_size), bool(negative[n, k]))
            for k, name in enumerate(POLICY_OPS[i] for i in names[n])
        ]
        for n in range(len(names))
    ]


def draw_words(sample_ids: ArrayLike, *, epoch: ArrayLike, seed: int, view: int) -> NDArray[np.uint32]:
    """(N, 3, 4): block 0 for the pair; 1 and 2 for an op each: applied, sign, op, bin."""
    block, epochs = np.arange(1 + OPS_A_POLICY), np.reshape(epoch, (-1, 1))
    ids = np.asarray(sample_ids)[:, None]
    return words(ids, seed=seed, purpose=Purpose.POLICY, epoch=epochs, view=view, block=block)


def signed(name: str, magnitude: float, negative: bool) -> Call:
    """The call, its magnitude turned round by a coin where the op has two directions."""
    return Call(name, -magnitude if negative and name in SIGNED else magnitude)


def apply_calls(images: NDArray[np.uint8], calls: list[list[Call]]) -> NDArray[np.uint8]:
    """Return copies of the images with the ops of each applied one after the other."""
    augmented = images.copy()
    for n, steps in enumerate(calls):
        for call in steps:
            augmented[n] = (
                255 - augmented[n]
                if call.name == "invert"
                else reference.apply_op(call.name, augmented[n], call.magnitude, 0)
            )
    return augmented
