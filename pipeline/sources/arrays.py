"""Decoded images in arrays: digits, CIFAR as torchvision stores it, and .npy files."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray
from PIL import Image

from augmix_core.errors import missing_extra
from augmix_core.permutation import permute
from augmix_core.philox import Purpose
from pipeline.sources.base import Encoded, digest_of

DIGITS_TEST_SHARE = 0.25
CIFAR_FOLDERS = {"cifar10": "cifar-10-batches-py", "cifar100": "cifar-100-python"}
ARRAY_NAMES = (("x_{split}.npy", "y_{split}.npy"), ("{split}_images.npy", "{split}_labels.npy"))


@dataclass(frozen=True)
class ArraySource:
    """Decoded images of one size: digits, and CIFAR-10 in torchvision's files."""

    name: str
    images: NDArray[np.uint8]
    labels: NDArray[np.int64]
    class_names: tuple[str, ...]
    digest: str

    shard_rows = None

    def __len__(self) -> int:
        return len(self.labels)

    def read(self, sample_ids: Sequence[int] | NDArray[np.int64]) -> tuple[list[Encoded], NDArray[np.int64]]:
        """Images and labels."""
        ids = np.asarray(sample_ids, np.int64)
        return list(self.images[ids]), self.labels[ids]

    def describe(self, sample_id: int) -> str:
        """Where a sample comes from."""
        return f"{self.name} image {sample_id}"


@dataclass(frozen=True)
class ArrayFile:
    """A uint8 .npy file in C order: where its rows lie."""

    path: str
    offset: int
    """Bytes of the header."""
    shape: tuple[int, ...]

    def rows(self) -> NDArray[np.uint8]:
        """All rows, mapped anew, so that nothing stays open; indexing with an array copies the rows asked for."""
        return np.asarray(np.memmap(self.path, np.uint8, "r", self.offset, self.shape))


@dataclass(frozen=True)
class ArrayFileSource:
    """Decoded images of one size in consecutive rows of an .npy file."""

    file: ArrayFile
    first: int
    """Row of sample 0."""
    labels: NDArray[np.int64]
    class_names: tuple[str, ...]
    digest: str

    shard_rows = None

    def __len__(self) -> int:
        return len(self.labels)

    def read(self, sample_ids: Sequence[int] | NDArray[np.int64]) -> tuple[list[Encoded], NDArray[np.int64]]:
        """Images and labels."""
        ids = np.asarray(sample_ids, np.int64)
        return list(self.file.rows()[self.first : self.first + len(self)][ids]), self.labels[ids]

    def describe(self, sample_id: int) -> str:
        """Where a sample comes from."""
        return f"{self.file.path} row {self.first + sample_id}"


def open_digits(*, train: bool) -> ArraySource:
    """scikit-learn's 1,797 handwritten digits, 8x8 enlarged to 32x32 RGB; a fixed quarter of them is the test set."""
    try:
        from sklearn.datasets import load_digits
    except ImportError as error:
        raise missing_extra("scikit-learn", "ray") from error
    digits = load_digits()
    order = permute(np.arange(len(digits.target)), len(digits.target), seed=0, purpose=Purpose.SPLIT)
    tests = round(DIGITS_TEST_SHARE * len(order))
    chosen = np.sort(order[tests:] if train else order[:tests])
    grey = np.rint(digits.images[chosen] * (255 / 16)).astype(np.uint8)
    images = np.stack(
        [np.asarray(Image.fromarray(g).resize((32, 32), Image.Resampling.BILINEAR).convert("RGB")) for g in grey]
    )
    labels = digits.target[chosen].astype(np.int64)
    return ArraySource(
        "digits", images, labels, tuple(map(str, range(10))), digest_of(images.tobytes(), labels.tobytes())
    )


def open_torchvision_cifar(name: str, folder: Path, *, train: bool, download: bool) -> ArraySource:
    """CIFAR as torchvision stores it; it checks the published digest of each file before it unpickles it."""
    try:
        from torchvision.datasets import CIFAR10, CIFAR100
    except ImportError as error:
        raise missing_extra("torchvision", "ray") from error
    try:
        dataset = (CIFAR10 if name == "cifar10" else CIFAR100)(str(folder), train=train, download=download)
    except (RuntimeError, OSError) as error:
        raise ValueError(f"{name} in data.path {str(folder)!r} cannot be used: {error}") from error
    images, labels = np.asarray(dataset.data, np.uint8), np.asarray(dataset.targets, np.int64)
    return ArraySource(name, images, labels, tuple(dataset.classes), digest_of(images.tobytes(), labels.tobytes()))


