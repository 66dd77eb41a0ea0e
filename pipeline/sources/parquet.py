"""Images in parquet files of the Hugging Face schema `image: struct<bytes, path>, label`: CIFAR's, ImageNet's, any.

Small sets are held in memory, where any row costs the same. Larger ones are read a row group at a time, mapped where
the file is local; the last few row groups stay in memory, so ids that come from few of them are cheap.
"""

import json
import re
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache, partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from pipeline.sources.base import Encoded, digest_of, refuse_labels
from pipeline.sources.files import Entry, Place, place_of, sample_bytes
from pipeline.sources.index import Built, Index, each, open_index
from pipeline.storage import in_one_line

MAX_BYTES_IN_MEMORY = 4 << 30
BYTES_OF_ROW_GROUPS = 256 << 20
"""That one process keeps, and at least one of them."""
IMAGE_COLUMNS, LABEL_COLUMNS = ("image", "img"), ("label", "fine_label")
"""Names that Hugging Face's data sets use; the first one present is taken."""
RULE = "it needs image: struct<bytes: binary, path: string> and label: int64, as Hugging Face writes them"
NUMBERED = re.compile(r"-of-(\d+)\.parquet$")


@dataclass(frozen=True)
class ParquetSource:
    """Encoded images held in memory."""

    files: tuple[str, ...]
    rows_before: NDArray[np.int64]
    encoded: pa.ChunkedArray
    labels: NDArray[np.int64]
    class_names: tuple[str, ...]
    digest: str

    shard_rows = None

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
class RowGroupSource:
    """Encoded images that stay in their files; a shard is a row group."""

    root: Place
    files: tuple[str, ...]
    """Below root."""
    index: Index
    """label; the rows of every row group of every file stand in `about`."""
    class_names: tuple[str, ...]
    digest: str

    @cached_property
    def groups(self) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
        """(file, number in the file, first row of all) of each row group."""
        by_file: list[list[int]] = self.index.about["row_groups"]
        counts = [len(rows) for rows in by_file]
        number = np.concatenate([np.arange(count) for count in counts])
        rows = np.asarray([row for rows in by_file for row in rows], np.int64)
        return np.repeat(np.arange(len(by_file)), counts), number, np.cumsum(rows) - rows

    @property
    def labels(self) -> NDArray[np.int64]:
        """(N,) labels."""
        return self.index.numbers("label")

    @property
    def shard_rows(self) -> NDArray[np.int64]:
        """(S,) rows of each row group."""
        return np.diff(self.groups[2], append=len(self))

    def __len__(self) -> int:
        return len(self.index)

    def read(self, sample_ids: Sequence[int] | NDArray[np.int64]) -> tuple[list[Encoded], NDArray[np.int64]]:
        """Images and labels; every row group is read once, however the ids are ordered."""
        ids = np.asarray(sample_ids, np.int64)
        files, numbers, firsts = self.groups
        group_of = np.searchsorted(firsts, ids, side="right") - 1
        images: list[Encoded] = [b""] * len(ids)
        for group in np.unique(group_of):
            rows = self.row_group(self.files[files[group]], int(numbers[group]))
            if rows is None:
                continue
            for n in np.flatnonzero(group_of == group):
                images[n] = rows[int(ids[n] - firsts[group])].as_py() or b""
        return images, self.labels[ids]

    def row_group(self, file: str, number: int) -> pa.ChunkedArray | None:
        """The images of a row group, of those kept or read anew; None where it cannot be read."""
        key = (self.root / file, number)
        kept = RECENT.get(key)
        if kept is None:
            sample_bytes(partial(read_row_group, key, self.index.about["column"]), self.root)
            kept = RECENT.get(key)
        return kept

    def describe(self, sample_id: int) -> str:
        """Where a sample comes from."""
        files, _, firsts = self.groups
        file = files[int(np.searchsorted(firsts, sample_id, side="right")) - 1]
        return f"{self.root / self.files[file]} row {sample_id - int(firsts[np.searchsorted(files, file)])}"


