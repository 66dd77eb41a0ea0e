#!/usr/bin/env python
"""How many AugMix triples (clean image, two augmented views) a core makes in a second, from decoded images.

    benchmarks/bench_augmix.py                                  224 and 32 px, severities 1 and 3; about 6 minutes
    benchmarks/bench_augmix.py --data IMAGENET_FOLDER           with real photographs
    benchmarks/bench_augmix.py --sizes 32 --contenders augmix   only rows whose name starts so, and the baseline

Width 3, depth 1 to 3, alpha 1, the paper's nine ops. Each contender gets images in the form it takes (Pillow image,
tensor, array), and draws its own random plans inside the measured time.
"""

import argparse
import itertools
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from timing import VARIANTS, Contender, available_variants, header, measure, spread, table
from torchvision import transforms
from torchvision.transforms import v2

from augmix_core import AugMixConfig, augmix, backends
from augmix_core.crop import resize_and_center_crop
from augmix_core.decode import decode_rgb
from augmix_core.ops import STANDARD_OPS, magnitude_of
from augmix_core.plan import draw_packed_plans, draw_plans
from augmix_core.reference import pillow_op

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
PREPROCESS = transforms.Compose([transforms.ToTensor(), transforms.Normalize(MEAN, STD)])
BLACK = (0, 0, 0)
OPS = np.array(STANDARD_OPS, object)
PLANS = 256  # samples in one call of the plan rows
NOTES = """\
- released: the released procedure on Pillow images; every chain end becomes a normalised float32 tensor and is mixed.
- augmix: this project, uint8 out unless float32 is named; whole batches of 64 images at 224 px and of 256 at 32 px.
- torchvision: v2.AugMix without the four ops that resemble corruptions; its severity 1 leaves geometric ops at zero.
- timm: its faster mode, with its own ranges; `nine ops` leaves out the four that it adds to the paper's.
"""


