"""The door to all sources: `open_source` looks into data.path, recognises the layout, and opens it.

A source is read by sample id. What it knows about its images is small or lies in an index that workers map, and a
broken layout is refused before anything starts. The layouts themselves are in `pipeline/sources/`.
"""

import dataclasses
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

from pipeline.config import DataConfig
from pipeline.shards import SPLITS, holds_shards, open_shards
from pipeline.sources.arrays import (
    CIFAR_FOLDERS,
    ArraySource,
    array_files,
    open_arrays,
    open_digits,
    open_torchvision_cifar,
)
from pipeline.sources.base import IMAGE_SUFFIXES, Encoded, Source, digest_of
from pipeline.sources.files import Entry, Place, place_of
from pipeline.sources.folder import FolderSource, Share, class_folders, open_folder, refuse_unknown
from pipeline.sources.ilsvrc import label_file, open_flat
from pipeline.sources.index import held
from pipeline.sources.parquet import ParquetSource, open_parquet, parquet_files
from pipeline.sources.tars import open_tars, tar_files
from pipeline.storage import in_one_line

__all__ = [
    "IMAGE_SUFFIXES",
    "ArraySource",
    "Encoded",
    "FolderSource",
    "Found",
    "ParquetSource",
    "Place",
    "Source",
    "class_folders",
    "digest_of",
    "find_source",
    "held",
    "of_same_classes",
    "open_digits",
    "open_folder",
    "open_parquet",
    "open_source",
    "place_of",
    "summary",
]

CLASSES = {"cifar10": 10, "cifar100": 100}
TRAIN, TEST = ("train",), ("val", "validation", "test")
"""Names of the splits; of those for test the first one that is there is taken."""
BELOW = ("", "Data/CLS-LOC", "ILSVRC/Data/CLS-LOC")
"""Where ILSVRC's folders lie in the copies that people have."""
FOLDERS_LOOKED_INTO = 8
"""Of a data set's folder with more folders than this, none is searched for parquet files or shards."""
NAMES_IN_AN_ERROR = 5


@dataclasses.dataclass(frozen=True)
class Found:
    """A split whose layout has been recognised and which has not been read yet."""

    what: str
    """For people."""
    open: Callable[[Path | None], Source]
    """Takes the folder where indexes are kept, if they are to be kept.

    Raises:
        ValueError: The images are incomplete or inconsistent.
    """


@dataclasses.dataclass(frozen=True)
class Looked:
    """What lies in data.path, and which split of it is wanted."""

    config: DataConfig
    root: Place
    entries: list[Entry]
    train: bool

    @property
    def names(self) -> tuple[str, ...]:
        """The names that the split may have."""
        return TRAIN if self.train else TEST

    @property
    def index_name(self) -> str:
        """What an index of it is called."""
        return f"{self.config.name}-{'train' if self.train else 'test'}"

    @property
    def classes(self) -> int | None:
        """How many there must be."""
        return CLASSES.get(self.config.name)

    @cached_property
    def folders(self) -> list[tuple[Place, list[Entry]]]:
        """data.path and, if they are few, the folders in it, with what lies in each."""
        inside = [entry.name for entry in self.entries if entry.is_folder]
        few = inside if len(inside) <= FOLDERS_LOOKED_INTO else []
        return [(self.root, self.entries), *((self.root / name, (self.root / name).entries()) for name in few)]


def open_source(config: DataConfig, *, train: bool, index_folder: Path | None = None) -> Source:
    """Return the training or the test images of a data set.

    Args:
        index_folder: where indexes are kept and found again; None keeps them in memory.
    Raises:
        ValueError: The data set is not there, incomplete or inconsistent; the text says what to do.
        ImportError: A package of the [ray] extra is missing.
    """
    return find_source(config, train=train).open(index_folder)