class Recent:
    """The row groups that this process has read last, up to a number of bytes."""

    def __init__(self, limit: int) -> None:
        self.limit, self.bytes = limit, 0
        self.kept: OrderedDict[Any, pa.ChunkedArray] = OrderedDict()

    def get(self, key: Any) -> pa.ChunkedArray | None:
        """One of them, which is then the last to go."""
        if key in self.kept:
            self.kept.move_to_end(key)
        return self.kept.get(key)

    def keep(self, key: Any, rows: pa.ChunkedArray) -> None:
        """Keep one more, and let the oldest go."""
        self.kept[key] = rows
        self.bytes += rows.nbytes
        while self.bytes > self.limit and len(self.kept) > 1:
            self.bytes -= self.kept.popitem(last=False)[1].nbytes


UNREADABLE = (pa.ArrowException, OSError, AttributeError, TypeError)
"""What reading a damaged file raises; the last two come from Ray's extension types when a file falsely claims one."""
RECENT = Recent(BYTES_OF_ROW_GROUPS)


def read_row_group(key: tuple[Place, int], column: str) -> bytes:
    """Read the images of a row group into RECENT.

    Raises:
        OSError: The file is gone or damaged.
    """
    place, number = key
    try:
        table = open_file(place).read_row_group(number, columns=[f"{column}.bytes"])
    except pa.ArrowException as error:
        raise OSError(f"{place} row group {number}: {error}") from error
    RECENT.keep(key, flat_images(table[column]))
    return b""


@lru_cache(maxsize=64)
def open_file(place: Place) -> pq.ParquetFile:
    """A file whose footer has been read."""
    return pq.ParquetFile(place.open())


