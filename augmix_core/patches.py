"""Cutout, Mixup and CutMix: the baselines that hide a part of an image, or show a second one in it.

images: (N, H, W, 3) uint8 RGB; every draw is keyed by (seed, epoch, sample id), so each sample has its own hole, box
and weight, where the papers' codes draw one weight a batch. Which sample is the partner is for the caller to say.
"""

from collections.abc import Iterable

import numpy as np
from numpy.typing import ArrayLike, NDArray

from augmix_core.philox import Purpose, below, uniform, words
from augmix_core.plan import draw_log_gamma, normalise_exp

ONE_Q15 = 32768

Boxes = NDArray[np.int64]
"""(N, 4): top, left, bottom, right in pixels, the last two exclusive."""


def cutout(
    images: NDArray[np.uint8],
    sample_ids: ArrayLike,
    *,
    epoch: ArrayLike,
    seed: int,
    size: int,
    fill: tuple[int, int, int] = (0, 0, 0),
) -> NDArray[np.uint8]:
    """Return copies with one square hole each, whose centre is any pixel, so that it may reach over the border.

    Args:
        size: side of the hole, in pixels (CIFAR-10: 16).
        fill: by channel; the mean, which normalisation turns into the paper's 0.
    Source: DeVries & Taylor (2017).
    """
    ids = np.asarray(sample_ids)
    drawn = words(ids, seed=seed, purpose=Purpose.CUTOUT, epoch=epoch)
    holes = boxes_around(drawn[:, :2], np.full((len(ids), 2), size), (images.shape[1], images.shape[2]))
    cut = images.copy()
    for image, (top, left, bottom, right) in zip(cut, holes.tolist(), strict=True):
        image[top:bottom, left:right] = fill
    return cut


def boxes_around(drawn: NDArray[np.uint32], sides: NDArray[np.int64], image_size: tuple[int, int]) -> Boxes:
    """Return boxes of given sides around pixels drawn uniformly, cut at the border of the image.

    Args:
        drawn: (N, 2) words, for the row and the column of the centre.
        sides: (N, 2), height and width in pixels.
    """
    size = np.asarray(image_size)
    start = below(drawn, size) - sides // 2
    return np.concatenate([np.maximum(start, 0), np.minimum(start + sides, size)], axis=1)


def draw_shares(
    sample_ids: ArrayLike, *, epoch: ArrayLike, seed: int, purpose: Purpose, alpha: float
) -> NDArray[np.float64]:
    """Return (N,) shares ~ Beta(alpha, alpha) of the sample's own image; blocks from 1 on, block 0 is the caller's."""
    ids = np.asarray(sample_ids)

    def draw(blocks: Iterable[int]) -> NDArray[np.uint32]:
        block = np.fromiter(blocks, np.int64)
        drawn = words(ids[:, None], seed=seed, purpose=purpose, epoch=np.reshape(epoch, (-1, 1)), block=block)
        return drawn.reshape(len(ids), 4 * len(block))

    if alpha == 1.0:
        return uniform(draw([1])[:, 0])
    return normalise_exp(np.stack([draw_log_gamma(draw, i, alpha) for i in range(2)], axis=-1))[:, 0]


def mixup(
    images: NDArray[np.uint8],
    partners: NDArray[np.uint8],
    sample_ids: ArrayLike,
    *,
    epoch: ArrayLike,
    seed: int,
    alpha: float,
) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
    """Return (share x image + (1 - share) x partner, share), share ~ Beta(alpha, alpha) for each sample.

    Weights are multiples of 1/32768 and the sum is rounded to bytes, as in AugMix: at most half a level from floats.
    The label of the mix is that of the image with weight share, and that of the partner with the rest.

    Args:
        alpha: the paper's 1 on CIFAR, 0.2 on ImageNet.
    Returns:
        ((N, H, W, 3) uint8, (N,) float32 in [0, 1]).
    Source: Zhang et al. (2018).
    """
    shares = draw_shares(sample_ids, epoch=epoch, seed=seed, purpose=Purpose.MIXUP, alpha=alpha)
    weights = np.rint(shares * ONE_Q15).astype(np.int32)[:, None, None, None]
    mixed = weights * images.astype(np.int32) + (ONE_Q15 - weights) * partners.astype(np.int32)
    rounded = ((mixed + ONE_Q15 // 2) >> 15).astype(np.uint8)
    return rounded, (weights.reshape(-1) / ONE_Q15).astype(np.float32)


def cutmix(
    images: NDArray[np.uint8],
    partners: NDArray[np.uint8],
    sample_ids: ArrayLike,
    *,
    epoch: ArrayLike,
    seed: int,
    alpha: float,
    probability: float,
) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
    """Return (images with a box of their partners, share of each image that is its own), by a coin for each sample.

    The box has 1 - lambda of the area before it is cut at the border, lambda ~ Beta(alpha, alpha), the aspect of the
    image, and any pixel as its centre; the share is what it then really leaves.

    Args:
        alpha: the paper's 1.
        probability: that a sample gets a box at all (the paper's code: 0.5 on CIFAR, 1 on ImageNet).
    Returns:
        ((N, H, W, 3) uint8, (N,) float32 in [0, 1]).
    Source: Yun et al. (2019).
    """
    ids = np.asarray(sample_ids)
    height, width = images.shape[1:3]
    drawn = words(ids, seed=seed, purpose=Purpose.CUTMIX, epoch=epoch)
    own = draw_shares(ids, epoch=epoch, seed=seed, purpose=Purpose.CUTMIX, alpha=alpha)
    sides = (np.sqrt(1 - own)[:, None] * (height, width)).astype(np.int64)
    sides[uniform(drawn[:, 2]) >= probability] = 0
    boxes = boxes_around(drawn[:, :2], sides, (height, width))
    mixed = images.copy()
    for n, (top, left, bottom, right) in enumerate(boxes.tolist()):
        mixed[n, top:bottom, left:right] = partners[n, top:bottom, left:right]
    areas = np.prod(boxes[:, 2:] - boxes[:, :2], axis=1)
    return mixed, (1 - areas / (height * width)).astype(np.float32)
