"""Corruption benchmarks: images in, corrupted images out, by name and severity.

Generated here from the published definitions: near to CIFAR-10-C and ImageNet-C, but not those files.
Source: Hendrycks & Dietterich (2019), and the constants of its released generators.
"""

import functools
from collections.abc import Callable
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from augmix_core.backends import Backend, variant_of
from augmix_core.corruptions import blur, digital, noise, spatter, weather
from augmix_core.corruptions.draws import Draws
from augmix_core.corruptions.frost_textures import check_textures, load_textures
from augmix_core.corruptions.severity import SEVERITIES, TABLES, table_for
from augmix_core.errors import did_you_mean
from augmix_core.ops import check_batch
from augmix_core.philox import Purpose, words

Corruption = Callable[[NDArray[np.uint8], Any, Draws, str | None], NDArray[np.uint8]]
"""(image (H, W, 3), strength of the severity table, random numbers, compiled variant or None for NumPy) -> image."""

TEST: dict[str, Corruption] = {
    "gaussian_noise": noise.gaussian_noise,
    "shot_noise": noise.shot_noise,
    "impulse_noise": noise.impulse_noise,
    "defocus_blur": blur.defocus_blur,
    "glass_blur": blur.glass_blur,
    "motion_blur": blur.motion_blur,
    "zoom_blur": blur.zoom_blur,
    "snow": weather.snow,
    "frost": weather.frost,
    "fog": weather.fog,
    "brightness": digital.brightness,
    "contrast": digital.contrast,
    "elastic_transform": digital.elastic_transform,
    "pixelate": digital.pixelate,
    "jpeg_compression": digital.jpeg_compression,
}
EXTRA: dict[str, Corruption] = {
    "speckle_noise": noise.speckle_noise,
    "gaussian_blur": blur.gaussian_blur,
    "spatter": spatter.spatter,
    "saturate": digital.saturate,
}
CORRUPTIONS = tuple(TEST)
"""The benchmark's 15 test corruptions, in its order: for evaluation alone."""
EXTRA_CORRUPTIONS = tuple(EXTRA)
"""Those that a search may see; none of the 15 is among them."""
STREAM = {
    name: i
    for i, name in enumerate(
        (
            *("gaussian_noise", "shot_noise", "impulse_noise", "defocus_blur", "glass_blur", "motion_blur"),
            *("zoom_blur", "snow", "frost", "fog", "brightness", "contrast", "elastic_transform", "pixelate"),
            *("jpeg_compression", "speckle_noise", "gaussian_blur", "spatter", "saturate"),
        )
    )
}
"""Number of each of the benchmark's 15 + 4 in the counter space; part of the stream, so never renumbered."""


def corrupt(
    images: NDArray[np.uint8],
    name: str,
    *,
    severity: int,
    sample_ids: ArrayLike,
    seed: int = 0,
    table: Literal["auto", "32", "64", "224"] = "auto",
    textures: str | None = None,
    backend: Backend = "auto",
) -> NDArray[np.uint8]:
    """Return each image under one corruption: a pure function of (seed, sample id, name, severity).

    Args:
        images: (N, H, W, 3) uint8 RGB.
        name: one of CORRUPTIONS or EXTRA_CORRUPTIONS.
        severity: 1 to 5.
        sample_ids: (N,) int64 >= 0.
        table: whose constants: CIFAR-C "32", Tiny-ImageNet-C "64", ImageNet-C "224"; "auto" goes by the short side.
        textures: a folder of the published frost textures, for frost alone; without it a texture of our own serves.
    Returns:
        (N, H, W, 3) uint8, values truncated as the published generators do.
    Raises:
        ValueError: An unknown name or table, a severity outside 1..5, wrong images or ids, a folder without
            the textures or with smaller ones than the images.
    """
    known = TEST | EXTRA
    if name not in known:
        raise ValueError(f"corruption {name!r} is unknown; {did_you_mean(name, known)}")
    if severity not in SEVERITIES:
        raise ValueError(f"severity is {severity!r}; choose 1, 2, 3, 4 or 5")
    if table != "auto" and table not in TABLES:
        raise ValueError(f"table {table!r} is unknown; choose auto, {', '.join(TABLES)}")
    ids = check_batch(images, sample_ids)
    strength = TABLES[table_for(*images.shape[1:3]) if table == "auto" else table][name][severity - 1]
    keys = words(ids, seed=seed, purpose=Purpose.CORRUPTION, view=STREAM[name], block=severity)
    variant = variant_of(backend)
    corruption = known[name]
    if textures is not None:
        if name != "frost":
            raise ValueError(f"textures is {textures!r}, but {name} uses no textures; leave it out")
        loaded = load_textures(textures, strength[2])
        check_textures(loaded, images.shape[1:3])
        corruption = functools.partial(weather.frost, textures=loaded)
    corrupted = np.empty_like(images)
    for n, image in enumerate(images):
        corrupted[n] = corruption(image, strength, Draws(int(keys[n].view(np.uint64)[0]), variant), variant)
    return corrupted
