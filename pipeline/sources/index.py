"""Indexes: where every sample lies, built once, kept as an Arrow file that every process maps.

An index file is never changed: its name holds a digest of the place and of the state that it was built from, so a
run that is going on keeps reading the one it began with. Opening one costs the same for any number of samples; in
Ray it travels as a path. The folder must be one that all nodes mount.
"""

import json
import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from pipeline.sources.base import digest_of

FORMAT = 1
"""Part of every index's name; another layout of the columns needs another number."""
ABOUT = b"augmix"
SECONDS_FOR_RAY = 10.0
"""What would take less is listed or scanned here before Ray's workers are up."""
TASK_CPUS = 0.25  # a task mostly waits for a disk or a store
THREADS = 8
Item = TypeVar("Item")
Result = TypeVar("Result")


class Columns(NamedTuple):
    """The columns of an index as they are in this process, numbers as NumPy arrays."""

    batch: pa.RecordBatch
    numbers: dict[str, NDArray[np.int64]]


@dataclass(frozen=True)
class Index:
    """Columns by sample id: mapped from a file, of which only the path travels, or held in memory."""

    digest: str
    """SHA-256 of the columns."""
    path: str = ""
    held: pa.RecordBatch | None = field(default=None, repr=False)
    about: dict[str, Any] = field(default_factory=dict, repr=False)
    """What else was learnt while it was built; a few values, no columns."""

    @property
    def columns(self) -> Columns:
        """All columns; those of a file are opened once a process."""
        return mapped(self.path, self.digest) if self.path else in_numpy(self.held)

    def numbers(self, name: str) -> NDArray[np.int64]:
        """An int64 column."""
        return self.columns.numbers[name]

    def texts(self, name: str) -> Any:
        """A column of strings, as an Arrow array."""
        return self.columns.batch.column(name)

    def __len__(self) -> int:
        return self.columns.batch.num_rows


@dataclass(frozen=True)
class Built:
    """What building an index gives."""

    batch: pa.RecordBatch
    state: Any
    """What it was built from, as JSON: compared when the index is to be used again."""
    about: dict[str, Any]


def held(**columns: Any) -> Index:
    """An index in memory, of strings or int64 numbers."""
    batch = pa.RecordBatch.from_pydict({name: pa.array(values) for name, values in columns.items()})
    return Index(digest_of_columns(batch), held=batch)


def open_index(
    folder: Path | None,
    name: str,
    *,
    place: Sequence[Any],
    current: Callable[[Any], bool],
    build: Callable[[], Built],
    rebuild: bool,
) -> Index:
    """Return the kept index of a place if it is still true, else build one and keep it.

    Args:
        folder: where indexes are kept; None keeps none.
        name: of the data set and split, for people who look into the folder.
        place: what is indexed and how, as JSON values.
        current: whether the state that an index was built from is that of now.
        rebuild: build it in any case.
    Raises:
        ValueError: What is indexed is inconsistent, or the folder cannot be written.
    """
    if folder is None:
        built = build()
        return Index(digest_of_columns(built.batch), held=built.batch, about=built.about)
    where = digest_of(json.dumps([FORMAT, *place]).encode())
    stem = f"{name}-{where[:8]}"
    if not rebuild:
        for path in sorted(folder.glob(f"{stem}*.arrow")):
            known = described(path)
            if known and known["place"] == where and current(known["state"]):
                return Index(known["digest"], str(path), about=known["about"])
    built = build()
    digest = digest_of_columns(built.batch)
    about = {"place": where, "state": built.state, "digest": digest, "about": built.about}
    text = json.dumps(about)
    path = folder / f"{stem}{digest_of(text.encode())[:8]}.arrow"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        write(path, built.batch.replace_schema_metadata({ABOUT: text}))
    except OSError as error:
        raise ValueError(
            f"index {str(path)!r} cannot be written ({error.strerror}); set --storage or $AUGMIX_STORAGE"
        ) from error
    return Index(digest, str(path), about=built.about)


def write(path: Path, batch: pa.RecordBatch) -> None:
    """Readers see the whole file or none."""
    scratch = path.with_suffix(f".{os.getpid()}.tmp")
    with scratch.open("wb") as file:
        with pa.ipc.new_file(file, batch.schema) as writer:
            writer.write_batch(batch)
        file.flush()
        os.fsync(file.fileno())
    scratch.replace(path)


def described(path: Path) -> dict[str, Any] | None:
    """What an index file says about itself; None where it is damaged."""
    try:
        with pa.memory_map(str(path)) as file:
            return json.loads(pa.ipc.open_file(file).schema.metadata[ABOUT])
    except (pa.ArrowInvalid, OSError, KeyError, TypeError, ValueError):
        return None


@lru_cache(maxsize=16)
def mapped(path: str, digest: str) -> Columns:
    """The columns of an index file.

    Raises:
        RuntimeError: It is not there any more, or not on this node.
    """
    try:
        reader = pa.ipc.open_file(pa.memory_map(path))
        if json.loads(reader.schema.metadata[ABOUT])["digest"] == digest:
            return in_numpy(reader.get_batch(0))
    except (pa.ArrowInvalid, OSError) as error:
        raise RuntimeError(f"index {path!r} cannot be read here; storage must be mounted on all nodes") from error
    raise RuntimeError(f"index {path!r} is not the one that this run began with; give the same command again")


def in_numpy(batch: pa.RecordBatch) -> Columns:
    """The columns of a batch, numbers as views of the same memory."""
    return Columns(
        batch,
        {field.name: batch.column(field.name).to_numpy() for field in batch.schema if pa.types.is_integer(field.type)},
    )


def digest_of_columns(batch: pa.RecordBatch) -> str:
    """SHA-256 of names and values, whatever pieces they were put together from."""
    parts: list[bytes | memoryview] = []
    for name, column in zip(batch.schema.names, batch.columns, strict=True):
        parts.append(f"{name}:{column.type}".encode())
        parts += [memoryview(buffer).cast("B") for buffer in column.buffers() if buffer is not None]
    return digest_of(*parts)


def joined(batches: Sequence[pa.RecordBatch]) -> pa.RecordBatch:
    """One batch after the other, as one."""
    return pa.Table.from_batches(batches).combine_chunks().to_batches()[0]


def called(function: Callable[[Item], Result], item: Item) -> Result:
    """A task."""
    return function(item)


def each(function: Callable[[Item], Result], items: Sequence[Item]) -> Iterator[Result]:
    """`function` of every item, in order: in threads, or, where Ray runs and the first few say it pays, as its tasks.

    Raises:
        ValueError: As the function does.
    """
    ray = sys.modules.get("ray")
    tried = len(items) if ray is None or not ray.is_initialized() else THREADS
    begun = time.perf_counter()
    with ThreadPoolExecutor(THREADS) as pool:
        yield from pool.map(function, items[:tried])
        left = (time.perf_counter() - begun) / tried * len(items[tried:]) if tried else 0.0
        if left < SECONDS_FOR_RAY:
            yield from pool.map(function, items[tried:])
            return
    assert ray is not None
    task = ray.remote(num_cpus=TASK_CPUS)(called)
    for reference in [task.remote(function, item) for item in items[tried:]]:
        try:
            yield ray.get(reference)
        except ray.exceptions.RayTaskError as error:
            raise error.cause from None
