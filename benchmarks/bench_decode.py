#!/usr/bin/env python
"""How many AugMix triples of 224 px a core makes in a second from JPEG files, and what the steps before AugMix cost.

    benchmarks/bench_decode.py --data IMAGENET_FOLDER        about 3 minutes

Random resized crop to 224, flip, then AugMix at severity 3, width 3, depth 1 to 3, alpha 1. Every call takes the same
files, held in memory, through all steps; each contender draws its own crops and plans inside the measured time.
"""

import argparse
import io
import itertools
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import torch
from bench_augmix import jpegs, released_triple, select, timm_triple, torchvision_triple
from numpy.typing import NDArray
from PIL import Image
from timing import VARIANTS, Contender, header, measure, table
from torchvision import transforms
from torchvision.io import ImageReadMode, decode_jpeg
from torchvision.transforms import v2

from augmix_core import AugMixConfig, augmix
from augmix_core.crop import draw_crops, random_resized_crop
from augmix_core.decode import decode_rgb

SIZE = 224
SEVERITY = 3
RELEASED_CROP = transforms.Compose([transforms.RandomResizedCrop(SIZE), transforms.RandomHorizontalFlip()])
TENSOR_CROP = v2.Compose([v2.RandomResizedCrop(SIZE, antialias=True), v2.RandomHorizontalFlip()])
OUR_CROPS: dict[str, Callable] = {
    backend: partial(random_resized_crop, size=SIZE, flip=True, backend=backend) for backend in VARIANTS
}
NOTES = """\
- released: Pillow's decoder, torchvision's random resized crop and flip, the released procedure; float32 out.
- ours: decode_rgb, random_resized_crop and augmix, all files in one batch; uint8 out.
- torchvision: decode_jpeg, v2.RandomResizedCrop with antialias and v2.AugMix, all on uint8 tensors.
- timm: decoded and cropped like released, then its faster mode with its own thirteen ops.
"""


def main() -> None:
    """Measure and print markdown."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder with JPEGs, searched recursively")
    parser.add_argument("--files", type=int, default=32, help="how many of them to take, spread over the folder")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--contenders", nargs="+", default=[""], help="how the names of the wanted rows start")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    files = read_evenly(jpegs(arguments.data), arguments.files)
    kilobytes = np.mean([len(file) for file in files]) / 1000
    kilopixels = np.mean([np.prod(pillow_image(file).size) for file in files]) / 1000
    about = f"- {len(files)} files, in the mean {kilobytes:.0f} kB and {kilopixels:.0f} thousand pixels"
    print("\n".join([*header("AugMix triples from JPEG files"), about, NOTES]), flush=True)
    for title, items, rows, baseline in (
        ("JPEG to triple", "triples", whole(files), "released"),
        ("JPEG to crop, and its parts", "images", parts(files), "Pillow, torchvision's crop"),
    ):
        chosen = select(rows, arguments.contenders, always=baseline)
        lines = table(measure(chosen, rounds=arguments.rounds), items=items, baseline=baseline)
        print("\n".join([f"## {title}, {SIZE} px", "", *lines]), flush=True)


def read_evenly(paths: Sequence[Path], count: int) -> list[bytes]:
    """The contents of `count` RGB files, evenly spaced in the list; grey and CMYK ones are passed over."""
    rgb = [path for path in paths if Image.open(path).mode == "RGB"]
    count = min(count, len(rgb))
    return [rgb[i * len(rgb) // count].read_bytes() for i in range(count)]


def whole(files: Sequence[bytes]) -> list[Contender]:
    """From files to triples."""
    tensors = as_tensors(files)

    def row(name: str, make: Callable[[], Callable[[], object]]) -> Contender:
        return Contender(name, make, len(files))

    return [
        row("released", lambda: each(files, pillow_image, RELEASED_CROP, released_triple(SEVERITY))),
        *(row(f"ours {name}", partial(ours, files, name)) for name in VARIANTS),
        row("torchvision v2", lambda: each(tensors, tensor_image, TENSOR_CROP, torchvision_triple(SEVERITY))),
        row("timm blended", lambda: each(files, pillow_image, RELEASED_CROP, timm_triple(SEVERITY))),
    ]


def parts(files: Sequence[bytes]) -> list[Contender]:
    """From files to clean crops; decoding and cropping by themselves."""
    tensors, arrays = as_tensors(files), [decode_rgb(file) for file in files]
    rows = {
        "Pillow, torchvision's crop": lambda: each(files, pillow_image, RELEASED_CROP),
        "decode_jpeg, v2 crop": lambda: each(tensors, tensor_image, TENSOR_CROP),
        **{f"decode_rgb, {name} crop": partial(our_crops, files, decode_rgb, crop) for name, crop in OUR_CROPS.items()},
        "decode only: Pillow": lambda: each(files, pillow_image),
        "decode only: decode_jpeg": lambda: each(tensors, tensor_image),
        "decode only: decode_rgb": lambda: each(files, decode_rgb),
        "crop only: torchvision, Pillow images": lambda: each([Image.fromarray(a) for a in arrays], RELEASED_CROP),
        "crop only: v2, uint8 tensors": lambda: each([tensor_image(t) for t in tensors], TENSOR_CROP),
        **{f"crop only: ours {name}": partial(our_crops, arrays, np.asarray, crop) for name, crop in OUR_CROPS.items()},
    }
    return [Contender(name, make, len(files)) for name, make in rows.items()]


def each(items: Iterable, *steps: Callable) -> Callable[[], object]:
    """A call that takes each item through the steps."""

    def run() -> None:
        for item in items:
            for step in steps:
                item = step(item)

    return run


def ours(files: Sequence[bytes], backend: str) -> Callable[[], object]:
    """A call that makes the triples of all files; each call is another epoch."""
    config, ids, epochs = AugMixConfig(aug_severity=SEVERITY), np.arange(len(files)), itertools.count()

    def run() -> NDArray[np.uint8]:
        epoch = next(epochs)
        images = cropped(files, decode_rgb, OUR_CROPS[backend], epoch)
        return augmix(images, ids, epoch=epoch, config=config, backend=backend)

    return run


def our_crops(items: Sequence, decode: Callable, crop: Callable) -> Callable[[], object]:
    """A call that crops all items; each call is another epoch."""
    epochs = itertools.count()
    return lambda: cropped(items, decode, crop, next(epochs))


def cropped(items: Sequence, decode: Callable, crop: Callable, epoch: int) -> NDArray[np.uint8]:
    """(N, SIZE, SIZE, 3) uint8."""
    drawn = draw_crops(np.arange(len(items)), epoch=epoch, seed=0)
    return np.stack([crop(decode(item), words) for item, words in zip(items, drawn, strict=True)])


def pillow_image(file: bytes) -> Image.Image:
    """Decode as torchvision's ImageFolder does."""
    return Image.open(io.BytesIO(file)).convert("RGB")


def as_tensors(files: Sequence[bytes]) -> list[torch.Tensor]:
    """The encoded bytes as decode_jpeg takes them."""
    return [torch.frombuffer(bytearray(file), dtype=torch.uint8) for file in files]


def tensor_image(file: torch.Tensor) -> torch.Tensor:
    """(3, H, W) uint8."""
    return decode_jpeg(file, ImageReadMode.RGB)


if __name__ == "__main__":
    main()
