"""Perturbation sequences: an image in, the frames of a small change out, as in CIFAR-P and ImageNet-P.

Generated here from the published definitions: near to those sets, but not their files; ImageNet-P's videos are also
compressed. How often a network changes its mind from frame to frame is its flip rate.
Source: Hendrycks & Dietterich (2019), and its released generators, `make_cifar_p.py` and `make_imagenet_p.py`.
"""

import math
from collections.abc import Callable, Iterator
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray
from PIL import Image

from augmix_core.backends import Backend, variant_of
from augmix_core.corruptions import digital, filters, noise, spatter, weather
from augmix_core.corruptions.draws import Draws
from augmix_core.corruptions.filters import Float32
from augmix_core.corruptions.severity import table_for
from augmix_core.errors import did_you_mean
from augmix_core.ops import apply_op, check_batch
from augmix_core.philox import Purpose, words

Image8 = NDArray[np.uint8]
Sequence = Callable[[Image8, Any, int, Draws, str | None], Iterator[Image8]]
"""(image (H, W, 3), steps, number of frames, random numbers, compiled variant or None for NumPy) -> frames."""

DIFFICULTIES = (1, 2, 3)
FRAMES = 31

STEPS: dict[str, dict[str, Any]] = {
    "32": {
        "gaussian_noise": (0.02, 0.04, 0.06),
        "shot_noise": (700, 400, 200),
        "motion_blur": (6, 1.8, 9),
        "zoom_blur": 0.004,
        "snow": (0.05, 0.3, 2, 0.5, 10, 2, 0.85),
        "brightness": 0.015,
        "translate": 7,
        "rotate": 1,
        "tilt": 0.75,
        "scale": (0.7, 0.02),
        "speckle_noise": (0.05, 0.07, 0.1),
        "gaussian_blur": (0.3, 0.015, 7),
        "spatter": (0.6, 0.265, 1.75, 0.7, 0.6, (0.2, 0.8)),
        "shear": 1,
    },
    "224": {
        "gaussian_noise": (0.03, 0.05, 0.08),
        "shot_noise": (300, 120, 60),
        "motion_blur": (10, 3, 4),
        "zoom_blur": 0.004,
        "snow": (0.05, 0.3, 3, 0.5, 14, 4, 0.85),
        "brightness": 0.02,
        "translate": 20,
        "rotate": 1,
        "tilt": 1,
        "scale": (0.4, 0.025),
        "speckle_noise": (0.05, 0.1, 0.15),
        "gaussian_blur": (0.25, 0.035, 6),
        "spatter": (0.65, 0.27, 3.7, 0.69, 0.6, (0.05, 0.1, 0.15, 0.7)),
        "shear": 1,
    },
}
"""Steps by image size, for the noise by difficulty; what a number means stands at its perturbation."""
OTHER_FRAMES = {("32", "motion_blur"): 21, ("32", "translate"): 16, ("224", "translate"): 41}
"""Where there are not FRAMES."""


