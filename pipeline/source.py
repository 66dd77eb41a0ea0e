"""Sources: where labelled images come from. One small interface over every layout.

A source is read by sample id, holds its index in Arrow or NumPy buffers (shipped once, shared by the workers of a
node without copies), and refuses a broken layout at the door, before anything starts.
"""

import hashlib
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray
from PIL import Image

from augmix_core.errors import missing_extra
from augmix_core.philox import Purpose
from pipeline.config import DataConfig
from pipeline.order import permute

IMAGE_SUFFIXES = (".jpeg", ".jpg", ".png")
MAX_PARQUET_BYTES = 4 * 2**30
DIGITS_TEST_SHARE = 0.25
CIFAR_CLASSES = {"cifar10": 10, "cifar100": 100}
CIFAR_FOLDERS = {"cifar10": "cifar-10-batches-py", "cifar100": "cifar-100-python"}
IMAGE_COLUMNS, LABEL_COLUMNS = ("image", "img"), ("label", "fine_label")
"""Names that Hugging Face's data sets use; the first one present is taken."""

Encoded = bytes | NDArray[np.uint8]
"""An encoded image file, or an (H, W, 3) uint8 RGB array that needs no decoding."""


class Source(Protocol):
    """Labelled images by sample id 0 .. len - 1."""

    @property
    def class_names(self) -> tuple[str, ...]:
        """In the order of the labels."""
        ...

    @property
    def digest(self) -> str:
        """SHA-256 of the index, so that a run notices when its data set has changed."""
        ...

    @property
    def labels(self) -> NDArray[np.int64]:
        """(N,) labels."""
        ...

    @property
    def shard_rows(self) -> NDArray[np.int64] | None:
        """(S,) rows of each shard where reading goes well in sequence, in the order of the ids; else None."""
        ...

    def __len__(self) -> int: ...

    def read(self, sample_ids: Sequence[int] | NDArray[np.int64]) -> tuple[list[Encoded], NDArray[np.int64]]:
        """Return the images, still encoded, and their labels."""
        ...

    def describe(self, sample_id: int) -> str:
        """Say where a sample comes from, for a person who has to look at it."""
        ...


@dataclass(frozen=True)
class ArraySource:
    """Decoded images of one size: digits, and CIFAR-10 in torchvision's files."""

    name: str
    images: NDArray[np.uint8]
    labels: NDArray[np.int64]
    class_names: tuple[str, ...]
    digest: str
    shard_rows: None = None

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
class ParquetSource:
    """Encoded images in the Hugging Face schema `image: struct<bytes, path>, label`, held in memory."""

    files: tuple[str, ...]
    rows_before: NDArray[np.int64]
    encoded: pa.ChunkedArray
    labels: NDArray[np.int64]
    class_names: tuple[str, ...]
    digest: str
    shard_rows: None = None

    def __len__(self) -> int:
        return len(self.labels)

    def read(self, sample_ids: Sequence[int] | NDArray[np.int64]) -> tuple[list[Encoded], NDArray[np.int64]]:
        """Images and labels."""
        ids = np.asarray(sample_ids, np.int64)
        return [self.encoded[int(i)].as_py() or b"" for i in ids], self.labels[ids]

    def describe(self, sample_id: int) -> str:
        """Where a sample comes from."""
        file = int(np.searchsorted(self.rows_before, sample_id, side="right")) - 1
        return f"{self.files[file]} row {sample_id - int(self.rows_before[file])}"


@dataclass(frozen=True)
class FolderSource:
    """Image files in one folder per class: ImageFolder and ILSVRC trees."""

    root: str
    paths: pa.StringArray
    labels: NDArray[np.int64]
    class_names: tuple[str, ...]
    digest: str
    shard_rows: None = None

    def __len__(self) -> int:
        return len(self.labels)

    def read(self, sample_ids: Sequence[int] | NDArray[np.int64]) -> tuple[list[Encoded], NDArray[np.int64]]:
        """Images and labels."""
        ids = np.asarray(sample_ids, np.int64)
        return [self.read_file(int(i)) for i in ids], self.labels[ids]

    def read_file(self, sample_id: int) -> bytes:
        """The file's bytes; nothing where it has vanished or cannot be read, which decoding then reports."""
        try:
            return Path(self.describe(sample_id)).read_bytes()
        except OSError:
            return b""

    def describe(self, sample_id: int) -> str:
        """Where a sample comes from."""
        return os.path.join(self.root, self.paths[sample_id].as_py())


