"""Compare every op of every compiled variant with Pillow, value by value, on x86-64.

    python -m tests.core.compare_pixels --values 1e8        # about five seconds on one core

Images: natural, constant, random, binary, ramp; sizes odd, tiny and 224; magnitudes of severities 1, 3 and 10, and
beyond what any plan draws. Prints one row an op and variant; exits with 1 if a value differs. On ARM some do: Pillow's
builds for it fuse multiplications and additions.
"""

import argparse
import sys
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from augmix_core import backends, reference
from augmix_core.ops import ALL_OPS, OVERLAPPING_OPS, magnitude_of

SIZES = ((24, 40), (37, 65), (1, 17), (17, 1), (1, 1), (2, 3), (3, 3), (32, 32), (96, 64), (224, 224), (129, 300))
FILLS = (0, 128, 255)


def pictures(rng: np.random.Generator, height: int, width: int) -> Iterator[NDArray[np.uint8]]:
    """One (height, width, 3) image of each kind."""
    y, x = np.mgrid[0:height, 0:width]
    waves = sum(np.sin(a * x + b * y + c)[..., None] * d for a, b, c, d in rng.normal(size=(6, 4)) * (0.1, 0.1, 1, 1))
    yield np.clip(128 + 40 * waves + rng.normal(scale=6, size=(height, width, 3)), 0, 255).astype(np.uint8)
    yield np.full((height, width, 3), rng.integers(256), np.uint8)
    yield rng.integers(0, 256, (height, width, 3), np.uint8)
    yield (255 * rng.integers(0, 2, (height, width, 3))).astype(np.uint8)
    yield np.stack([x * 255 // max(width - 1, 1), y * 255 // max(height - 1, 1), (x + y) % 256], -1).astype(np.uint8)


def magnitudes(rng: np.random.Generator, name: str, height: int, width: int) -> Iterator[float]:
    """Drawn as plans draw them, round ones, and extreme ones."""
    for severity in (1.0, 3.0, 10.0):
        level = 0.1 + rng.random() * (severity - 0.1)
        yield magnitude_of(name, level, bool(rng.integers(2)), (height, width))
    match name:
        case "posterize":
            yield from range(1, 9)
        case "solarize":
            yield from (0, 1, 128, 255, 256)
        case "rotate":
            yield from (45.0, -30.0, 90.0, 180.0, 270.0, 359.5, 1e-9, 133.7, rng.uniform(-400, 400))
        case "shear_x" | "shear_y":
            yield from (0.5, 0.25, -1 / 3, 0.1, 0.05, 0.003, 1e-7, 7.0, -100.0, 1e5, rng.uniform(-3, 3))
        case "translate_x" | "translate_y":
            bound = (width if name == "translate_x" else height) / 3
            yield from (bound, -bound, min(0.5, bound), 1e-12, rng.uniform(-bound, bound))
    if name in OVERLAPPING_OPS:
        yield from (0.0, 0.5, 1.0, 1.9, 3.0, 100.0, rng.uniform(0, 2))


def compare(
    rng: np.random.Generator, names: tuple[str, ...], variants: tuple[str, ...], size: tuple[int, int]
) -> Iterator[tuple[str, str, str, int, int]]:
    """Yield (op, variant, what was done, values compared, values that differ)."""
    for picture in pictures(rng, *size):
        for name in names:
            for magnitude in magnitudes(rng, name, *size):
                fill = int(rng.choice(FILLS))
                wanted = reference.apply_op(name, picture, magnitude, fill)
                for variant in variants:
                    found = backends.native_op(picture, ALL_OPS.index(name), magnitude, fill, variant)
                    what = f"{name} {magnitude!r} fill {fill} on {size}"
                    yield name, variant, what, wanted.size, int((found != wanted).sum())


def main() -> None:
    """Compare until enough values were compared."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--values", type=float, default=1e8, help="how many values to compare at least, of each variant"
    )
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    backends.variant_of("native")
    rng = np.random.default_rng(arguments.seed)
    compared: dict[tuple[str, str], int] = {}
    differing: dict[tuple[str, str], int] = {}
    while sum(compared.values()) < arguments.values * len(backends.VARIANTS):
        for size in SIZES:
            for name, variant, what, values, different in compare(rng, ALL_OPS, backends.VARIANTS, size):
                compared[name, variant] = compared.get((name, variant), 0) + values
                differing[name, variant] = differing.get((name, variant), 0) + different
                if different:
                    print(f"{variant}: {different} values differ in {what}", file=sys.stderr)
    print("| op | variant | values compared | differing |\n|---|---|---:|---:|")
    for (name, variant), values in sorted(compared.items()):
        print(f"| {name} | {variant} | {values:,} | {differing[name, variant]:,} |")
    print(f"| all | all | {sum(compared.values()):,} | {sum(differing.values()):,} |")
    sys.exit(sum(differing.values()) > 0)


if __name__ == "__main__":
    main()
