"""AugMix on batches: images in, V views of each out.

Pixels are a pure function of (seed, epoch, sample id, view) and the config: not of batch, order, worker or retry.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from augmix_core import backends
from augmix_core.backends import MAX_DEPTH, MAX_WIDTH, Backend
from augmix_core.errors import did_you_mean
from augmix_core.ops import DIALECTS, MAX_LEVEL, MIN_LEVEL, check_batch, check_fill
from augmix_core.philox import check_counters
from augmix_core.plan import draw_packed_plans, draw_plans
from augmix_core.reference import augmented_view

RELEASED_FILL = 128
Layout = Literal["HWC", "CHW"]
Normalization = tuple[Sequence[float], Sequence[float]]


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
    """Grey level, 0 to 255, that geometric ops pull in at the border (code: 0; dialect `released`: always 128)."""
    ops: Literal["standard", "all"] = "standard"
    """The nine ops that keep clear of the test corruptions, or those and color, contrast, brightness, sharpness."""
    dialect: Literal["official", "released", "torchvision", "timm"] = "official"
    """Whose levels and magnitudes. `official`: google-research's code. `released`: the same with fill 128, as its
    ImageNet weights were trained. `torchvision`: v2.AugMix's ten bins of each range, of which aug_severity takes the
    first ones. `timm`: levels from 0, fractions of degrees and pixels, translations to 30 %. Those two take all 13 ops
    (`ops="all"`) by default, truncate where this rounds, and fill or interpolate otherwise: that is not imitated."""

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
        for field, value, known in (("ops", self.ops, ("standard", "all")), ("dialect", self.dialect, DIALECTS)):
            if value not in known:
                raise ValueError(f"augmix.{field} {value!r} is unknown; {did_you_mean(str(value), known)}")
        if self.dialect == "torchvision" and (self.aug_severity != int(self.aug_severity) or self.aug_severity < 1):
            raise ValueError(
                f"augmix.aug_severity is {self.aug_severity}; in the dialect 'torchvision' it counts bins and must be "
                f"a whole number from 1 to {MAX_LEVEL:g}"
            )
        if self.dialect == "released" and self.fill not in (0, RELEASED_FILL):
            raise ValueError(
                f"augmix.fill is {self.fill}; the dialect 'released' fills with {RELEASED_FILL}: leave it out, or take "
                f"the dialect 'official'"
            )

    @property
    def border_fill(self) -> int:
        """The grey level that is filled in: `fill`, or the dialect's own."""
        return RELEASED_FILL if self.dialect == "released" else self.fill


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
    layout: Layout = "HWC",
    normalize: Normalization | None = None,
) -> NDArray:
    """Return the views of each image; view 0 is the image itself.

    Args:
        images: (N, H, W, 3) uint8 RGB, any H and W; read only.
        sample_ids: (N,) int64 >= 0, the identity that the randomness is keyed by.
        epoch: one epoch, or (N,) one for each image.
        seed: 0 <= seed < 2**64.
        config: AugMixConfig() when omitted.
        backend: "auto" is what $AUGMIX_BACKEND says, or else the fastest that runs; any other name takes that one or
            fails: "native" (the fastest compiled one), "avx512", "avx2", "portable", "reference" (Pillow).
        layout: "HWC" or "CHW", the axes of a view.
        normalize: (mean, std), three numbers each on the scale [0, 1]: gives (view / 255 - mean) / std in float32. It
            is four times the bytes, so cheaper on the device that trains.
    Returns:
        (N, views, H, W, 3), or (N, views, 3, H, W) for "CHW"; uint8, or float32 with `normalize`; a new array.
    Raises:
        ValueError: Images, ids, epoch or seed are of a wrong kind, shape or range.
        RuntimeError: The backend cannot run here.
    Source: AugMix (Hendrycks et al., 2020), algorithm 1.
    """
    config = config or AugMixConfig()
    variant = backends.variant_of(backend)
    ids = check_batch(images, sample_ids)
    if np.ndim(epoch) and np.shape(epoch) != ids.shape:
        raise ValueError(
            f"epoch has shape {np.shape(epoch)}; give one number or one for each of the {len(images)} images"
        )
    if layout not in ("HWC", "CHW"):
        raise ValueError(f"layout {layout!r} is unknown; {did_you_mean(str(layout), ('HWC', 'CHW'))}")
    check_counters(ids, seed=seed, epoch=epoch)
    scale, shift = scale_and_shift(normalize)
    if variant is None:
        return reference_views(images, ids, np.asarray(epoch), seed, config, layout, normalize and (scale, shift))
    height, width = images.shape[1:3]
    plans = draw_packed_plans(ids, epoch=epoch, seed=seed, config=config, image_size=(height, width), variant=variant)
    shape = (height, width, 3) if layout == "HWC" else (3, height, width)
    views = np.empty((len(images), config.views, *shape), np.uint8 if normalize is None else np.float32)
    backends.native_views(images, plans, views, config=config, variant=variant, scale=scale, shift=shift)
    return views


def scale_and_shift(normalize: Normalization | None) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Return (view / 255 - mean) / std as float32 factors of view * scale + shift."""
    if normalize is None:
        return (1.0,) * 3, (0.0,) * 3
    mean, std = (np.asarray(part, np.float64) for part in normalize)
    if mean.shape != (3,) or std.shape != (3,) or not np.isfinite([mean, std]).all() or (std <= 0).any():
        raise ValueError(f"normalize is {normalize}; it must be (mean, std), three finite numbers each, std above 0")
    scale, shift = 1 / (255 * std), -mean / std
    return tuple(scale.astype(np.float32).tolist()), tuple(shift.astype(np.float32).tolist())


def reference_views(
    images: NDArray[np.uint8],
    ids: NDArray[np.integer],
    epoch: NDArray[np.integer],
    seed: int,
    config: AugMixConfig,
    layout: Layout,
    scale_and_shift: tuple[tuple[float, ...], tuple[float, ...]] | None,
) -> NDArray:
    """`augmix` by Pillow."""
    views = np.empty((len(images), config.views, *images.shape[1:]), np.uint8)
    views[:, 0] = images
    plans = draw_plans(ids, epoch=epoch, seed=seed, config=config, image_size=(images.shape[1], images.shape[2]))
    for n, sample_plans in enumerate(plans):
        for v, plan in enumerate(sample_plans, start=1):
            views[n, v] = augmented_view(images[n], plan, config.border_fill)
    if scale_and_shift is not None:
        scale, shift = (np.array(part, np.float32) for part in scale_and_shift)
        views = views * scale + shift
    return views if layout == "HWC" else np.ascontiguousarray(np.moveaxis(views, -1, 2))