def open_source(config: DataConfig, *, train: bool) -> Source:
    """Return the training or the test images of a data set.

    Raises:
        ValueError: The data set is not there, incomplete or inconsistent; the text says what to do.
        ImportError: A package of the [ray] extra is missing.
    """
    if config.name == "digits":
        return open_digits(train=train)
    if not config.path:
        raise ValueError(
            f"data.path is not set; give the folder of {config.name}: --data.path /absolute/folder"
            " (jobs/digits.py runs without any data)"
        )
    if config.download:
        make_folder(config.path)
    if not os.path.isdir(config.path):
        raise ValueError(f"data.path {config.path!r} is not a folder on this machine; mount it or correct the path")
    if config.name in CIFAR_CLASSES:
        return open_cifar(config.name, Path(config.path), train=train, download=config.download)
    return open_imagenet(Path(config.path), train=train)


def make_folder(path: str) -> None:
    """Make the folder that a download goes into."""
    try:
        Path(path).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ValueError(f"data.path {path!r} cannot be made for the download: {error.strerror}") from error


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


def open_cifar(name: str, folder: Path, *, train: bool, download: bool) -> Source:
    """CIFAR as Hugging Face parquet files (train-*.parquet, test-*.parquet), or as torchvision stores it."""
    split = "train" if train else "test"
    files = sorted([*folder.glob(f"{split}-*.parquet"), *folder.glob(f"*/{split}-*.parquet")])
    if files:
        return open_parquet(files, classes=CIFAR_CLASSES[name])
    if not (folder / CIFAR_FOLDERS[name]).is_dir() and not download:
        found = ", ".join(sorted(os.listdir(folder))[:5]) or "nothing"
        raise ValueError(
            f"data.path {str(folder)!r} holds neither {split}-*.parquet nor torchvision's {CIFAR_FOLDERS[name]} "
            f"(found: {found}); correct it, or add --data.download to fetch {name} into it"
        )
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


def open_parquet(files: Sequence[Path], *, classes: int) -> ParquetSource:
    """Parquet files with the columns `image: struct<bytes, path>` and `label`, every label in 0 .. classes - 1."""
    size = sum(file.stat().st_size for file in files)
    if size > MAX_PARQUET_BYTES:
        raise ValueError(
            f"{files[0].parent} holds {size / 2**30:.0f} GiB of parquet; "
            f"up to {MAX_PARQUET_BYTES >> 30} GiB is read, into memory"
        )
    tables = [read_columns(file) for file in files]
    labels = [table["label"].to_numpy().astype(np.int64) for table in tables]
    for file, by_row in zip(files, labels, strict=True):
        wrong = np.flatnonzero((by_row < 0) | (by_row >= classes))
        if len(wrong):
            raise ValueError(
                f"{file} row {wrong[0]} has label {by_row[wrong[0]]}; labels must be from 0 to {classes - 1}: "
                f"correct or remove the {len(wrong)} such rows"
            )
    rows_before = np.concatenate([[0], np.cumsum([len(table) for table in tables])])
    encoded = pa.chunked_array([chunk for table in tables for chunk in table["bytes"].chunks])
    digest = digest_of(
        *(f"{file.name}:{file.stat().st_size}".encode() for file in files), *(by_row.tobytes() for by_row in labels)
    )
    names = label_names(files[0], classes)
    return ParquetSource(tuple(map(str, files)), rows_before[:-1], encoded, np.concatenate(labels), names, digest)


