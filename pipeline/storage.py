"""Where runs live: a folder that all nodes mount, or one in an object store by its URI.

`storage_path` gives a pathlib.Path for the one and a StorePath for the other, which has those of Path's methods that
the pipeline calls. Where the two differ there is a function here: an object appears whole or not at all, but it cannot
grow, and a folder of objects has no name that could be changed.

`s3://`, `gs://`, `abfs://` and `hdfs://` are pyarrow's file systems, which try again after a failed request. An
endpoint other than the cloud's own stands in the URI's query
(`s3://bucket/folder?endpoint_override=127.0.0.1:9000&scheme=http`) or in AWS_ENDPOINT_URL; credentials come from the
usual environment variables or files of the cloud, on every node, and never stand in the URI.
"""

import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import lru_cache
from pathlib import Path
from typing import Any, TypeAlias

import pyarrow as pa
from pyarrow import fs

from pipeline.config import STORES

BY_PYARROW = (*STORES, "viewfs", "file")


@dataclass(frozen=True, slots=True)
class StorePath:
    """A file or folder in an object store: its path there, and the URI that the store is opened by."""

    path: str
    store: str

    def __truediv__(self, below: str) -> "StorePath":
        return StorePath(f"{self.path.rstrip('/')}/{below}", self.store)

    def __str__(self) -> str:
        return f"{self.store.partition('://')[0]}://{self.path}"

    @property
    def files(self) -> Any:
        """The pyarrow file system."""
        return store_of(self.store)[0]

    @property
    def name(self) -> str:
        """The last part."""
        return self.path.rpartition("/")[2]

    @property
    def stem(self) -> str:
        """The last part without its suffix."""
        return Path(self.path).stem

    @property
    def parent(self) -> "StorePath":
        """The folder above."""
        return StorePath(self.path.rpartition("/")[0], self.store)

    def with_name(self, name: str) -> "StorePath":
        """Another one in the same folder."""
        return self.parent / name

    def resolve(self) -> "StorePath":
        """Itself."""
        return self

    def kind(self) -> Any:
        """pyarrow's FileType."""
        return self.files.get_file_info(self.path).type

    def exists(self) -> bool:
        """Whether it is there."""
        return self.kind() != fs.FileType.NotFound

    def is_file(self) -> bool:
        """Whether it is a file."""
        return self.kind() == fs.FileType.File

    def is_dir(self) -> bool:
        """Whether it is a folder."""
        return self.kind() == fs.FileType.Directory

    def iterdir(self) -> Iterator["StorePath"]:
        """What lies directly in a folder."""
        for info in self.files.get_file_info(fs.FileSelector(self.path)):
            yield self / info.base_name

    def glob(self, pattern: str) -> Iterator["StorePath"]:
        """What fits a pattern such as `train/*`."""
        first, _, rest = pattern.partition("/")
        if "*" not in first:
            fitting = [self / first] if (self / first).exists() else []
        else:
            listed = self.files.get_file_info(fs.FileSelector(self.path, allow_not_found=True))
            fitting = [self / info.base_name for info in listed if fnmatchcase(info.base_name, first)]
        for found in fitting:
            yield from found.glob(rest) if rest else [found]

    def mkdir(self, *, parents: bool = False, exist_ok: bool = True) -> None:
        """Make a folder and all above it, whatever is asked for."""
        self.files.create_dir(self.path, recursive=True)

    def touch(self) -> None:
        """Make an empty file."""
        self.write_bytes(b"")

    def unlink(self, *, missing_ok: bool = False) -> None:
        """Remove a file."""
        try:
            self.files.delete_file(self.path)
        except FileNotFoundError:
            if not missing_ok:
                raise

    def read_bytes(self) -> bytes:
        """All of a file."""
        with self.files.open_input_file(self.path) as file:
            return file.read()

    def read_text(self) -> str:
        """All of a file, as UTF-8."""
        return self.read_bytes().decode()

    def write_bytes(self, content: bytes) -> None:
        """Write a file, which appears as a whole."""
        with self.files.open_output_stream(self.path) as file:
            file.write(content)


StoredPath: TypeAlias = Path | StorePath