def array_files(folder: Path, split: str) -> tuple[Path, Path] | None:
    """(images, labels) of a split in .npy files, if they are there."""
    for names in ARRAY_NAMES:
        images, labels = (folder / name.format(split=split) for name in names)
        if images.is_file() or labels.is_file():
            return images, labels
    return None


def open_arrays(images: Path, labels: Path, *, classes: int | None) -> ArrayFileSource:
    """Images (N, H, W, 3) uint8, mapped, and their labels (N,) or (N, 1).

    Raises:
        ValueError: One is missing, of another type or shape, or holds pickled objects; or a label is out of range.
    """
    file = open_array(images, (None, None, 3))
    by_row = read_labels(labels, column=True)
    if len(by_row) != file.shape[0]:
        raise ValueError(f"{labels} has {len(by_row):,} labels and {images} {file.shape[0]:,} images; save both again")
    count = classes or int(by_row.max()) + 1
    check_range(labels, by_row, count)
    return ArrayFileSource(file, 0, by_row, tuple(map(str, range(count))), digest_of_rows(file, 0, by_row))


def open_array(path: Path, row_shape: tuple[int | None, ...]) -> ArrayFile:
    """A uint8 .npy file (N, *row_shape) with N > 0, None standing for any size."""
    shape, dtype, offset = array_header(path)
    fits = len(shape) == 1 + len(row_shape) and all(r in (None, s) for s, r in zip(shape[1:], row_shape, strict=True))
    if dtype != np.uint8 or not fits or 0 in shape:
        rule = ", ".join("any" if size is None else str(size) for size in row_shape)
        raise ValueError(f"{path} holds {dtype} {shape}; uint8 (images, {rule}) is expected: download it again")
    return ArrayFile(str(path), offset, shape)


def read_labels(path: Path, *, column: bool = False) -> NDArray[np.int64]:
    """An .npy file of whole numbers, (N,), or (N, 1) where a column will do."""
    shape, dtype, _ = array_header(path)
    if dtype.kind not in "iu" or not (len(shape) == 1 or (column and shape[1:] == (1,))):
        raise ValueError(f"{path} holds {dtype} {shape}; one whole number per image is expected: download it again")
    return np.load(path, allow_pickle=False).reshape(-1).astype(np.int64)


def array_header(path: Path) -> tuple[tuple[int, ...], np.dtype, int]:
    """Shape, dtype and bytes of header of an .npy file that is as long as its header says."""
    try:
        with path.open("rb") as file:
            version = npy.read_magic(file)
            read = npy.read_array_header_1_0 if version == (1, 0) else npy.read_array_header_2_0
            shape, fortran_order, dtype = read(file)
            offset, size = file.tell(), os.fstat(file.fileno()).st_size
    except FileNotFoundError as error:
        raise ValueError(f"{path} is missing; unpack the published files again") from error
    except (OSError, ValueError) as error:
        raise ValueError(f"{path} is not a readable .npy file; download it again") from error
    if dtype.hasobject:
        raise ValueError(f"{path} holds pickled Python objects, which are not read; the published files hold numbers")
    expected = offset + int(np.prod(shape, dtype=np.int64)) * dtype.itemsize
    if size != expected:
        raise ValueError(
            f"{path} has {size:,} bytes and its header {shape} {dtype} says {expected:,}: download it again"
        )
    if fortran_order and len(shape) > 1:
        raise ValueError(f"{path} is in Fortran order, where no image lies in one piece; save it in C order")
    return shape, dtype, offset


def check_range(path: Path, labels: NDArray[np.int64], classes: int) -> None:
    """Refuse labels outside 0 .. classes - 1."""
    wrong = np.flatnonzero((labels < 0) | (labels >= classes))
    if len(wrong):
        raise ValueError(
            f"{path} row {wrong[0]} has label {labels[wrong[0]]}; labels must be from 0 to {classes - 1}: "
            f"{len(wrong):,} of {len(labels):,} are not"
        )


def digest_of_rows(file: ArrayFile, first: int, labels: NDArray[np.int64]) -> str:
    """Digest of an array's place, labels, and first and last image, which a file made anew hardly shares."""
    rows = file.rows()
    place = f"{Path(file.path).name}:{file.shape}:{first}".encode()
    return digest_of(place, labels.tobytes(), rows[first].tobytes(), rows[first + len(labels) - 1].tobytes())
