"""From the cropped images of a block to what a method shows its network, and the labels that go with it."""

import dataclasses

import numpy as np
from numpy.typing import NDArray

from augmix_core import augmix
from augmix_core.patches import cutmix, cutout, mixup
from augmix_core.philox import Purpose
from augmix_core.policies import apply_calls, draw_autoaugment, draw_random_autoaugment
from pipeline.config import RunConfig
from pipeline.methods import METHODS, MIXED
from pipeline.order import Split, permute


def has_partners(config: RunConfig) -> bool:
    """Whether the method shows a second sample in every image."""
    return METHODS[config.method].images in MIXED


def partner_positions(split: Split, positions: NDArray[np.int64], *, seed: int) -> NDArray[np.int64]:
    """Return the stream position that each one is mixed with: another one of its epoch, by a keyed permutation.

    So every sample is a partner once an epoch, as it is where a batch is mixed with a permutation of itself; but which
    it is does not depend on batches and workers.
    """
    epoch, member = np.divmod(positions, split.size)
    return epoch * split.size + permute(member, split.size, seed=seed, purpose=Purpose.PARTNER, epoch=epoch)


def training_views(
    rows: dict[str, NDArray], partners: dict[str, NDArray] | None, config: RunConfig
) -> dict[str, NDArray]:
    """Return the column views (N, V, H, W, 3) uint8; of methods that mix samples also partner_label and share.

    Args:
        rows: image (N, H, W, 3) uint8, sample_id and epoch, as of `decode.training_images`.
        partners: the same of the samples to mix with, with their label; for the methods that do.
    Returns:
        share (N,) float32 is the weight of the row's own label, the rest is that of partner_label.
    """
    method, baseline = METHODS[config.method], config.baseline
    images, ids, epochs, seed = rows["image"], rows["sample_id"], rows["epoch"], config.seed
    if partners is not None:
        mixed, share = (
            mixup(images, partners["image"], ids, epoch=epochs, seed=seed, alpha=baseline.mixup_alpha)
            if method.images == "mixup"
            else cutmix(
                *(images, partners["image"], ids),
                epoch=epochs,
                seed=seed,
                alpha=baseline.cutmix_alpha,
                probability=baseline.cutmix_probability,
            )
        )
        return {"views": mixed[:, None], "partner_label": partners["label"], "share": share}
    if method.images == "augmix":
        shown = config.augmix if method.consistency else dataclasses.replace(config.augmix, views=2)
        views = augmix(images, ids, epoch=epochs, seed=seed, config=shown)
        return {"views": views if method.consistency else np.ascontiguousarray(views[:, 1:])}
    if method.images == "clean":
        return {"views": images[:, None]}
    if method.images == "cutout":
        mean = (round(255 * config.data.mean[0]), round(255 * config.data.mean[1]), round(255 * config.data.mean[2]))
        cut = cutout(images, ids, epoch=epochs, seed=seed, size=baseline.cutout_size, fill=mean)
        return {"views": cut[:, None]}
    draw = draw_autoaugment if method.images == "autoaugment" else draw_random_autoaugment
    size = (images.shape[1], images.shape[2])
    first = [images] if method.consistency else []
    augmented = [
        apply_calls(images, draw(ids, epoch=epochs, seed=seed, image_size=size, view=view))
        for view in range(len(first), config.augmix.views)
    ]
    return {"views": np.stack([*first, *augmented], axis=1)}
