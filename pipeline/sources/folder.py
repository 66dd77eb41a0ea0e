"""Image files in one folder per class: ImageFolder trees, ILSVRC's, anyone's own, also in an object store."""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from augmix_core.permutation import permute
from augmix_core.philox import Purpose
from pipeline.sources.base import IMAGE_SUFFIXES, Encoded
from pipeline.sources.files import Place, at_once, place_of, sample_bytes
from pipeline.sources.index import Built, Index, each, held, joined, open_index

CLASSES_A_TASK = 16
SUFFIXES = ", ".join(IMAGE_SUFFIXES)


@dataclass(frozen=True)
class FolderSource:
    """Image files below one folder."""

    root: Place
    index: Index
    """path, relative to root, and label."""
    class_names: tuple[str, ...]
    digest: str

    shard_rows = None

    @property
    def paths(self) -> Any:
        """An Arrow array of relative paths."""
        return self.index.texts("path")

    @property
    def labels(self) -> NDArray[np.int64]:
        """(N,) labels."""
        return self.index.numbers("label")

    def __len__(self) -> int:
        return len(self.index)

    def read(self, sample_ids: Sequence[int] | NDArray[np.int64]) -> tuple[list[Encoded], NDArray[np.int64]]:
        """Images and labels."""
        ids = np.asarray(sample_ids, np.int64)
        images: list[Encoded] = list(at_once(self.read_file, ids.tolist(), remote=bool(self.root.store)))
        return images, self.labels[ids]

    def read_file(self, sample_id: int) -> bytes:
        """The file's bytes; nothing where it has vanished or cannot be read, which decoding then reports."""
        return sample_bytes((self.root / self.paths[sample_id].as_py()).read, self.root)

    def taken(self, order: NDArray[np.int64]) -> "FolderSource":
        """The same images under other ids: id n is the one that has id order[n] here."""
        index = held(path=self.paths.take(pa.array(order)), label=self.labels[order])
        return dataclasses.replace(self, index=index)

    def describe(self, sample_id: int) -> str:
        """Where a sample comes from."""
        return str(self.root / self.paths[sample_id].as_py())


class Share(NamedTuple):
    """Which part of the files of each class: the same ones whenever the folder holds the same names."""

    test: bool
    fraction: float
    """That is the test set."""

    def of(self, files: list[str], label: int) -> list[str]:
        """The chosen ones of a class, which has two files at least, in order; each part gets one at least."""
        order = permute(np.arange(len(files)), len(files), seed=0, purpose=Purpose.SPLIT, epoch=label)
        tests = min(max(round(self.fraction * len(files)), 1), len(files) - 1)
        return [files[n] for n in np.sort(order[:tests] if self.test else order[tests:])]


class Listed(NamedTuple):
    """Some class folders, listed."""

    batch: pa.RecordBatch
    folders: dict[str, int]
    """mtime in ns of each folder below a local root."""
    files: list[int]
    """Images of each class folder."""


def open_folder(
    root: Path | Place,
    class_names: Sequence[str],
    *,
    name: str = "folder",
    index_folder: Path | None = None,
    share: Share | None = None,
    rebuild: bool = False,
) -> FolderSource:
    """One folder per class, label = its index in class_names; images are found at any depth, by their suffix.

    The index is used again while the class folders and every folder below them have the names and times of change
    they had. A store has no such times: there, only new or missing class folders are noticed, and images that were
    added or removed are not (data.reindex). A file that was overwritten under its old name needs no new index.

    Raises:
        ValueError: A class folder holds no image, or is none of class_names; says how many.
    """
    root, names = place_of(root), tuple(class_names)
    found = class_folders(root)
    refuse_unknown(root, found, names)
    there = set(found)
    here = [(label, name) for label, name in enumerate(names) if name in there]

    def current(state: Any) -> bool:
        return state["classes"] == list(found) and all(
            mtime_of(root / folder) == mtime for folder, mtime in state["folders"].items()
        )

    def build() -> Built:
        groups = [here[n : n + CLASSES_A_TASK] for n in range(0, len(here), CLASSES_A_TASK)]
        listed = list(each(partial(list_classes, root, share), groups))
        counts = [count for part in listed for count in part.files]
        least = 2 if share else 1
        few = [name for (_, name), count in zip(here, counts, strict=True) if count < least]
        if few:
            rule = "at least two, one of which is held back for test" if share else f"at least one ({SUFFIXES})"
            raise ValueError(
                f"{root}: {len(few):,} of {len(here):,} class folders have no image in them, or too few, "
                f"the first {few[0]!r}; a class needs {rule}: add some, or remove the folder"
            )
        folders = {folder: mtime for part in listed for folder, mtime in part.folders.items()}
        return Built(joined([part.batch for part in listed]), {"classes": list(found), "folders": folders}, {})

    index = open_index(
        index_folder,
        name,
        place=["folder", str(root), root.store, list(names), share],
        current=current,
        build=build,
        rebuild=rebuild,
    )
    return FolderSource(root, index, names, index.digest)


def list_classes(root: Place, share: Share | None, classes: list[tuple[int, str]]) -> Listed:
    """Runs in a task: the images of some class folders, as rows of the index."""
    paths: list[str] = []
    labels: list[int] = []
    folders: dict[str, int] = {}
    counts = []
    for label, name in classes:
        files, inside = (root / name).walk()
        folders |= {f"{name}/{folder}" if folder else name: mtime for folder, mtime in inside.items()}
        images = [file for file in files if file.lower().endswith(IMAGE_SUFFIXES)]
        counts.append(len(images))
        if share and len(images) > 1:
            images = share.of(images, label)
        paths += [f"{name}/{file}" for file in images]
        labels += [label] * len(images)
    return Listed(rows_of(root, paths, labels), folders, counts)


def rows_of(root: Place, paths: list[str], labels: Sequence[int] | NDArray[np.int64]) -> pa.RecordBatch:
    """Rows of the index."""
    try:
        column = pa.array(paths, pa.large_string())
    except UnicodeEncodeError as error:
        raise ValueError(f"{root} has a file whose name is not UTF-8: {error.object!r}; rename it") from error
    return pa.RecordBatch.from_pydict({"path": column, "label": pa.array(labels, pa.int64())})


def class_folders(root: Path | Place) -> tuple[str, ...]:
    """The sorted names of the folders in one."""
    root = place_of(root)
    names = tuple(entry.name for entry in root.entries() if entry.is_folder)
    if not names:
        raise ValueError(f"{root} holds no folder; it needs one folder of images per class")
    return names


def refuse_unknown(root: Place, found: Sequence[str], class_names: Sequence[str]) -> None:
    """Refuse class folders that training has not."""
    unknown = sorted(set(found) - set(class_names))
    if unknown:
        raise ValueError(
            f"{root} has the class folder {unknown[0]!r}, which train/ has not ({len(unknown):,} such of "
            f"{len(found):,}, train/ has {len(class_names):,}); the classes of both must agree"
        )


def mtime_of(folder: Place) -> int:
    """Time of change in ns of a local folder; -1 where it is gone."""
    try:
        return Path(folder.path).stat().st_mtime_ns
    except OSError:
        return -1