def read_columns(file: Path) -> pa.Table:
    """The columns `bytes` and `label` of one file, or the one-line reason why not."""
    rule = "it needs image: struct<bytes: binary, path: string> and label: int64, as Hugging Face writes them"
    try:
        parquet = pq.ParquetFile(file)
        schema = parquet.schema_arrow
        image_name, label_name = (
            next((name for name in names if name in schema.names), None) for names in (IMAGE_COLUMNS, LABEL_COLUMNS)
        )
        if image_name is None or label_name is None:
            missing = [
                repr(names[0]) for names, name in ((IMAGE_COLUMNS, image_name), (LABEL_COLUMNS, label_name)) if not name
            ]
            raise ValueError(f"{file} has no column {' and '.join(missing)} (found: {', '.join(schema.names)}); {rule}")
        image, label = schema.field(image_name).type, schema.field(label_name).type
        if not pa.types.is_struct(image) or "bytes" not in [f.name for f in image] or not pa.types.is_integer(label):
            raise ValueError(f"{file} has {image_name}: {image}, {label_name}: {label}; {rule}")
        table = parquet.read(columns=[image_name, label_name])
    except (pa.ArrowInvalid, OSError) as error:
        raise ValueError(f"{file} is not a readable parquet file: {error}") from error
    labels = table[label_name]
    if labels.null_count:
        raise ValueError(f"{file} has {labels.null_count} rows without a label; correct or remove them")
    flat = [pc.struct_field(chunk, "bytes") for chunk in table[image_name].chunks]
    return pa.table({"bytes": pa.chunked_array(flat, pa.binary()), "label": labels})


def label_names(file: Path, classes: int) -> tuple[str, ...]:
    """Class names from Hugging Face's schema metadata, else the numbers."""
    metadata: dict[bytes, bytes] = pq.read_schema(file).metadata or {}
    try:
        info: Any = json.loads(metadata.get(b"huggingface", b"{}"))
        features = info["info"]["features"]
        names = next(tuple(map(str, features[name]["names"])) for name in LABEL_COLUMNS if name in features)
    except (ValueError, KeyError, TypeError, StopIteration):
        names = ()
    return names if len(names) == classes else tuple(map(str, range(classes)))


def open_imagenet(folder: Path, *, train: bool) -> FolderSource:
    """An ILSVRC tree: train/<wnid>/*.JPEG and val/<wnid>/*.JPEG, also below Data/CLS-LOC as published."""
    split = "train" if train else "val"
    roots = [
        root for root in (folder, folder / "Data/CLS-LOC", folder / "ILSVRC/Data/CLS-LOC") if (root / split).is_dir()
    ]
    if not roots:
        raise ValueError(
            f"data.path {str(folder)!r} has no folder {split}/ with one folder of JPEGs per class; "
            "set data.path to the folder that holds train/ and val/ (jobs/digits.py runs without any data)"
        )
    classes = class_folders(roots[0] / "train") if (roots[0] / "train").is_dir() else class_folders(roots[0] / split)
    return open_folder(roots[0] / split, classes)


def open_folder(root: Path, class_names: tuple[str, ...]) -> FolderSource:
    """One folder per class, label = its index in class_names; files that are no JPEG or PNG by name are passed over."""
    unknown = sorted(set(class_folders(root)) - set(class_names))
    if unknown:
        raise ValueError(
            f"{root} has the class folder {unknown[0]!r}, which train/ has not; the classes of both must agree"
        )
    paths: list[str] = []
    labels: list[int] = []
    for label, name in enumerate(class_names):
        if not (root / name).is_dir():
            continue
        files = sorted(entry.name for entry in os.scandir(root / name) if entry.name.lower().endswith(IMAGE_SUFFIXES))
        paths += [f"{name}/{file}" for file in files]
        labels += [label] * len(files)
    if not paths:
        raise ValueError(
            f"{root} has {len(class_names)} class folders and no image in them ({', '.join(IMAGE_SUFFIXES)})"
        )
    index = pa.array(paths)
    label_array = np.asarray(labels, np.int64)
    return FolderSource(
        str(root), index, label_array, class_names, digest_of("\n".join(paths).encode(), label_array.tobytes())
    )


def class_folders(root: Path) -> tuple[str, ...]:
    """The sorted names of the folders in one."""
    names = tuple(sorted(entry.name for entry in os.scandir(root) if entry.is_dir()))
    if not names:
        raise ValueError(f"{root} holds no folder; it needs one folder of images per class")
    return names


def digest_of(*parts: bytes) -> str:
    """SHA-256 of the parts, in hex."""
    digest = hashlib.sha256()
    for part in parts:
        digest.update(len(part).to_bytes(8, "little"))
        digest.update(part)
    return digest.hexdigest()
