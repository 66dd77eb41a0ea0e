"""Files of a data set, on this machine's file systems or in an object store, behind the same few calls.

`pipeline.storage` says how URIs are understood; protocols that pyarrow does not know are read through fsspec.
"""

import io
import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, TypeVar

import pyarrow as pa
from pyarrow import fs

from pipeline.storage import StorePath, in_one_line, storage_path, store_of

REQUESTS_AT_ONCE = 16
"""Of one process to a store: a request waits tens of milliseconds for its first byte."""
SCAN_BYTES = 8 << 20
"""Of one request while a remote file is read through from beginning to end."""
Item = TypeVar("Item")
Result = TypeVar("Result")


@dataclass(frozen=True, slots=True)
class Entry:
    """One name in a folder."""

    name: str
    is_folder: bool
    size: int
    mtime_ns: int


@dataclass(frozen=True, slots=True)
class Place:
    """A file or folder: a path, and the URI whose store it lies in, which is empty on this machine's file systems."""

    path: str
    store: str = ""

    def __truediv__(self, below: str) -> "Place":
        return Place(f"{self.path.rstrip('/')}/{below}" if below else self.path, self.store)

    def __str__(self) -> str:
        return f"{self.store.partition('://')[0]}://{self.path}" if self.store else self.path

    @property
    def name(self) -> str:
        """The last part of the path."""
        return self.path.rstrip("/").rpartition("/")[2]

    @property
    def parent(self) -> "Place":
        """The folder above."""
        return Place(self.path.rstrip("/").rpartition("/")[0] or "/", self.store)

    @property
    def files(self) -> Any:
        """The pyarrow file system of a remote place."""
        return store_of(self.store)[0]

    def is_folder(self) -> bool:
        """Whether it is a folder that can be looked into now."""
        if not self.store:
            return os.path.isdir(self.path)
        return self.files.get_file_info(self.path).type == fs.FileType.Directory

    def entries(self) -> list[Entry]:
        """What lies directly in a folder, sorted by name, without names that begin with a dot.

        Raises:
            OSError: It is not there, or may not be read.
        """
        if self.store:
            found = self.files.get_file_info(fs.FileSelector(self.path))
            listed = [
                Entry(info.base_name, info.type == fs.FileType.Directory, info.size or 0, info.mtime_ns or 0)
                for info in found
            ]
        else:
            listed = [Entry(e.name, e.is_dir(), *size_and_mtime(e)) for e in os.scandir(self.path)]
        return sorted((e for e in listed if not e.name.startswith(".")), key=lambda e: e.name)

    def read(self) -> bytes:
        """All bytes of a file."""
        if not self.store:
            return Path(self.path).read_bytes()
        with self.files.open_input_file(self.path) as file:
            return file.read()

    def read_range(self, offset: int, size: int) -> bytes:
        """Some bytes of a file; fewer where it ends before."""
        if not self.store:
            with Path(self.path).open("rb", buffering=0) as file:
                return os.pread(file.fileno(), size, offset)
        return remote_file(self).read_at(size, offset)

    def open(self) -> Any:
        """The file for random access: mapped where it is local."""
        if not self.store:
            return pa.memory_map(self.path)
        return self.files.open_input_file(self.path)

    def scan(self) -> Any:
        """The file to be read through, seekable and buffered, so that a remote one takes few requests."""
        if not self.store:
            return Path(self.path).open("rb")
        return io.BufferedReader(self.files.open_input_file(self.path), SCAN_BYTES)

    def walk(self) -> tuple[list[str], dict[str, int]]:
        """The relative paths of all files below a folder, sorted, and of a local one also every folder's mtime in ns.

        Folders are followed through links, each once. Names that begin with a dot are passed over.
        """
        if self.store:
            found = self.files.get_file_info(fs.FileSelector(self.path, recursive=True))
            begin = len(self.path.rstrip("/")) + 1
            names = (info.path[begin:] for info in found if info.type == fs.FileType.File)
            return sorted(name for name in names if not any(p.startswith(".") for p in name.split("/"))), {}
        files: list[str] = []
        folders: dict[str, int] = {}
        walk_local(self.path, "", files, folders, set())
        return sorted(files), folders


def walk_local(root: str, below: str, files: list[str], folders: dict[str, int], seen: set[tuple[int, int]]) -> None:
    """Collect the files and folders below a local folder; the time comes before the listing it vouches for."""
    at = os.path.join(root, below)
    state = Path(at).stat()
    if (state.st_dev, state.st_ino) in seen:
        return
    seen.add((state.st_dev, state.st_ino))
    folders[below] = state.st_mtime_ns
    with os.scandir(at) as entries:
        for entry in entries:
            if entry.name.startswith("."):
                continue
            name = f"{below}/{entry.name}" if below else entry.name
            if entry.is_dir():
                walk_local(root, name, files, folders, seen)
            elif entry.is_file() or entry.is_symlink():  # a link to nowhere is a bad sample, a device is none
                files.append(name)


def size_and_mtime(entry: os.DirEntry) -> tuple[int, int]:
    """Of what a name points to; zeros where a link points nowhere."""
    try:
        state = entry.stat()
    except OSError:
        return 0, 0
    return state.st_size, state.st_mtime_ns


def place_of(where: str | Path | Place) -> Place:
    """A local path or a URI as a place.

    Raises:
        ValueError: The protocol is unknown, or what reads it is not installed.
    """
    if isinstance(where, Place):
        return where
    found = storage_path(str(where), "data.path")
    return Place(found.path, found.store) if isinstance(found, StorePath) else Place(str(where))


@lru_cache(maxsize=64)
def remote_file(place: Place) -> Any:
    """A remote file, kept open: opening it takes a request."""
    return place.files.open_input_file(place.path)


def sample_bytes(read: Callable[[], bytes], root: Place) -> bytes:
    """What `read` returns; nothing where this one file is missing or unreadable.

    Raises:
        OSError: The folder of the data set has gone, or its store fails even after pyarrow's retries.
    """
    try:
        return read()
    except OSError as error:
        is_one_file = isinstance(error, FileNotFoundError) or not root.store
        if is_one_file and root.is_folder():
            return b""
        raise OSError(f"the data set in {root} cannot be read any more: {in_one_line(error)}") from None


def at_once(function: Callable[[Item], Result], items: list[Item], *, remote: bool) -> Iterator[Result]:
    """`function` of every item, in order; requests to a store are made side by side."""
    if not remote or len(items) < 2:
        yield from map(function, items)
        return
    with ThreadPoolExecutor(min(REQUESTS_AT_ONCE, len(items))) as pool:
        yield from pool.map(function, items)
