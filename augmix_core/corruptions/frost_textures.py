"""What frost is made of: a texture of the project's own, or the published photographs from a folder.

texture: (h, w, 3) uint8. scale: the share to which a texture is shrunk before it is cropped, by table. The photographs
are no part of this project. Its own texture has their brightness and contrast: ferns of ice, grown from integers,
so that all machines grow the same.
"""

import functools
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from augmix_core.corruptions.clouds import plasma
from augmix_core.corruptions.draws import Draws
from augmix_core.decode import decode_rgb

Image8 = NDArray[np.uint8]

PUBLISHED = ("frost1.png", "frost2.png", "frost3.png", "frost4.jpg", "frost5.jpg")
"""There is a frost6.jpg too, but the published generators draw below 5, so that it is never used."""

SIZE = 1024
"""Side of the project's own texture, which repeats; a power of two."""
SEED = 20190301
CLUSTERS, ARMS = 170, 4
ONE_TURN = 1024  # directions
ONE_PIXEL = 1 << 14
BARB = np.array([0, 28, 62, 90, 62, 28, 6])
"""Height across one barb of a fern, pixel by pixel."""
TINTS = (
    ((78, 149, 166), 21),
    ((198, 203, 212), 22),
    ((204, 208, 216), 22),
    ((138, 153, 165), 29),
    ((112, 123, 135), 43),
)
"""(mean colour, standard deviation in levels), about those of the five photographs."""


def crop_of_texture(size: tuple[int, int], textures: Sequence[Image8], draws: Draws) -> Image8:
    """Return a random crop (H, W, 3) of a random texture; never the last one, as the published generators."""
    texture = textures[int(draws.below(len(textures), 1)[0])]
    top, left = (int(draws.below(max(have - want, 1), 1)[0]) for have, want in zip(texture.shape, size, strict=False))
    return texture[top : top + size[0], left : left + size[1]]


@functools.lru_cache(maxsize=8)
def load_textures(folder: str, scale: float) -> tuple[Image8, ...]:
    """Return the published textures of a folder at a scale.

    Raises:
        ValueError: One is missing or unreadable.
    """
    textures = []
    for name in PUBLISHED:
        try:
            textures.append(resized(decode_rgb((Path(folder) / name).read_bytes()), scale))
        except (OSError, ValueError) as error:
            raise ValueError(
                f"textures {folder!r} gives no {name} ({error}); it must hold {', '.join(PUBLISHED)} of the published "
                "generators; leave it out for this project's own texture"
            ) from error
    return tuple(textures)


def check_textures(textures: Sequence[Image8], size: tuple[int, int]) -> None:
    """Refuse textures from which no (H, W) can be cropped."""
    height, width = (min(texture.shape[axis] for texture in textures) for axis in (0, 1))
    if size[0] > height or size[1] > width:
        raise ValueError(
            f"images of {size[0]}x{size[1]} pixels are larger than the textures, which leave {height}x{width} at this "
            "table's scale; take smaller images, or leave textures out for this project's own, which has no end"
        )


def resized(texture: NDArray[np.uint8], scale: float) -> Image8:
    """Resize (h, w, ...) bilinearly between the nearest pixels, not averaging those skipped: as OpenCV does."""
    if scale == 1:
        return texture
    levels = texture.astype(np.float32)
    for axis in (0, 1):
        length = texture.shape[axis]
        at = np.clip((np.arange(round(length * scale)) + 0.5) / scale - 0.5, 0, length - 1)
        below = np.floor(at).astype(np.intp)
        share = (at - below).astype(np.float32).reshape(-1, *([1] * (texture.ndim - 1 - axis)))
        near, far = levels.take(below, axis), levels.take(np.minimum(below + 1, length - 1), axis)
        levels = near + (far - near) * share
    return np.rint(levels).astype(np.uint8)


def crop_of_own_texture(size: tuple[int, int], scale: float, draws: Draws) -> Image8:
    """Return a random crop (H, W, 3), of any size, in a random one of TINTS."""
    relief = own_relief(scale)
    tint = own_tints()[int(draws.below(len(TINTS), 1)[0])]
    rows, columns = (
        np.arange(start, start + length) % len(relief)
        for start, length in zip(draws.below(len(relief), 2).tolist(), size, strict=True)
    )
    return tint.take(relief[rows].take(columns, axis=1), axis=0)


@functools.cache
def own_tints() -> NDArray[np.uint8]:
    """(tints, 256, 3): the colour of each height of the relief."""
    relief = own_relief(1)
    deviation = (np.arange(256) - relief.mean()) / relief.std()
    levels = [np.add.outer(deviation * contrast, np.array(mean)) for mean, contrast in TINTS]
    return np.clip(np.rint(levels), 0, 255).astype(np.uint8)


@functools.cache
def own_relief(scale: float) -> Image8:
    """(SIZE * scale, SIZE * scale): heights of the ice, which is thick where it is bright."""
    if scale != 1:
        return resized(own_relief(1), scale)
    clouds = np.rint(plasma(SIZE, 1.7, Draws(SEED + 1)) * np.float32(110)).astype(np.int32)
    ice = ferns(Draws(SEED))
    return np.clip(np.where(ice > 0, ice, 50) + clouds, 0, 255).astype(np.uint8)


def ferns(draws: Draws) -> NDArray[np.int32]:
    """Return (SIZE, SIZE) heights, 0 where no ice grew: clusters of ferns, each of which hides the earlier ones."""
    count = CLUSTERS * ARMS
    turn = np.arange(ONE_TURN) * (2 * np.pi / ONE_TURN)
    directions = np.rint(np.stack([np.sin(turn), np.cos(turn)]) * ONE_PIXEL).astype(np.int64)
    roots = np.repeat(draws.below(SIZE * ONE_PIXEL, CLUSTERS, 2), ARMS, axis=0)
    first_heading = np.repeat(draws.below(ONE_TURN, CLUSTERS), ARMS)
    sixths = np.tile(np.arange(ARMS) * ONE_TURN // 6, CLUSTERS)  # ice crystals have six arms
    headings = first_heading + sixths + draws.below(60, count)
    lengths = 50 + draws.below(150, count) * draws.below(256, count) // 256
    breadths = 2 + draws.below(5, count)
    splays = 110 + draws.below(60, count)  # of a turn's 1024: 39 to 60 degrees
    layers = np.zeros(SIZE * SIZE, np.int32)
    for layer in range(count):
        half_step = np.arange(2 * lengths[layer])[:, None]  # along the stem; whole steps would leave holes
        ridge = BARB[half_step // 2 % len(BARB)]
        taper = np.minimum(half_step * 2 + 8, 2 * lengths[layer] - half_step)
        barb_length = taper * breadths[layer] // 16 * (40 + ridge) // 100
        out = np.arange(barb_length.max() + 1)
        grown = out <= barb_length
        for side in (-1, 1):
            along = directions[:, headings[layer] % ONE_TURN]
            across = directions[:, (headings[layer] + side * splays[layer]) % ONE_TURN]
            y, x = (
                (roots[layer, axis] + half_step * along[axis] // 2 + out * across[axis])[grown] // ONE_PIXEL % SIZE
                for axis in (0, 1)
            )
            light = (across[0] - across[1]) * 22 // ONE_PIXEL  # it comes from a corner
            stem = 15 * np.maximum(3 - out, 0)
            tips = 40 * out // np.maximum(barb_length, 1)
            height = (70 + light + ridge * 3 // 4 + stem + tips)[grown]
            np.maximum.at(layers, y * SIZE + x, (((layer + 1) << 8) + height).astype(np.int32))
    return layers.reshape(SIZE, SIZE) & 255