def find_source(config: DataConfig, *, train: bool) -> Found:
    """Recognise the layout of a split by looking into data.path, without reading or listing its images.

    Raises:
        ValueError: data.path is not there or holds no layout that is known; says what was found.
    """
    if config.name == "digits" and not config.path:
        return Found("scikit-learn's digits", lambda _: open_digits(train=train))
    if not config.path:
        raise ValueError(
            f"data.path is not set; give the folder of {config.name}: --data.path /absolute/folder"
            " (jobs/digits.py runs without any data)"
        )
    root = place_of(config.path)
    if config.download:
        make_folder(config.path)
    if not root.store and not root.is_folder():
        raise ValueError(f"data.path {config.path!r} is not a folder on this machine; mount it or correct the path")
    with told_if_unreadable(root):
        looked = Looked(config, root, root.entries(), train)
        for layout in (find_shards, find_parquet, find_folders, find_tars, find_cifar, find_shared):
            if found := layout(looked):
                return found
    return refuse_layout(looked)


def summary(split: str, found: Found, source: Source) -> str:
    """What was found and opened, in a line."""
    return f"{split}: {len(source):,} images, {len(source.class_names):,} classes, {found.what}"


AnySource = TypeVar("AnySource", bound=Source)


def of_same_classes(train: Source, test: AnySource) -> AnySource:
    """Return the test images with the class names of training, which must be the same.

    Where classes are mere numbers, and no test image is of the last of them, the test images know of too few.

    Raises:
        ValueError: They differ.
    """
    if train.class_names == test.class_names:
        return test
    numbers = tuple(map(str, range(len(train.class_names))))
    if train.class_names == numbers and test.class_names == numbers[: len(test.class_names)]:
        return dataclasses.replace(test, class_names=numbers)  # type: ignore[type-var]
    differ = sorted(set(train.class_names) ^ set(test.class_names))
    raise ValueError(
        f"training images have {len(train.class_names):,} classes and test images {len(test.class_names):,}, and "
        f"{len(differ):,} are in one alone ({', '.join(map(repr, differ[:3]))}); they must agree"
    )


@contextmanager
def told_if_unreadable(root: Place) -> Iterator[None]:
    """Say which data.path could not be looked into."""
    try:
        yield
    except OSError as error:
        raise ValueError(
            f"data.path '{root}' cannot be listed: {in_one_line(error)}; correct the path, or give its store's "
            "credentials (such as AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY) and endpoint (AWS_ENDPOINT_URL)"
        ) from error


def make_folder(path: str) -> None:
    """Make the folder that a download goes into."""
    try:
        Path(path).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ValueError(f"data.path {path!r} cannot be made for the download: {error.strerror}") from error


def find_shards(looked: Looked) -> Found | None:
    """What `jobs/preprocess.py images` has written."""
    config = looked.config
    folders = [entry.name for entry in looked.entries if entry.is_folder and entry.name in SPLITS]
    if not folders or not holds_shards(config.path):
        return None
    return Found(
        f"pre-decoded shards in {looked.root}", lambda _: open_shards(config.path, config.name, train=looked.train)
    )


def find_parquet(looked: Looked) -> Found | None:
    """Hugging Face's parquet files, in data.path or a folder in it such as data/."""
    for name in looked.names:
        for folder, entries in looked.folders:
            files = parquet_files(entries, name)
            if files:
                places = [folder / file.name for file in files]
                opening = indexed(looked, open_parquet, places, classes=looked.classes)
                return Found(f"{len(files):,} parquet files {name}-* in {folder}", opening)
    return None