def flat_images(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """The bytes of a column of images."""
    flat = [pc.struct_field(chunk, "bytes").cast(pa.large_binary()) for chunk in column.chunks]
    return pa.chunked_array(flat, pa.large_binary())


def parquet_files(entries: Sequence[Entry], prefix: str) -> list[Entry]:
    """Those of one split: `<prefix>-*.parquet`.

    Raises:
        ValueError: Names say `-of-N` and there are fewer.
    """
    files = [e for e in entries if re.fullmatch(rf"{prefix}(-.*)?\.parquet", e.name) and not e.is_folder]
    numbered = [match for entry in files if (match := NUMBERED.search(entry.name))]
    if numbered and len(numbered) == len(files) != int(numbered[0][1]):
        raise ValueError(
            f"{prefix}-*.parquet: {int(numbered[0][1]):,} files are expected by their names and {len(files):,} are "
            f"there, such as {files[0].name}; copy the others"
        )
    return files


def open_parquet(
    files: Sequence[Path | Place],
    *,
    classes: int | None,
    name: str = "parquet",
    index_folder: Path | None = None,
    rebuild: bool = False,
) -> ParquetSource | RowGroupSource:
    """Parquet files with the columns `image: struct<bytes, path>` and `label`, every label in 0 .. classes - 1.

    Args:
        classes: None takes the names in Hugging Face's metadata, or as many as the largest label says.
    Raises:
        ValueError: A file is unreadable or has other columns; a label is missing or out of range.
    """
    places = [place_of(file) for file in files]
    known = {folder: {e.name: e for e in folder.entries()} for folder in dict.fromkeys(p.parent for p in places)}
    entries = [known[place.parent][place.name] for place in places]
    if sum(entry.size for entry in entries) > MAX_BYTES_IN_MEMORY:
        return open_row_groups(places, entries, classes, name, index_folder, rebuild)
    tables = [read_columns(place) for place in places]
    labels = [table["label"].to_numpy().astype(np.int64) for table in tables]
    names = label_names(places[0], classes, labels)
    for place, by_row in zip(places, labels, strict=True):
        refuse_labels(str(place), by_row, len(names))
    rows_before = np.concatenate([[0], np.cumsum([len(table) for table in tables])])
    chunks = [chunk for table in tables for chunk in table["bytes"].chunks]
    digest = digest_of(
        *(f"{entry.name}:{entry.size}".encode() for entry in entries), *(by_row.tobytes() for by_row in labels)
    )
    return ParquetSource(
        tuple(map(str, places)),
        rows_before[:-1],
        pa.chunked_array(chunks),
        np.concatenate(labels),
        names,
        digest,
    )


def open_row_groups(
    places: list[Place],
    entries: list[Entry],
    classes: int | None,
    name: str,
    index_folder: Path | None,
    rebuild: bool,
) -> RowGroupSource:
    """The same without the images in memory; used again while names, sizes and times of change are the same."""
    state = [[entry.name, entry.size, entry.mtime_ns] for entry in entries]

    def build() -> Built:
        scanned = list(each(scan, places))
        column = scanned[0].column
        labels = [part.labels for part in scanned]
        for place, part in zip(places, scanned, strict=True):
            if part.column != column:
                raise ValueError(f"{place} calls its images {part.column!r} and {places[0]} {column!r}; use one name")
        names = label_names(places[0], classes, labels)
        for place, by_row in zip(places, labels, strict=True):
            refuse_labels(str(place), by_row, len(names))
        batch = pa.RecordBatch.from_pydict({"label": np.concatenate(labels)})
        about = {"row_groups": [part.rows for part in scanned], "column": column, "class_names": names}
        return Built(batch, state, about)

    index = open_index(
        index_folder,
        name,
        place=["parquet", [[str(place), place.store] for place in places], classes],
        current=lambda known: known == state,
        build=build,
        rebuild=rebuild,
    )
    digest = digest_of(index.digest.encode(), *(f"{entry.name}:{entry.size}".encode() for entry in entries))
    files = tuple(place.name for place in places)
    return RowGroupSource(places[0].parent, files, index, tuple(index.about["class_names"]), digest)


class Scanned(NamedTuple):
    """What the index needs of one file."""

    labels: NDArray[np.int64]
    rows: list[int]
    """Of each row group."""
    column: str
    """The name of the images."""


def scan(place: Place) -> Scanned:
    """Runs in a task: the labels and row groups of one file; no image is read."""
    try:
        file = pq.ParquetFile(place.open())
        image, label = check_schema(place, file.schema_arrow)
        rows = [file.metadata.row_group(n).num_rows for n in range(file.num_row_groups)]
        return Scanned(labels_of(place, file.read(columns=[label])[label]), rows, image)
    except UNREADABLE as error:
        raise ValueError(f"{place} is not a readable parquet file: {in_one_line(error)}") from error


def check_schema(place: Place, schema: pa.Schema) -> tuple[str, str]:
    """The names of the image and the label column of a file that has both."""
    image_name, label_name = (
        next((name for name in names if name in schema.names), None) for names in (IMAGE_COLUMNS, LABEL_COLUMNS)
    )
    if image_name is None or label_name is None:
        missing = [
            repr(names[0]) for names, name in ((IMAGE_COLUMNS, image_name), (LABEL_COLUMNS, label_name)) if not name
        ]
        raise ValueError(f"{place} has no column {' and '.join(missing)} (found: {', '.join(schema.names)}); {RULE}")
    image, label = schema.field(image_name).type, schema.field(label_name).type
    binary = pa.types.is_struct(image) and any(
        f.name == "bytes" and (pa.types.is_binary(f.type) or pa.types.is_large_binary(f.type)) for f in image
    )
    if not binary or not pa.types.is_integer(label):
        raise ValueError(f"{place} has {image_name}: {image}, {label_name}: {label}; {RULE}")
    return image_name, label_name


def labels_of(place: Place, column: pa.ChunkedArray) -> NDArray[np.int64]:
    """A label for every row."""
    if column.null_count:
        raise ValueError(f"{place} has {column.null_count} rows without a label; correct or remove them")
    return column.to_numpy().astype(np.int64)


def read_columns(place: Place) -> pa.Table:
    """The columns `bytes` and `label` of one file, or the one-line reason why not."""
    try:
        file = pq.ParquetFile(place.open())
        image, label = check_schema(place, file.schema_arrow)
        table = file.read(columns=[f"{image}.bytes", label])
    except UNREADABLE as error:
        raise ValueError(f"{place} is not a readable parquet file: {in_one_line(error)}") from error
    return pa.table({"bytes": flat_images(table[image]), "label": labels_of(place, table[label])})


def label_names(place: Place, classes: int | None, labels: Sequence[NDArray[np.int64]]) -> tuple[str, ...]:
    """Class names from Hugging Face's schema metadata, else the numbers."""
    metadata: dict[bytes, bytes] = pq.read_schema(place.open()).metadata or {}
    try:
        info: Any = json.loads(metadata.get(b"huggingface", b"{}"))
        features = info["info"]["features"]
        names = next(tuple(map(str, features[name]["names"])) for name in LABEL_COLUMNS if name in features)
    except (ValueError, KeyError, TypeError, StopIteration):
        names = ()
    if names and classes in (None, len(names)):
        return names
    largest = max((int(by_file.max()) for by_file in labels if len(by_file)), default=-1)
    return tuple(map(str, range(classes or largest + 1)))
