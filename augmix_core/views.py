"""AugMix on batches: images in, V views of each out.

Pixels are a pure function of (seed, epoch, sample id, view) and the config: not of batch, order, worker or retry.
"""

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from augmix_core.errors import did_you_mean
from augmix_core.ops import MAX_LEVEL, Backend, check_backend, check_fill, check_images
from augmix_core.plan import MAX_DEPTH, MAX_WIDTH, MIN_LEVEL, draw_plans
from augmix_core.reference import augmented_view


@dataclass(frozen=True, kw_only=True, slots=True)
class AugMixConfig:
    """What an augmented view is made of. Defaults are the paper's for CIFAR."""

    width: int = 3
    """Chains mixed into one view, 1 to 8 (paper: 3)."""
    depth: int = -1
    """Ops in a chain, 1 to 8; -1 draws 1, 2 or 3 for each chain (paper: -1)."""
    aug_severity: float = 3.0
    """Upper bound of the level of an op, 0.1 to 10 (paper: 3 on CIFAR, 1 on ImageNet)."""
    alpha: float = 1.0
    """Concentration of the Dirichlet over chains and of the Beta against the clean image (paper: 1)."""
    views: int = 3
    """Views of a sample, 1 to 8; view 0 is the clean image, so 1 means no augmentation (paper: 3)."""
    fill: int = 0
    """Grey level, 0 to 255, that geometric ops pull in at the border (code: 0; released weights: 128)."""
    ops: Literal["standard", "all"] = "standard"
    """The nine ops that keep clear of the test corruptions, or those and color, contrast, brightness, sharpness."""
    dialect: Literal["official"] = "official"
    """Whose AugMix: `official` is google-research's code."""

    def __post_init__(self) -> None:
        check_whole("augmix.width", self.width, 1, MAX_WIDTH, "it counts chains")
        if self.depth != -1:
            check_whole(
                "augmix.depth", self.depth, 1, MAX_DEPTH, "it counts ops in a chain, or is -1 for 1 to 3 at random"
            )
        if not MIN_LEVEL <= self.aug_severity <= MAX_LEVEL:
            raise ValueError(
                f"augmix.aug_severity is {self.aug_severity}; levels run from {MIN_LEVEL} to {MAX_LEVEL:g}"
            )
        if not (math.isfinite(self.alpha) and 0.01 <= self.alpha <= 1000):
            raise ValueError(f"augmix.alpha is {self.alpha}; a Dirichlet concentration must be from 0.01 to 1000")
        check_whole("augmix.views", self.views, 1, 8, "it counts the clean image and its augmented views")
        check_fill(self.fill)
        for field, value, known in (("ops", self.ops, ("standard", "all")), ("dialect", self.dialect, ("official",))):
            if value not in known:
                raise ValueError(f"augmix.{field} {value!r} is unknown; {did_you_mean(str(value), known)}")


def check_whole(field: str, value: object, low: int, high: int, meaning: str) -> None:
    """Refuse what is not a whole number in a range."""
    if isinstance(value, bool) or not isinstance(value, (int, np.integer)) or not low <= value <= high:
        raise ValueError(f"{field} is {value!r}; {meaning} and must be a whole number from {low} to {high}")


def augmix(
    images: NDArray[np.uint8],
    sample_ids: ArrayLike,
    *,
    epoch: ArrayLike = 0,
    seed: int = 0,
    config: AugMixConfig | None = None,
    backend: Backend = "auto",
) -> NDArray[np.uint8]:
    """Return the views of each image; view 0 is the image itself.

    Args:
        images: (N, H, W, 3) uint8 RGB, any H and W; read only.
        sample_ids: (N,) int64 >= 0, the identity that the randomness is keyed by.
        epoch: one epoch, or (N,) one for each image.
        seed: 0 <= seed < 2**64.
        config: AugMixConfig() when omitted.
        backend: "auto" takes the fastest that runs; any other name takes that one or fails.
    Returns:
        (N, views, H, W, 3) uint8, a new array.
    Raises:
        ValueError: Images, ids, epoch or seed are of a wrong kind, shape or range.
        RuntimeError: The backend cannot run here.
    Source: AugMix (Hendrycks et al., 2020), algorithm 1.
    """
    config = config or AugMixConfig()
    check_backend(backend)
    check_images(images)
    ids = np.asarray(sample_ids)
    if ids.shape != (len(images),):
        raise ValueError(f"sample_ids has shape {ids.shape}; one id for each of the {len(images)} images is needed")
    if np.ndim(epoch) and np.shape(epoch) != ids.shape:
        raise ValueError(
            f"epoch has shape {np.shape(epoch)}; give one number or one for each of the {len(images)} images"
        )
    views = np.empty((len(images), config.views, *images.shape[1:]), np.uint8)
    views[:, 0] = images
    if len(images) == 0 or config.views == 1:
        return views
    plans = draw_plans(ids, epoch=epoch, seed=seed, config=config, image_size=(images.shape[1], images.shape[2]))
    for n, sample_plans in enumerate(plans):
        for v, plan in enumerate(sample_plans, start=1):
            views[n, v] = augmented_view(images[n], plan, config.fill)
    return views