def storage_path(where: str, field: str = "storage") -> StoredPath:
    """A local path or a URI.

    Raises:
        ValueError: The URI is of no store that is known; names the field that it stands in.
    """
    if "://" not in where:
        return Path(where)
    try:
        return StorePath(store_of(where)[1].rstrip("/"), where)
    except ValueError as error:
        raise ValueError(f"{field} {error}") from error


def matching(folder: StoredPath, pattern: str) -> list[StoredPath]:
    """The files and folders that fit a pattern such as `train/*`, sorted."""
    return sorted(folder.glob(pattern), key=str)


def write_atomically(path: StoredPath, content: str | bytes) -> None:
    """Readers see the old content or the new one."""
    encoded = content.encode() if isinstance(content, str) else content
    if isinstance(path, StorePath):
        path.write_bytes(encoded)
        return
    scratch = path.with_suffix(".tmp")
    scratch.write_bytes(encoded)
    scratch.replace(path)


def write_durably(path: StoredPath, content: bytes) -> None:
    """Write a new file and wait until it is on the disk."""
    path.write_bytes(content)
    flush_to_disk(path)


def flush_to_disk(path: StoredPath) -> None:
    """Wait until a file, or a folder's list of names, is on the disk; a store is done when it has answered."""
    if isinstance(path, StorePath):
        return
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def append_line(path: StoredPath, line: str) -> None:
    """Add a line to a file, which need not exist; in a store the whole file is written anew."""
    if isinstance(path, StorePath):
        path.write_bytes((path.read_bytes() if path.exists() else b"") + f"{line}\n".encode())
        return
    with path.open("a") as lines:
        lines.write(f"{line}\n")


def open_file(path: StoredPath) -> pa.NativeFile:
    """A file for random access."""
    return path.files.open_input_file(path.path) if isinstance(path, StorePath) else pa.OSFile(str(path))


def remove_folder(path: StoredPath) -> None:
    """Remove a folder and everything in it, if it is there."""
    if not path.exists():
        return
    if isinstance(path, StorePath):
        path.files.delete_dir(path.path)
    else:
        shutil.rmtree(path)


def rename_folder(path: StoredPath, name: str) -> None:
    """Give a folder another name; in a store everything in it is copied and then removed."""
    if isinstance(path, StorePath):
        files, target = path.files, path.with_name(name).path
        fs.copy_files(path.path, target, source_filesystem=files, destination_filesystem=files)
        remove_folder(path)
    else:
        path.rename(path.with_name(name))


def for_ray(path: StoredPath) -> tuple[str, Any]:
    """What Ray calls storage_path and storage_filesystem; the latter is None for a local path."""
    return (path.path, path.files) if isinstance(path, StorePath) else (str(path), None)


@lru_cache(maxsize=8)
def store_of(uri: str) -> tuple[Any, str]:
    """The file system that a URI names, once a process, and the path inside it.

    Raises:
        ValueError: The protocol is unknown, or what reads it is not installed.
    """
    protocol = uri.partition("://")[0]
    try:
        if protocol in BY_PYARROW:
            return fs.FileSystem.from_uri(with_endpoint(uri))
        import fsspec

        found, path = fsspec.core.url_to_fs(uri)
        return fs.PyFileSystem(fs.FSSpecHandler(found)), path
    except (ImportError, ValueError, OSError) as error:
        raise ValueError(f"{uri!r} cannot be opened: {in_one_line(error)}") from error


def with_endpoint(uri: str) -> str:
    """The URI with the endpoint of AWS_ENDPOINT_URL, unless it names one: else pyarrow asks Amazon for the bucket."""
    endpoint = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL")
    if not uri.startswith("s3://") or not endpoint or "endpoint_override=" in uri:
        return uri
    scheme, _, host = endpoint.rpartition("://")
    return f"{uri}{'&' if '?' in uri else '?'}endpoint_override={host.rstrip('/')}&scheme={scheme or 'https'}"


def in_one_line(error: BaseException) -> str:
    """The text of an error without its line breaks."""
    return " ".join(str(error).split())


def reason(error: OSError) -> str:
    """What the system says of a failed call, in one line."""
    return error.strerror or in_one_line(error)