def main() -> None:
    """Measure and print markdown."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", nargs="+", type=int, default=[224, 32], help="height and width, in pixels")
    parser.add_argument("--severities", nargs="+", type=int, default=[1, 3])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--data", type=Path, help="folder with JPEGs, searched recursively; else synthetic images")
    parser.add_argument("--contenders", nargs="+", default=[""], help="how the names of the wanted rows start")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    kind = "photographs" if arguments.data else "synthetic images"
    print("\n".join([*header(f"AugMix triples from decoded {kind}"), NOTES]), flush=True)
    for size in arguments.sizes:
        count = 64 if size >= 128 else 256
        images = photographs(arguments.data, count, size) if arguments.data else synthetic_images(count, size)
        for severity in arguments.severities:
            chosen = select(contenders(images, severity), arguments.contenders, always="released")
            lines = table(measure(chosen, rounds=arguments.rounds), items="triples", baseline="released")
            print("\n".join([f"## {size} px, severity {severity}", "", *lines]), flush=True)
    print("\n".join(plan_drawing(arguments.rounds)))


def select(rows: Sequence[Contender], prefixes: Sequence[str], *, always: str) -> list[Contender]:
    """The rows whose name starts with one of the prefixes, and the baseline."""
    return [row for row in rows if row.name == always or row.name.startswith(tuple(prefixes))]


def contenders(images: NDArray[np.uint8], severity: int) -> list[Contender]:
    """All rows for (N, S, S, 3) uint8 images; others than ours handle one image a call."""
    pil = [Image.fromarray(image) for image in images]
    tensors = [torch.from_numpy(image).permute(2, 0, 1).contiguous() for image in images]
    config = AugMixConfig(aug_severity=severity)
    best = available_variants()[0]
    float_chw = {"layout": "CHW", "normalize": (MEAN, STD)}
    return [
        Contender("released", lambda: one_by_one(released_triple(severity), pil), 1),
        *(Contender(f"augmix {name}", ours(images, config, backend=name), len(images)) for name in VARIANTS),
        Contender(f"augmix {best}, CHW float32", ours(images, config, backend=best, **float_chw), len(images)),
        Contender("torchvision v2.AugMix, Pillow", lambda: one_by_one(torchvision_triple(severity), pil), 1),
        Contender("torchvision v2.AugMix, uint8 tensor", lambda: one_by_one(torchvision_triple(severity), tensors), 1),
        Contender("timm blended", lambda: one_by_one(timm_triple(severity), pil), 1),
        Contender("timm blended, nine ops", lambda: one_by_one(timm_triple(severity, nine_ops=True), pil), 1),
    ]


def one_by_one(triple: Callable, images: Iterable) -> Callable[[], object]:
    """A call that handles the next image, round and round."""
    following = itertools.cycle(images)
    return lambda: triple(next(following))


def ours(images: NDArray[np.uint8], config: AugMixConfig, **options: object) -> Callable[[], Callable[[], object]]:
    """augmix() on the batch; each call is another epoch, so its plans are new."""

    def make() -> Callable[[], object]:
        ids, epochs = np.arange(len(images)), itertools.count()
        return lambda: augmix(images, ids, epoch=next(epochs), config=config, **options)

    return make


def released_triple(severity: float) -> Callable[[Image.Image], tuple[torch.Tensor, ...]]:
    """What the released code does with an image of the data set.

    Source: google-research/augmix, imagenet.py and augmentations.py; from one np.random.seed both make the same
    numbers. It preprocesses each chain end, and the clean image five times: once for the clean view, and for each
    augmented view once for the shape and once for the mix.
    """

    def view(image: Image.Image) -> torch.Tensor:
        mixture_weights = np.float32(np.random.dirichlet([1.0] * 3))  # noqa: NPY002, the released code's generator
        m = np.float32(np.random.beta(1.0, 1.0))  # noqa: NPY002
        mix = torch.zeros_like(PREPROCESS(image))
        for weight in mixture_weights:
            augmented = image.copy()
            for _ in range(np.random.randint(1, 4)):  # noqa: NPY002
                augmented = random_op(augmented, severity)
            mix += weight * PREPROCESS(augmented)
        return (1 - m) * PREPROCESS(image) + m * mix

    return lambda image: (PREPROCESS(image), view(image), view(image))


def random_op(image: Image.Image, severity: float) -> Image.Image:
    """One of the nine ops, at a level of its own."""
    name = np.random.choice(OPS)  # noqa: NPY002
    level = 0 if name in ("autocontrast", "equalize") else np.random.uniform(0.1, severity)  # noqa: NPY002
    negative = name.startswith(("rotate", "shear", "translate")) and np.random.uniform() > 0.5  # noqa: NPY002
    return pillow_op(name, image, magnitude_of(name, level, negative, (image.height, image.width)), BLACK)


def torchvision_triple(severity: int) -> Callable:
    """Pillow images or uint8 tensors, as they come in."""
    view = v2.AugMix(severity=severity, all_ops=False)
    return lambda image: (image, view(image), view(image))


def timm_triple(severity: int, *, nine_ops: bool = False) -> Callable[[Image.Image], tuple[Image.Image, ...]]:
    """Pillow images; depth -1 is the default, and its parser takes no minus sign."""
    from timm.data.auto_augment import augment_and_mix_transform  # an optional contender

    view = augment_and_mix_transform(f"augmix-m{severity}-w3-a1-b1")
    if nine_ops:
        view.ops = [op for op in view.ops if op.name.removesuffix("Increasing") not in TIMM_EXTRA]
    return lambda image: (image, view(image), view(image))


TIMM_EXTRA = ("Color", "Contrast", "Brightness", "Sharpness")


def plan_drawing(rounds: int) -> list[str]:
    """Markdown: what drawing plans costs by itself."""
    config, epochs = AugMixConfig(), itertools.count()

    def row(name: str, draw: Callable) -> Contender:
        draw_batch = partial(draw, np.arange(PLANS), seed=0, config=config, image_size=(224, 224))
        return Contender(name, lambda: lambda: draw_batch(epoch=next(epochs)), PLANS)

    lines = ["## Drawing plans alone, three views", "", "| by | µs of CPU a sample |", "|---|---:|"]
    for measured in measure([row("Python", draw_plans), row("native", compiled_plans)], rounds=rounds):
        cost = spread([1e6 / rate for rate in measured.cpu_rates]) if measured.cpu_rates else measured.reason
        lines.append(f"| {measured.name} | {cost} |")
    return lines


def compiled_plans(ids: NDArray[np.int64], *, epoch: int, seed: int, config: AugMixConfig, image_size: tuple) -> object:
    """Plans by the compiled kernels, drawn like `draw_plans`."""
    variant = backends.variant_of("native")
    return draw_packed_plans(ids, epoch=epoch, seed=seed, config=config, image_size=image_size, variant=variant)


def photographs(folder: Path, count: int, size: int) -> NDArray[np.uint8]:
    """(count, size, size, 3): JPEGs of a folder, short side resized, centre cut."""
    files = itertools.islice(itertools.cycle(jpegs(folder)), count)
    return np.stack(
        [resize_and_center_crop(decode_rgb(file.read_bytes()), resize_to=size, size=size) for file in files]
    )


def jpegs(folder: Path) -> list[Path]:
    """The JPEG files below a folder, sorted."""
    found = sorted(path for path in folder.rglob("*") if path.suffix.lower() in (".jpg", ".jpeg"))
    if not found:
        raise SystemExit(f"--data {folder} has no JPEG files")
    return found


def synthetic_images(count: int, size: int) -> NDArray[np.uint8]:
    """(count, size, size, 3): noise whose octaves halve in amplitude with each doubling of frequency, as in nature."""
    generator = np.random.default_rng(0)
    images = np.empty((count, size, size, 3), np.uint8)
    for n in range(count):
        total = np.zeros((size, size, 3))
        for cells in (2**k for k in range(1, size.bit_length())):
            coarse = Image.fromarray(generator.integers(0, 256, (cells, cells, 3), np.uint8))
            total += np.asarray(coarse.resize((size, size), Image.Resampling.BICUBIC), float) / cells
        images[n] = 255 * (total - total.min()) / (total.max() - total.min())
    return images


if __name__ == "__main__":
    main()
