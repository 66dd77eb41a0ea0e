"""Which kernels run: the compiled ones, `_augmix_native`, where they were built, else the Pillow reference.

All give the same pixels, those of Pillow's x86-64 builds; Pillow's builds for ARM fuse multiplications and additions,
so that the reference may differ there in a rare value. The compiled module has a top-level name of its own: it must be
found when augmix_core itself comes from a working directory that a job uploaded. It may then be older than this code,
which is checked.
"""

import functools
import os
import warnings
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from augmix_core.errors import did_you_mean

if TYPE_CHECKING:
    from augmix_core.ops import LevelLaw
    from augmix_core.views import AugMixConfig

Backend = Literal["auto", "native", "avx512", "avx2", "portable", "reference"]
BACKENDS: tuple[str, ...] = ("auto", "native", "avx512", "avx2", "portable", "reference")
VARIANT_NUMBERS = {"portable": 0, "avx2": 1, "avx512": 2}

INTERFACE = 4
MAX_WIDTH = 8
MAX_DEPTH = 8
PLAN = np.dtype(
    [
        ("magnitude", np.float64, (MAX_WIDTH, MAX_DEPTH)),
        ("mixture_weight", np.float64, MAX_WIDTH),
        ("skip_weight", np.float64),
        ("q15_weight", np.int32, MAX_WIDTH + 1),
        ("depth", np.uint8, MAX_WIDTH),
        ("op", np.uint8, (MAX_WIDTH, MAX_DEPTH)),
    ],
    align=True,
)
"""One augmented view, as the C struct Plan lays it out."""

RULE_BYTES = 7 * 8  # the struct Rule: a row of `augmix_core.plan.packed_rules`

REMEDY = (
    "install a C compiler (Debian: apt install gcc; macOS: xcode-select --install) and reinstall augmix-ray, "
    "or take its wheel"
)


def load_native() -> tuple[Any, str]:
    """Return the compiled module, or None and the reason."""
    try:
        import _augmix_native as native
    except ImportError as error:
        return None, f"the compiled kernels are not installed ({error})"
    if (INTERFACE, PLAN.itemsize, RULE_BYTES) != (native.INTERFACE, native.PLAN_BYTES, native.RULE_BYTES):
        return None, "the compiled kernels belong to another version of augmix-ray"
    return native, ""


NATIVE, WHY_NOT = load_native()
VARIANTS: tuple[str, ...] = tuple(NATIVE.variants()) if NATIVE else ()
"""The compiled variants that this processor runs, fastest first."""


def variant_of(backend: str) -> str | None:
    """Return the compiled variant that a backend stands for here, or None for the Pillow reference.

    "auto" is what the environment variable AUGMIX_BACKEND says, else the fastest that runs, with one warning if that is
    the reference.
    Raises:
        ValueError: There is no such backend.
        RuntimeError: It cannot run here.
    """
    check_backend("backend", backend)
    if backend == "auto":
        backend = os.environ.get("AUGMIX_BACKEND") or "auto"
        check_backend("AUGMIX_BACKEND", backend)
    if backend == "reference":
        return None
    if backend == "auto" and not NATIVE:
        warn_once()
        return None
    if not NATIVE:
        raise RuntimeError(f"backend {backend!r} cannot run: {WHY_NOT}; use 'auto' or 'reference', or {REMEDY}")
    if backend in ("auto", "native"):
        return VARIANTS[0]
    if backend not in VARIANTS:
        raise RuntimeError(
            f"backend {backend!r} cannot run: this processor has not the instructions; use one of "
            f"{', '.join(map(repr, ('auto', *VARIANTS, 'reference')))}"
        )
    return backend


def check_backend(field: str, backend: str) -> None:
    """Refuse an unknown name."""
    if backend not in BACKENDS:
        raise ValueError(f"{field} {backend!r} is unknown; {did_you_mean(backend, BACKENDS)}")


@functools.cache
def warn_once() -> None:
    """Say how slow the reference is, and what to do."""
    warnings.warn(
        f"AugMix runs on Pillow, 20 to 100 times slower than compiled, because {WHY_NOT}; {REMEDY}",
        RuntimeWarning,
        stacklevel=4,
    )


def native_plans(
    ids: NDArray[np.integer],
    epoch: ArrayLike,
    *,
    seed: int,
    config: "AugMixConfig",
    law: "LevelLaw",
    rules: NDArray[np.float64],
    variant: str,
) -> NDArray[np.void]:
    """Return (N, views - 1) PLANs; rules as `augmix_core.plan.packed_rules` gives them; all has been checked."""
    plans = np.empty((len(ids), config.views - 1), PLAN)
    NATIVE.draw_plans(
        np.ascontiguousarray(ids, np.int64),
        np.ascontiguousarray(np.broadcast_to(epoch, ids.shape), np.uint32),
        rules,
        plans.reshape(-1).view(np.uint8),
        seed,
        config.views,
        config.width,
        config.depth,
        config.alpha,
        law.lowest,
        config.aug_severity,
        law.levels,
        law.binned,
        VARIANT_NUMBERS[variant],
    )
    return plans


def native_views(
    images: NDArray[np.uint8],
    plans: NDArray[np.void],
    views: NDArray,
    *,
    config: "AugMixConfig",
    variant: str,
    scale: tuple[float, ...],
    shift: tuple[float, ...],
) -> None:
    """Fill `views` from images (N, H, W, 3) and plans (N, views - 1).

    views: (N, views, H, W, 3) or (N, views, 3, H, W); uint8, or float32 = level * scale + shift of the channel.
    """
    height, width = images.shape[1:3]
    NATIVE.render(
        np.ascontiguousarray(images),
        plans.reshape(-1).view(np.uint8),
        views,
        height,
        width,
        config.views,
        config.width,
        config.border_fill,
        VARIANT_NUMBERS[variant],
        views.shape[2:] == (height, width, 3),
        views.dtype == np.float32,
        scale,
        shift,
    )


def native_op(image: NDArray[np.uint8], op: int, magnitude: float, fill: int, variant: str) -> NDArray[np.uint8]:
    """One op, by its place in ALL_OPS, on (H, W, 3)."""
    target = np.empty(image.shape, np.uint8)
    NATIVE.apply_op(
        np.ascontiguousarray(image),
        target,
        image.shape[0],
        image.shape[1],
        op,
        magnitude,
        fill,
        VARIANT_NUMBERS[variant],
    )
    return target


def native_resize(
    image: NDArray[np.uint8], box: tuple[int, int, int, int], size: tuple[int, int], mirrored: bool, variant: str
) -> NDArray[np.uint8]:
    """Cut (left, top, right, bottom) out of (H, W, 3), resize it to (height, width), and perhaps mirror it."""
    left, top, right, bottom = box
    target = np.empty((*size, 3), np.uint8)
    NATIVE.resize_box(
        np.ascontiguousarray(image),
        target,
        image.shape[0],
        image.shape[1],
        left,
        top,
        right - left,
        bottom - top,
        *size,
        mirrored,
        VARIANT_NUMBERS[variant],
    )
    return target