def perturb(
    images: NDArray[np.uint8],
    name: str,
    *,
    sample_ids: ArrayLike,
    seed: int = 0,
    difficulty: int = 1,
    table: Literal["auto", "32", "224"] = "auto",
    crop_to: int | None = None,
    backend: Backend = "auto",
) -> NDArray[np.uint8]:
    """Return each image's frames: a pure function of (seed, sample id, name, difficulty).

    Args:
        images: (N, H, W, 3) uint8 RGB.
        name: one of PERTURBATIONS or EXTRA_PERTURBATIONS.
        sample_ids: (N,) int64 >= 0.
        difficulty: 1, or for NOISE_PERTURBATIONS up to 3.
        table: whose steps: CIFAR-P "32", ImageNet-P "224"; "auto" goes by the short side.
        crop_to: cut the central square of this side out of every frame. ImageNet-P does so, from images whose short
            side is 256: what moves draws in the image's own margin and less black.
    Returns:
        (N, T, H, W, 3) uint8, H = W = crop_to if that is given. T is `frame_count(name, table)`.
    Raises:
        ValueError: An unknown name or table, a difficulty that the perturbation has not, wrong images or ids.
    """
    if name not in SEQUENCES:
        raise ValueError(f"perturbation {name!r} is unknown; {did_you_mean(name, SEQUENCES)}")
    if difficulty not in DIFFICULTIES:
        raise ValueError(f"difficulty is {difficulty!r}; choose 1, 2 or 3")
    if difficulty != 1 and name not in NOISE_PERTURBATIONS:
        raise ValueError(
            f"difficulty is {difficulty}, but {name} has only 1; {', '.join(NOISE_PERTURBATIONS)} have more"
        )
    if table != "auto" and table not in STEPS:
        raise ValueError(f"table {table!r} is unknown; choose auto, {', '.join(STEPS)}")
    ids = check_batch(images, sample_ids)
    height, width = images.shape[1:3]
    if crop_to is not None and not 1 <= crop_to <= min(height, width):
        raise ValueError(f"crop_to is {crop_to}; it must be from 1 to the short side, {min(height, width)}")
    out_height, out_width = (height, width) if crop_to is None else (crop_to, crop_to)
    if table == "auto":
        table = "224" if table_for(out_height, out_width) == "224" else "32"
    steps = STEPS[table][name]
    if name in NOISE_PERTURBATIONS:
        steps = steps[difficulty - 1]
    frames = frame_count(name, table)
    keys = words(ids, seed=seed, purpose=Purpose.PERTURBATION, view=STREAM[name], block=difficulty)
    variant = variant_of(backend)
    sequences = np.empty((len(images), frames, out_height, out_width, 3), np.uint8)
    top, left = round((height - out_height) / 2), round((width - out_width) / 2)
    window = slice(top, top + out_height), slice(left, left + out_width)
    for n, image in enumerate(images):
        draws = Draws(int(keys[n].view(np.uint64)[0]), variant)
        whole = name in WHOLE_IMAGE
        for i, frame in enumerate(SEQUENCES[name](image if whole else image[window], steps, frames, draws, variant)):
            sequences[n, i] = frame[window] if whole else frame
    return sequences


def frame_count(name: str, table: str) -> int:
    """Return the number of frames of a perturbation by the steps of a table, "32" or "224"."""
    return OTHER_FRAMES.get((table, name), FRAMES)


def noise_sequence(corruption: Callable[[Image8, float, Draws, str | None], Image8]) -> Sequence:
    """Frame 0 is clean, each other has noise of its own; the step is the noise's strength."""

    def frames_of(image: Image8, strength: float, frames: int, draws: Draws, variant: str | None) -> Iterator[Image8]:
        yield image
        for _ in range(1, frames):
            yield corruption(image, strength, draws, variant)

    return frames_of


def motion_blur(
    image: Image8, steps: tuple[float, float, float], frames: int, draws: Draws, variant: str | None
) -> Iterator[Image8]:
    """Turn the direction of the blur; steps: radius, sigma, and degrees a frame, up to 0 in the last."""
    radius, sigma, step_deg = steps
    levels = image.astype(np.float32)
    for i in range(frames):
        yield filters.to_bytes(filters.motion(levels, radius, sigma, (i - frames + 1) * step_deg, variant))


