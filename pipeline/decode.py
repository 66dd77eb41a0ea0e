"""From encoded rows to the clean images that AugMix starts from."""

import numpy as np
from numpy.typing import NDArray

from augmix_core.crop import draw_crops, pad_and_crop, random_resized_crop, resize_and_center_crop
from augmix_core.decode import decode_rgb
from pipeline.config import DataConfig
from pipeline.order import Split
from pipeline.source import Encoded, Source
from pipeline.sources.base import Unreadable

CIFAR_PADDING = 4
RESIZE_TO_CROP = 256 / 224  # ImageNet's evaluation: short side 256, centre 224
MAX_REPLACEMENTS = 100
NO_SAMPLE = -1
RGB_AXES = 3


class TooManyBadSamplesError(RuntimeError):
    """More samples than data.max_bad_fraction cannot be used; the text says which, for people."""


def training_images(
    source: Source, split: Split, positions: NDArray[np.int64], config: DataConfig, *, seed: int
) -> dict[str, NDArray]:
    """Return the columns sample_id, requested_id, epoch, label, image for stream positions.

    A sample that cannot be decoded is replaced by the next one of its epoch's order, so a batch never shrinks and
    the stream stays a pure function of (seed, position); requested_id then differs from sample_id. Where
    MAX_REPLACEMENTS in a row cannot be decoded, sample_id is NO_SAMPLE and the image black: training stops there.
    """
    epochs, requested = split.at(positions, seed=seed)
    encoded, labels = source.read(requested)
    ids = requested.copy()
    drawn = draw_crops(ids, epoch=epochs, seed=seed)
    images = np.zeros((len(ids), config.image_size, config.image_size, 3), np.uint8)
    for n, epoch in enumerate(epochs.tolist()):
        for skipped in range(1, MAX_REPLACEMENTS + 1):
            try:
                images[n] = training_crop(decoded(encoded[n], config), drawn[n], config)
                break
            except ValueError:
                start = epoch * split.size
                following = start + (positions[n] - start + skipped) % split.size
                _, (ids[n],) = split.at([following], seed=seed)
                (encoded[n],), (labels[n],) = source.read(ids[n : n + 1])
                (drawn[n],) = draw_crops(ids[n : n + 1], epoch=epoch, seed=seed)
        else:
            ids[n] = NO_SAMPLE
    return {"sample_id": ids, "requested_id": requested, "epoch": epochs, "label": labels, "image": images}


def evaluation_images(
    source: Source, sample_ids: NDArray[np.int64], config: DataConfig, *, resized: bool = True, margin: int = 0
) -> tuple[NDArray[np.uint8], NDArray[np.int64], NDArray[np.bool_]]:
    """Return (images, labels, valid) for sample ids; an image that cannot be decoded is black and not valid.

    Args:
        resized: as the recipe resizes raw images; otherwise they are of a published benchmark and taken as they are.
        margin: pixels by which the images are larger than data.image_size, for what moves them before the last crop.
    """
    encoded, labels = source.read(sample_ids)
    images = np.zeros((len(sample_ids), config.image_size + margin, config.image_size + margin, 3), np.uint8)
    valid = np.ones(len(sample_ids), bool)
    for n, item in enumerate(encoded):
        try:
            image = decoded(item, config)
            images[n] = evaluation_crop(image, config, margin) if resized else center_crop(image, config)
        except ValueError:
            valid[n] = False
    return images, labels, valid


def reason_unreadable(source: Source, sample_id: int, config: DataConfig, *, resized: bool = True) -> str:
    """Return why a sample cannot be used, or '' if it can; `resized` as in `evaluation_images`."""
    try:
        image = decoded(source.read([sample_id])[0][0], config)
        if image.ndim == RGB_AXES:  # else a sequence of frames, which reading has checked
            evaluation_crop(image, config) if resized else center_crop(image, config)
    except ValueError as error:
        return str(error)
    return ""


def decoded(item: Encoded, config: DataConfig) -> NDArray[np.uint8]:
    """(H, W, 3) uint8 RGB."""
    if isinstance(item, Unreadable):
        raise ValueError(item.reason)
    return decode_rgb(item, max_pixels=config.max_pixels) if isinstance(item, bytes) else item


def training_crop(image: NDArray[np.uint8], drawn: NDArray[np.uint32], config: DataConfig) -> NDArray[np.uint8]:
    """The random crop and flip of the recipe; `drawn` is the sample's row of `draw_crops`."""
    if config.crop == "random_resized":
        return random_resized_crop(image, drawn, size=config.image_size, flip=config.flip)
    padding = CIFAR_PADDING if config.crop == "pad" else 0
    return pad_and_crop(of_size(image, config), drawn, padding=padding, flip=config.flip)


def resized_side(config: DataConfig) -> int:
    """The short side of a raw image before its centre is cut out."""
    return round(config.image_size * RESIZE_TO_CROP) if config.crop == "random_resized" else config.image_size


def evaluation_crop(image: NDArray[np.uint8], config: DataConfig, margin: int = 0) -> NDArray[np.uint8]:
    """ImageNet: short side to 256 / 224 of the size and the centre; else the image as it is."""
    if config.crop == "random_resized":
        return resize_and_center_crop(image, resize_to=resized_side(config), size=config.image_size + margin)
    return of_size(image, config)


def center_crop(image: NDArray[np.uint8], config: DataConfig) -> NDArray[np.uint8]:
    """The centre of an image that is at least as large as needed, never resized."""
    size = config.image_size
    top, left = (image.shape[0] - size) // 2, (image.shape[1] - size) // 2
    if top < 0 or left < 0:
        raise ValueError(f"is {image.shape[1]}x{image.shape[0]} pixels; a published benchmark of {size} px is needed")
    return image[top : top + size, left : left + size]


def of_size(image: NDArray[np.uint8], config: DataConfig) -> NDArray[np.uint8]:
    """Refuse an image of another size where the recipe does not resize."""
    size = config.image_size
    if image.shape != (size, size, 3):
        raise ValueError(f"is {image.shape[1]}x{image.shape[0]} pixels; data.image_size {size} takes {size}x{size}")
    return image