def find_folders(looked: Looked) -> Found | None:
    """A folder of images for each class, in train/ and val/, validation/ or test/; or ILSVRC's flat val/."""
    for below in BELOW:
        base = looked.root / below
        if below and not base.is_folder():
            continue
        folders = {entry.name for entry in (base.entries() if below else looked.entries) if entry.is_folder}
        train = folders_in(base / "train") if "train" in folders else ()
        for split in (base / name for name in looked.names if name in folders):
            if classes := folders_in(split):
                refuse_unknown(split, classes, train or classes)
                return Found(f"image folders in {split}", indexed(looked, open_folder, split, train or classes))
            labels = None if looked.train else label_file(split, [base, looked.root])
            if labels:
                opening = indexed(looked, open_flat, split, labels, train or None)
                return Found(f"images in {split}, labelled by {labels}", opening)
    return None


def find_shared(looked: Looked) -> Found | None:
    """Somebody's own class folders alone: a fixed share of each class is the test set."""
    classes = [entry.name for entry in looked.entries if entry.is_folder]
    if looked.config.name != "folder" or not classes or {*TRAIN, *TEST} & set(classes):
        return None
    share = Share(not looked.train, looked.config.test_fraction)
    part = share.fraction if share.test else 1 - share.fraction
    what = f"{100 * part:.3g} % of each class of the image folders in {looked.root}"
    return Found(what, indexed(looked, open_folder, looked.root, classes, share=share))


def find_tars(looked: Looked) -> Found | None:
    """WebDataset shards, in data.path or a folder in it."""
    for name in looked.names:
        for folder, entries in looked.folders:
            shards = tar_files(entries, name)
            if shards:
                opening = indexed(looked, open_tars, folder, shards, classes=looked.classes)
                return Found(f"{len(shards):,} tar shards *{name}*.tar in {folder}", opening)
    return None


def find_cifar(looked: Looked) -> Found | None:
    """CIFAR in .npy files, or as torchvision stores it; both on this machine's file systems alone."""
    config, folder = looked.config, Path(looked.root.path)
    if looked.root.store or config.name not in CIFAR_FOLDERS:
        return None
    if files := array_files(folder, "train" if looked.train else "test"):
        images, labels = files
        return Found(
            f"{images.name} and {labels.name} in {folder}",
            lambda _: open_arrays(images, labels, classes=looked.classes),
        )
    stored = CIFAR_FOLDERS[config.name]
    if (folder / stored).is_dir() or config.download:
        return Found(
            f"torchvision's {stored} in {folder}",
            lambda _: open_torchvision_cifar(config.name, folder, train=looked.train, download=config.download),
        )
    return None


def indexed(looked: Looked, opener: Callable[..., Source], *arguments: Any, **more: Any) -> Callable[..., Source]:
    """The opening of a layout that may keep an index."""

    def opening(index_folder: Path | None) -> Source:
        with told_if_unreadable(looked.root):
            source = opener(
                *arguments, **more, name=looked.index_name, index_folder=index_folder, rebuild=looked.config.reindex
            )
        if looked.classes and len(source.class_names) != looked.classes:
            raise ValueError(
                f"{looked.root} has {len(source.class_names):,} classes; {looked.config.name} has {looked.classes}"
            )
        return source

    return opening


def folders_in(root: Place) -> tuple[str, ...]:
    """The names of the folders in one."""
    return tuple(entry.name for entry in root.entries() if entry.is_folder)


def refuse_layout(looked: Looked) -> Found:
    """Say what was looked for and what was found."""
    name, root, split = looked.config.name, looked.root, looked.names[0]
    found = ", ".join(entry.name for entry in looked.entries[:NAMES_IN_AN_ERROR]) or "nothing"
    if name in CIFAR_FOLDERS:
        raise ValueError(
            f"data.path '{root}' holds neither {looked.names[-1]}-*.parquet nor torchvision's {CIFAR_FOLDERS[name]} "
            f"(found: {found}); correct it, or add --data.download to fetch {name} into it"
        )
    raise ValueError(
        f"data.path '{root}' has no folder {split}/ with one folder of images per class, no {split}-*.parquet and no "
        f"*{split}*.tar (found: {found}); set data.path to the folder that holds train/ and val/ (jobs/digits.py "
        "runs without any data)"
    )