def zoom_blur(image: Image8, step: float, frames: int, draws: Draws, variant: str | None) -> Iterator[Image8]:
    """Average the image, frame 0, with one more enlargement in each frame: 1 + step, 1 + 2 step, ..."""
    total = np.zeros(image.shape, np.int32)
    for i in range(frames):
        total += enlarged(image, 1 + step * i)
        yield (total // (i + 1)).astype(np.uint8)


def snow(
    image: Image8,
    layer: tuple[float, float, float, float, float, float, float],
    frames: int,
    draws: Draws,
    variant: str | None,
) -> Iterator[Image8]:
    """Turn the wind by 4 degrees a frame, in one fall of snow; layer: as for the corruption."""
    mean, std, zoom, threshold, radius, sigma, unwhitened = layer
    still = weather.flakes(draws.normal(*image.shape[:2], mean=mean, std=std), zoom, threshold, variant)
    for i in range(frames):
        yield weather.snowed(image, weather.driven(still, radius, sigma, 4 * i - 150, variant), unwhitened)


def brightness(image: Image8, step: float, frames: int, draws: Draws, variant: str | None) -> Iterator[Image8]:
    """Raise V of HSV by the step from frame to frame; the middle frame is clean."""
    for i in range(frames):
        yield digital.brightness(image, (i - frames // 2) * step, draws, variant)


def translate(image: Image8, reach: int, frames: int, draws: Draws, variant: str | None) -> Iterator[Image8]:
    """Move the content a pixel to the right from frame to frame, black coming in; frame number `reach` is clean."""
    width = image.shape[1]
    for i in range(frames):
        shift = max(-width, min(width, i - reach))
        moved = np.zeros_like(image)
        moved[:, max(shift, 0) : width + min(shift, 0)] = image[:, max(-shift, 0) : width - max(shift, 0)]
        yield moved


def rotate(image: Image8, step_deg: float, frames: int, draws: Draws, variant: str | None) -> Iterator[Image8]:
    """Turn the image clockwise around its centre; the middle frame is clean."""
    for i in range(frames):
        yield apply_op("rotate", image, (frames // 2 - i) * step_deg, backend=variant or "reference")


def tilt(image: Image8, step_deg: float, frames: int, draws: Draws, variant: str | None) -> Iterator[Image8]:
    """Turn the image in space, about both its axes alike, and look at it from a distance of its diagonal.

    The generator places the image one pixel beyond that distance, so that the middle frame is a little smaller.
    """
    height, width = image.shape[:2]
    distance = math.hypot(width, height)
    to_centre = np.array([[1, 0, -width / 2], [0, 1, -height / 2], [0, 0, 1]])
    onto_screen = np.array([[distance, 0, width / 2], [0, distance, height / 2], [0, 0, 1]])
    for i in range(frames):
        angle = math.radians((i - frames // 2) * step_deg)
        cos, sin = math.cos(angle), math.sin(angle)
        in_space = np.array([[cos, 0, -sin], [-sin * sin, cos, -sin * cos], [sin * cos, sin, cos * cos + distance]])
        yield transformed(image, times(onto_screen, times(in_space, to_centre)))


def scale(
    image: Image8, start_and_step: tuple[float, float], frames: int, draws: Draws, variant: str | None
) -> Iterator[Image8]:
    """Enlarge the image from its centre: by `start` in frame 0, and by `step` more in each other."""
    start, step = start_and_step
    for i in range(frames):
        yield enlarged(image, start + step * i)


def gaussian_blur(
    image: Image8, steps: tuple[float, float, float], frames: int, draws: Draws, variant: str | None
) -> Iterator[Image8]:
    """Widen the blur; steps: sigma in frame 0, its growth from frame to frame, and where it is cut, in sigmas."""
    start, step, truncate = steps
    levels = image.astype(np.float32)
    for i in range(frames):
        blurred = filters.gaussian(levels, start + step * i, variant, truncate=truncate, mode="nearest")
        yield filters.to_bytes(blurred)


def water(
    image: Image8,
    steps: tuple[float, float, float, float, float, tuple[float, ...]],
    frames: int,
    draws: Draws,
    variant: str | None,
) -> Iterator[Image8]:
    """Let spatters of water run down; steps: as for the corruption, and how much of a drop comes from how far above."""
    mean, std, sigma, threshold, strength, runs = steps
    layer = filters.gaussian(draws.normal(*image.shape[:2], mean=mean, std=std), sigma, variant, mode="nearest")
    liquid = np.where(layer < threshold, np.float32(0), layer)
    for _ in range(frames):
        yield spatter.watered(image, liquid, strength, variant)
        liquid = run_down(liquid, runs)


def run_down(liquid: Float32, runs: tuple[float, ...]) -> Float32:
    """Convolve the columns of (H, W) with `runs`, as np.convolve does in its mode "same"."""
    height, farthest = len(liquid), len(runs) - 1
    padded = np.pad(liquid, ((farthest, farthest), (0, 0)))
    total = np.zeros_like(liquid)
    for above, share in enumerate(runs, -(farthest // 2)):
        total += np.float32(share) * padded[farthest - above : farthest - above + height]
    return total


def shear(image: Image8, step_deg: float, frames: int, draws: Draws, variant: str | None) -> Iterator[Image8]:
    """Slant the y axis, without changing the length of what lies on it; the middle frame is clean.

    So torchvision did when the sets were made; today's keeps the height of the image instead.
    """
    for i in range(frames):
        angle = math.radians((i - frames // 2) * step_deg)
        yield centred(image, np.array([[1, -math.sin(angle)], [0, math.cos(angle)]]))


def enlarged(image: Image8, factor: float) -> Image8:
    """Enlarge the image from its centre, bilinearly; a factor below 1 leaves a black margin."""
    return centred(image, np.array([[factor, 0], [0, factor]]))


def centred(image: Image8, matrix: NDArray[np.float64]) -> Image8:
    """Move each pixel, as seen from the centre, by a (2, 2) matrix of (x, y)."""
    centre = (np.array([image.shape[1], image.shape[0]]) - 1) / 2
    affine = np.eye(3)
    affine[:2, :2] = matrix
    affine[:2, 2] = centre - (matrix * centre).sum(axis=1)
    return transformed(image, affine)


def transformed(image: Image8, matrix: NDArray[np.float64]) -> Image8:
    """Move the pixel at (x, y, 1) to the place that a (3, 3) matrix gives, bilinearly; what is not reached is black."""
    # Pillow asks for the way back, in coordinates in which pixel (0, 0) has its centre at (0.5, 0.5)
    corner_to_centre = np.array([[1, 0, -0.5], [0, 1, -0.5], [0, 0, 1]])
    centre_to_corner = np.array([[1, 0, 0.5], [0, 1, 0.5], [0, 0, 1]])
    first, second, third = matrix
    way_back = np.stack([np.cross(second, third), np.cross(third, first), np.cross(first, second)], axis=1)
    way_back = times(centre_to_corner, times(way_back, corner_to_centre))
    coefficients = (way_back / way_back[2, 2]).reshape(-1)[:8].tolist()
    pillow = Image.fromarray(image)
    return np.asarray(
        pillow.transform(pillow.size, Image.Transform.PERSPECTIVE, coefficients, Image.Resampling.BILINEAR)
    )


def times(left: NDArray[np.float64], right: NDArray[np.float64]) -> NDArray[np.float64]:
    """Multiply two matrices with the same bits on every machine, which a BLAS does not promise."""
    return (left[:, :, None] * right).sum(axis=1)


TEN: dict[str, Sequence] = {
    "gaussian_noise": noise_sequence(noise.gaussian_noise),
    "shot_noise": noise_sequence(noise.shot_noise),
    "motion_blur": motion_blur,
    "zoom_blur": zoom_blur,
    "snow": snow,
    "brightness": brightness,
    "translate": translate,
    "rotate": rotate,
    "tilt": tilt,
    "scale": scale,
}
EXTRA: dict[str, Sequence] = {
    "speckle_noise": noise_sequence(noise.speckle_noise),
    "gaussian_blur": gaussian_blur,
    "spatter": water,
    "shear": shear,
}
SEQUENCES = TEN | EXTRA
PERTURBATIONS = tuple(TEN)
"""The ten that mFR is made of, in the benchmark's order."""
EXTRA_PERTURBATIONS = tuple(EXTRA)
"""Those for validation."""
NOISE_PERTURBATIONS = ("gaussian_noise", "shot_noise", "speckle_noise")
"""Their frames have no order, so that each is compared with the first; of others, each with the one before."""
WHOLE_IMAGE = ("zoom_blur", "translate", "rotate", "tilt", "scale", "shear")
"""Those that see the image beyond the crop."""
STREAM = {
    name: i
    for i, name in enumerate(
        (
            *("gaussian_noise", "shot_noise", "motion_blur", "zoom_blur", "snow", "brightness", "translate", "rotate"),
            *("tilt", "scale", "speckle_noise", "gaussian_blur", "spatter", "shear"),
        )
    )
}
"""Number of each perturbation in the counter space; part of the stream, so never renumbered."""
