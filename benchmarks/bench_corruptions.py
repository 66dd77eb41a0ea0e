#!/usr/bin/env python
"""What a corruption costs: CPU time an image, mean over the five severities, on one core.

    benchmarks/bench_corruptions.py                                  224 and 32 px, all backends; about 8 minutes
    benchmarks/bench_corruptions.py --data IMAGENET_FOLDER           with real photographs
    benchmarks/bench_corruptions.py --sizes 32 --names snow frost    only these

Each call hands over a batch and goes through all severities. The plain rows are the published procedures written with
NumPy and SciPy in float64, as their generator is: yardsticks of the same run, for four of its slowest.
"""

import argparse
import itertools
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import timing
from bench_augmix import photographs, synthetic_images
from numpy.typing import NDArray
from scipy import ndimage
from timing import Contender, Measured, available_variants, header, measure, spread

from augmix_core import CORRUPTIONS, EXTRA_CORRUPTIONS, corrupt
from augmix_core.corruptions.severity import SEVERITIES, TABLES, table_for

TURN_S = 0.2
PLAIN = "NumPy/SciPy"
BATCH = {224: 4, 32: 64}
Image8 = NDArray[np.uint8]


def main() -> None:
    """Measure and print markdown."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", nargs="+", type=int, default=[224, 32], help="height and width, in pixels")
    parser.add_argument("--names", nargs="+", default=[*CORRUPTIONS, *EXTRA_CORRUPTIONS])
    parser.add_argument("--backends", nargs="+", default=available_variants())
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--data", type=Path, help="folder with JPEGs, searched recursively; else synthetic images")
    arguments = parser.parse_args()
    timing.TURN_S = TURN_S  # there are a hundred contenders
    kind = "photographs" if arguments.data else "synthetic images"
    print("\n".join([*header(f"Corruptions of decoded {kind}"), ""]), flush=True)
    for size in arguments.sizes:
        count = BATCH.get(size, 4 if size > 128 else 16)
        images = photographs(arguments.data, count, size) if arguments.data else synthetic_images(count, size)
        rows = {name: contenders(name, images, arguments.backends) for name in arguments.names}
        measured = iter(measure(list(itertools.chain(*rows.values())), rounds=arguments.rounds))
        costs = {name: [cost_of(next(measured), size) for _ in row] for name, row in rows.items()}
        print("\n".join([*cost_table(costs, size, arguments.backends), ""]), flush=True)


def contenders(name: str, images: Image8, backends: Sequence[str]) -> list[Contender]:
    """One corruption by each backend, and plainly where that is written here."""
    batches = {backend: few(images, backend) for backend in backends}
    ours = [
        Contender(backend, partial(ours_on, name, batch, backend), len(SEVERITIES) * len(batch))
        for backend, batch in batches.items()
    ]
    if name in PLAIN_PROCEDURES:
        ours.append(Contender(PLAIN, partial(plainly_on, name, few(images, PLAIN)), len(SEVERITIES)))
    return ours


def few(images: Image8, by: str) -> Image8:
    """Whole batches for the compiled backends; a slower one shows its cost with one large image, or a few small."""
    slow = {PLAIN: 1, "reference": max(1, len(images) // 4)}
    return images[: slow.get(by, len(images))]


def ours_on(name: str, images: Image8, backend: str) -> Callable[[], None]:
    """corrupt() at all severities; each call is another seed."""
    seeds, ids = itertools.count(), np.arange(len(images))

    def run() -> None:
        seed = next(seeds)
        for severity in SEVERITIES:
            corrupt(images, name, severity=severity, sample_ids=ids, seed=seed, backend=backend)

    return run


def plainly_on(name: str, images: Image8) -> Callable[[], None]:
    """The published procedure at all severities."""
    strengths = TABLES[table_for(*images.shape[1:3])][name]
    rng = np.random.default_rng(0)

    def run() -> None:
        for strength in strengths:
            PLAIN_PROCEDURES[name](images[0], strength, rng)

    return run


def cost_of(row: Measured, size: int) -> list[float] | str:
    """Cost an image, ms for large and µs for small images, of each round; or why there is none."""
    unit = 1e3 if size > 128 else 1e6
    return [unit / rate for rate in row.cpu_rates] if row.cpu_rates else row.reason


def cost_table(costs: dict[str, list[list[float] | str]], size: int, backends: Sequence[str]) -> list[str]:
    """Markdown: a row for each corruption, and the sum over the 15 if all were measured."""
    unit = "ms" if size > 128 else "µs"
    lines = [
        f"## {size} px, {unit} of CPU an image, mean over the severities",
        "",
        f"| corruption | {' | '.join(backends)} | {PLAIN} | {PLAIN} / {backends[0]} |",
        f"|---|{'---:|' * (len(backends) + 2)}",
    ]
    for name, row in costs.items():
        cells = [cost if isinstance(cost, str) else spread(cost) for cost in row]
        plain, best = row[-1], row[0]
        if name in PLAIN_PROCEDURES and not isinstance(plain, str) and not isinstance(best, str):
            cells.append(spread([a / b for a, b in zip(plain, best, strict=True)]))
        lines.append(f"| {name} | {' | '.join([*cells, *['—'] * (len(backends) + 2 - len(cells))])} |")
    if set(CORRUPTIONS) <= set(costs):
        sums = [
            spread([sum(values) for values in zip(*(costs[name][i] for name in CORRUPTIONS), strict=True)])
            for i in range(len(backends))
        ]
        lines.append(f"| **the 15 together** | {' | '.join([*sums, '—', '—'])} |")
    return lines


# ---- the published procedures, on (H, W, 3) uint8 ----


def truncated(unit: NDArray[np.float64]) -> Image8:
    """Clip to [0, 1] and truncate to 0..255."""
    return (np.clip(unit, 0, 1) * 255).astype(np.uint8)


def plain_glass(image: Image8, strength: tuple[float, int, int], rng: np.random.Generator) -> Image8:
    """Pixel by pixel."""
    sigma, reach, passes = strength
    moved = truncated(ndimage.gaussian_filter(image / 255, (sigma, sigma, 0), mode="nearest"))
    height, width = image.shape[:2]
    for _ in range(passes):
        for y in range(height - reach, reach, -1):
            for x in range(width - reach, reach, -1):
                dx, dy = rng.integers(-reach, reach, 2)
                moved[y, x] = moved[y + dy, x + dx]
    return truncated(ndimage.gaussian_filter(moved / 255, (sigma, sigma, 0), mode="nearest"))


def plain_motion(image: Image8, strength: tuple[float, float], rng: np.random.Generator) -> Image8:
    """Shift and add."""
    radius, sigma = strength
    far = 2 * int(np.ceil(radius))
    weights = np.exp(-(np.arange(far + 1) ** 2) / (2 * sigma**2))
    angle = np.deg2rad(rng.uniform(-45, 45))
    padded = np.pad(image / 255, ((far, far), (far, far), (0, 0)), mode="edge")
    total = np.zeros(image.shape)
    for step, weight in enumerate(weights / weights.sum()):
        y, x = far + round(step * np.sin(angle)), far + round(step * np.cos(angle))
        total += weight * padded[y : y + len(image), x : x + image.shape[1]]
    return truncated(total)


def plain_zoom(image: Image8, strength: tuple[float, float], rng: np.random.Generator) -> Image8:
    """Enlarge by each factor; square images."""
    unit, size = image / 255, len(image)
    total = unit.copy()
    factors = np.arange(1, *strength)
    for factor in factors:
        crop = int(np.ceil(size / factor))
        top = (size - crop) // 2
        zoomed = ndimage.zoom(unit[top : top + crop, top : top + crop], (factor, factor, 1), order=1)
        top = (len(zoomed) - size) // 2
        total += zoomed[top : top + size, top : top + size]
    return truncated(total / (len(factors) + 1))


def plain_elastic(image: Image8, strength: tuple[float, float, float], rng: np.random.Generator) -> Image8:
    """A random plane, then a random field; square images."""
    scale, sigma, reach = strength
    size = len(image)
    middle, third = size // 2, size // 3
    points = middle + third * np.array([[1, 1], [1, -1], [-1, -1]])
    moved = np.column_stack([points + rng.uniform(-reach, reach, (3, 2)), np.ones(3)])
    matrix = np.linalg.solve(moved, points)
    y, x = np.mgrid[:size, :size]
    plane = (np.stack([y, x, np.ones_like(x)], axis=-1) @ matrix).transpose(2, 0, 1)
    field = [
        scale * ndimage.gaussian_filter(rng.uniform(-1, 1, (size, size)), sigma, mode="reflect", truncate=3)
        if sigma
        else np.zeros((size, size))
        for _ in range(2)
    ]
    unit = image / 255
    warped = [ndimage.map_coordinates(unit[..., c], plane, order=1, mode="mirror") for c in range(3)]
    shifted = [ndimage.map_coordinates(w, [y + field[0], x + field[1]], order=1, mode="reflect") for w in warped]
    return truncated(np.stack(shifted, axis=2))


PLAIN_PROCEDURES: dict[str, Callable] = {
    "glass_blur": plain_glass,
    "motion_blur": plain_motion,
    "zoom_blur": plain_zoom,
    "elastic_transform": plain_elastic,
}


if __name__ == "__main__":
    main()
