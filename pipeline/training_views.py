"""From the cropped images of a block to what a method shows its network, and the labels that go with it."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from augmix_core import augmix
from augmix_core.patches import cutmix, cutout, mixup
from augmix_core.permutation import permute
from augmix_core.philox import Purpose
from augmix_core.policies import apply_calls, draw_autoaugment, draw_random_autoaugment
from pipeline.config import RunConfig
from pipeline.methods import METHODS, MIXED
from pipeline.order import Split

PARTNER_WINDOW = 1024  # positions


def has_partners(config: RunConfig) -> bool:
    """Whether the method shows a second sample in every image."""
    return METHODS[config.method].images in MIXED


def partner_positions(split: Split, positions: NDArray[np.int64], *, seed: int) -> NDArray[np.int64]:
    """Return the stream position that each one is mixed with: one of its window of the epoch, by a keyed permutation.

    The order of the stream is random, so neighbours in it are as good as any, and near for sources read in sequence.
    Every sample is a partner once an epoch, as it is where a batch is mixed with a permutation of itself; but whose it
    is does not depend on batches and workers.
    """
    epoch, place = np.divmod(positions, split.size)
    window = place // PARTNER_WINDOW
    first = window * PARTNER_WINDOW
    sizes = np.minimum(PARTNER_WINDOW, split.size - first)
    found = permute(place - first, sizes, seed=seed, purpose=Purpose.PARTNER, epoch=epoch, window=window)
    return epoch * split.size + first + found


def with_views(
    rows: Mapping[str, NDArray], config: RunConfig, partners: Mapping[str, NDArray] | None = None
) -> dict[str, NDArray]:
    """The rows with views (N, V, H, W, 3) uint8 in place of image; of methods that mix also partner_label and share.

    Args:
        rows: image (N, H, W, 3) uint8, sample_id and epoch, as of `decode.training_images`.
        partners: the same of the samples to mix with, with their label; for the methods that do.
    Returns:
        share (N,) float32 is the weight of the row's own label, the rest is that of partner_label.
    """
    kept = {name: column for name, column in rows.items() if name != "image"}
    images, ids = rows["image"], np.maximum(rows["sample_id"], 0)  # NO_SAMPLE has no views that anybody sees
    if partners is None:
        return kept | {"views": views_of(images, ids, rows["epoch"], config)}
    key: dict[str, Any] = {"epoch": rows["epoch"], "seed": config.seed}
    baseline = config.baseline
    if METHODS[config.method].images == "mixup":
        mixed, share = mixup(images, partners["image"], ids, alpha=baseline.mixup_alpha, **key)
    else:
        alpha, probability = baseline.cutmix_alpha, baseline.cutmix_probability
        mixed, share = cutmix(images, partners["image"], ids, alpha=alpha, probability=probability, **key)
    return kept | {"views": mixed[:, None], "partner_label": partners["label"], "share": share}


def views_of(
    images: NDArray[np.uint8], ids: NDArray[np.int64], epochs: NDArray[np.int64], config: RunConfig
) -> NDArray[np.uint8]:
    """(N, V, H, W, 3) views of methods that show one sample at a time."""
    method = METHODS[config.method]
    key: dict[str, Any] = {"epoch": epochs, "seed": config.seed}
    if method.images == "clean":
        return images[:, None]
    if method.images == "augmix" and method.consistency:
        return augmix(images, ids, config=config.augmix, **key)
    if method.images == "augmix":
        pair = augmix(images, ids, config=dataclasses.replace(config.augmix, views=2), **key)
        return np.ascontiguousarray(pair[:, 1:])
    if method.images == "cutout":
        mean = (round(255 * config.data.mean[0]), round(255 * config.data.mean[1]), round(255 * config.data.mean[2]))
        return cutout(images, ids, size=config.baseline.cutout_size, fill=mean, **key)[:, None]
    draw = draw_autoaugment if method.images == "autoaugment" else draw_random_autoaugment
    size = (images.shape[1], images.shape[2])
    first = [images] if method.consistency else []
    augmented = [
        apply_calls(images, draw(ids, image_size=size, view=view, **key))
        for view in range(len(first), config.augmix.views)
    ]
    return np.stack([*first, *augmented], axis=1)
