"""Crops and flips before AugMix, and the fixed crop of evaluation; resizing has Pillow's antialiased bilinear bits.

image: (H, W, 3) uint8 RGB. Every draw is keyed by (seed, epoch, sample id); all views of a sample share it.
backend: as in `augmix_core.augmix`; all give the same pixels.
"""

import math

import numpy as np
from numpy.typing import ArrayLike, NDArray
from PIL import Image

from augmix_core import backends
from augmix_core.backends import Backend
from augmix_core.philox import Purpose, below, uniform, words

SCALE = (0.08, 1.0)  # share of the area; as torchvision's RandomResizedCrop
LOG_ASPECT = (math.log(3 / 4), math.log(4 / 3))
TRIES = 10


def draw_crops(sample_ids: ArrayLike, *, epoch: ArrayLike, seed: int) -> NDArray[np.uint32]:
    """Return (N, 1 + TRIES, 4) words: row 0 for the coin and the offsets, the others for boxes to try."""
    ids, epochs = np.atleast_1d(np.asarray(sample_ids)), np.asarray(epoch)
    return words(
        ids[:, None],
        seed=seed,
        purpose=Purpose.CROP,
        epoch=np.broadcast_to(epochs, ids.shape)[:, None],
        block=np.arange(1 + TRIES),
    )


def pad_and_crop(image: NDArray[np.uint8], drawn: NDArray[np.uint32], *, padding: int, flip: bool) -> NDArray[np.uint8]:
    """Flip by a coin (if `flip`), pad with zeros on all sides and crop a window of the old size: CIFAR's recipe.

    Args:
        image: (H, W, 3) uint8.
        drawn: (1 + TRIES, 4), one sample of `draw_crops`.
        padding: pixels on each side.
    """
    if flip and drawn[0, 0] & 1:
        image = image[:, ::-1]
    height, width = image.shape[:2]
    top, left = below(drawn[0, 1:3], 2 * padding + 1).tolist()
    padded = np.zeros((height + 2 * padding, width + 2 * padding, 3), np.uint8)
    padded[padding : padding + height, padding : padding + width] = image
    return padded[top : top + height, left : left + width]


def random_resized_crop(
    image: NDArray[np.uint8], drawn: NDArray[np.uint32], *, size: int, flip: bool, backend: Backend = "auto"
) -> NDArray[np.uint8]:
    """Crop 8 to 100 % of the area at an aspect of 3/4 to 4/3, resize, perhaps flip: ImageNet's recipe.

    Args:
        image: (H, W, 3) uint8.
        drawn: (1 + TRIES, 4), one sample of `draw_crops`.
        size: height and width of the result, in pixels.
    """
    box = choose_box(image.shape[0], image.shape[1], drawn[1:])
    return resize(image, (size, size), box=box, mirrored=flip and bool(drawn[0, 0] & 1), backend=backend)


def choose_box(height: int, width: int, tries: NDArray[np.uint32]) -> tuple[int, int, int, int]:
    """Return (left, top, right, bottom): the first of the drawn boxes that fits, else the largest central one.

    Source: torchvision's RandomResizedCrop.get_params.
    """
    for drawn in tries:
        area_share, aspect_share = uniform(drawn[:2]).tolist()
        area = height * width * (SCALE[0] + area_share * (SCALE[1] - SCALE[0]))
        aspect = math.exp(LOG_ASPECT[0] + aspect_share * (LOG_ASPECT[1] - LOG_ASPECT[0]))
        w, h = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
        if 0 < w <= width and 0 < h <= height:
            left, top = int(below(drawn[2], width - w + 1)), int(below(drawn[3], height - h + 1))
            return left, top, left + w, top + h
    w = min(width, round(height * math.exp(LOG_ASPECT[1])))
    h = min(height, round(width / math.exp(LOG_ASPECT[0])))
    left, top = (width - w) // 2, (height - h) // 2
    return left, top, left + w, top + h


def resize_and_center_crop(
    image: NDArray[np.uint8], *, resize_to: int, size: int, backend: Backend = "auto"
) -> NDArray[np.uint8]:
    """Resize the short side to `resize_to` pixels and cut the central (size, size): ImageNet's evaluation."""
    resized = resize_short_side(image, resize_to, backend=backend)
    top, left = round((resized.shape[0] - size) / 2), round((resized.shape[1] - size) / 2)
    return resized[top : top + size, left : left + size]


def resize_short_side(image: NDArray[np.uint8], resize_to: int, *, backend: Backend = "auto") -> NDArray[np.uint8]:
    """Resize the short side to `resize_to` pixels, and the long one with it."""
    height, width = image.shape[:2]
    short = min(height, width)
    new_size = int(height * resize_to / short), int(width * resize_to / short)
    return resize(image, new_size, box=(0, 0, width, height), backend=backend)


def resize(
    image: NDArray[np.uint8],
    size: tuple[int, int],
    *,
    box: tuple[int, int, int, int],
    mirrored: bool = False,
    backend: Backend = "auto",
) -> NDArray[np.uint8]:
    """Cut (left, top, right, bottom) and resize it to (height, width), as Pillow 13 does, whatever Pillow is installed.

    Mirrored, it is flipped left to right at the end.

    Between its two passes Pillow rounds to uint8, so their order shows. Pillow 13 goes down the columns first where
    that leaves much less to do; earlier releases never do.
    """
    variant = backends.variant_of(backend)
    left, top, right, bottom = box
    height, width = size
    if variant is not None:
        return backends.native_resize(image, box, size, mirrored, variant)
    cropped = Image.fromarray(image[top:bottom, left:right])
    rows_less, columns_less = bottom - top - height, right - left - width
    if rows_less > 0 and rows_less > 2 * columns_less:
        cropped = cropped.resize((cropped.width, height), Image.Resampling.BILINEAR)
    resized = np.asarray(cropped.resize((width, height), Image.Resampling.BILINEAR))
    return resized[:, ::-1] if mirrored else resized
