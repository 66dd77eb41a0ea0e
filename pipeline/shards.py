"""Shards: images that are decoded already, or views that are augmented already, in Arrow IPC files beside a manifest.

    <folder>/manifest.json        what the shards hold, how they were made, and the SHA-256 of every file
    <folder>/shard-00000.arrow    one uncompressed record batch, readable by anybody with pyarrow
    <folder>/labels.npy           kind images: the labels of all samples

| kind | columns |
|---|---|
| images | sample_id, label int64; height, width int32; image large_binary (RGB rows, null: unreadable); path; check |
| views | sample_id, requested_id, epoch, label int64; views fixed_size_binary (V, H, W, 3); check |

Shard i holds rows [i R, (i + 1) R): samples in the order of their ids, or positions of the training stream.

Damage is found before it is used. Opening compares the sizes of all files. The first time a process opens a shard it
compares the SHA-256 of everything in it but the pixels, and only then lets Arrow parse it. Each time a row is read,
`checksum` (XXH3) of its pixels is compared with the column `check`, at the speed of memory. `jobs/preprocess.py verify`
compares the SHA-256 of whole files.
"""

import dataclasses
import functools
import hashlib
import io
import json
import tempfile
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.fs
import xxhash
from numpy.typing import NDArray

from pipeline.sources.base import Unreadable
from pipeline.sources.files import place_of

FORMAT, VERSION = "augmix-ray shards", 1
MANIFEST, LABELS, DONE = "manifest.json", "labels.npy", ".done"
PIXELS = {"images": "image", "views": "views"}
"""By kind, the column with the pixels."""
SPLITS = ("train", "test")
REMOTE_SHARDS_KEPT = 4


class DamagedShardError(RuntimeError):
    """A file is not what the manifest says. No ValueError: an unreadable image is replaced, damage ends the run."""


def checksum(pixels: NDArray[np.uint8]) -> int:
    """64 bits of (N,) bytes, by XXH3: an image of 256 x 341 takes 9 us, SHA-256 of it 185."""
    return xxhash.xxh3_64_intdigest(pixels.data)


class Folder:
    """A folder on a disk, or in an object store by its URI.

    Args:
        location: an absolute path, or a URI as of `sources.files`.
    """

    def __init__(self, location: str) -> None:
        self.location = location.rstrip("/")
        place = place_of(self.location)
        self.is_local, self.root = not place.store, place.path
        self.files = pyarrow.fs.LocalFileSystem() if self.is_local else place.files

    def path(self, name: str) -> str:
        """What the file system calls a file."""
        return f"{self.root}/{name}"

    def read(self, name: str) -> pa.Buffer:
        """A whole file: mapped into memory where it is local.

        Raises:
            OSError: It is not there or cannot be read.
        """
        if self.is_local:
            with pa.memory_map(self.path(name)) as mapped:
                return mapped.read_buffer()
        with self.files.open_input_file(self.path(name)) as file:
            return file.read_buffer()

    def write(self, name: str, content: bytes) -> None:
        """Readers see the whole file or none."""
        if not self.is_local:
            with self.files.open_output_stream(self.path(name)) as file:
                file.write(content)
            return
        scratch = self.scratch(name)
        scratch.write_bytes(content)
        scratch.replace(self.path(name))

    def scratch(self, name: str) -> Path:
        """A new path on this machine for what is to become a file; in `.done`, where a kill may leave it behind."""
        folder = Path(self.path(DONE)) if self.is_local else Path(tempfile.gettempdir())
        folder.mkdir(exist_ok=True)
        return folder / f"{Path(name).name}.{uuid.uuid4().hex}.tmp"

    def sizes(self, below: str = "") -> dict[str, int]:
        """The files directly in the folder, or in one below it, and their bytes: one listing."""
        selector = pyarrow.fs.FileSelector(self.path(below).rstrip("/"), allow_not_found=True)
        return {info.base_name: info.size for info in self.files.get_file_info(selector) if info.is_file}

    def size(self, name: str) -> int | None:
        """The bytes of a file; None where there is none.

        Raises:
            ValueError: The object store does not answer.
        """
        try:
            info = self.files.get_file_info(self.path(name))
        except OSError as error:
            raise ValueError(f"{self.location} cannot be read: {str(error).splitlines()[0]}") from error
        return info.size if info.is_file else None


@dataclass(frozen=True, slots=True)
class Entry:
    """What the manifest says about one shard."""

    file: str
    first: int
    """The first sample id or position in it."""
    rows: int
    bytes: int
    sha256: str
    """Of the whole file."""
    pixels: tuple[int, int]
    """Where in the file the pixels begin and end."""
    index_sha256: str
    """Of the file without them."""


@dataclass(frozen=True, slots=True)
class Manifest:
    """manifest.json. No time and no host in it: the same command gives the same bytes."""

    kind: str
    rows: int
    rows_a_shard: int
    class_names: tuple[str, ...]
    config: dict[str, Any]
    """What decides the pixels, flat as `section.field`."""
    source: str
    """The digest of the source they were made from."""
    complete: bool = False
    shards: tuple[Entry, ...] = ()
    unreadable: tuple[tuple[int, str, str], ...] = ()
    """(sample id, path, reason) of each image that could not be decoded."""
    labels_sha256: str = ""

    @property
    def files(self) -> int:
        """How many shards there are in the end."""
        return -(-self.rows // self.rows_a_shard)

    def as_json(self) -> str:
        """With the format's name and version first."""
        return json.dumps({"format": FORMAT, "version": VERSION, **dataclasses.asdict(self)}, indent=1)


def read_manifest(folder: Folder) -> Manifest:
    """Return the manifest of a folder.

    Raises:
        ValueError: There is none, or it is not one of ours.
    """
    path = f"{folder.location}/{MANIFEST}"
    try:
        text = folder.read(MANIFEST).to_pybytes()
    except OSError as error:
        raise ValueError(f"{path} cannot be read: {str(error).splitlines()[0]}") from error
    try:
        known = json.loads(text)
        found = known.pop("format"), known.pop("version")
        if found != (FORMAT, VERSION):
            raise ValueError(f"{path} is {found[0]!r} version {found[1]}; {FORMAT!r} version {VERSION} is read")
        entries = [Entry(**entry | {"pixels": tuple(entry["pixels"])}) for entry in known.pop("shards")]
        unreadable = tuple(map(tuple, known.pop("unreadable")))
        names = tuple(known.pop("class_names"))
        return Manifest(**known, shards=tuple(entries), unreadable=unreadable, class_names=names)
    except (KeyError, TypeError, AttributeError, json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is no manifest of shards ({error}); restore it") from error


def damage(folder: Folder, file: str, expected: str) -> str:
    """Say what is wrong with a file, in one line."""
    try:
        found = f"is damaged: its SHA-256 is {hashlib.sha256(content_of(folder, file)).hexdigest()}"
    except OSError:
        found = "is missing or cannot be read"
    return (
        f"{folder.location}/{file} {found}, {MANIFEST} says {expected}; "
        "restore it, or delete it and give the command of jobs/preprocess.py again, which makes it anew"
    )


def content_of(folder: Folder, file: str) -> pa.Buffer:
    """A file's bytes, also where there are none of them, which cannot be mapped.

    Raises:
        OSError: It is not there or cannot be read.
    """
    return pa.py_buffer(b"") if folder.size(file) == 0 else folder.read(file)


class Shard:
    """One open shard: its columns but the pixels, and the pixels row by row without a copy.

    Raises:
        DamagedShardError: What the file holds besides pixels is not what the manifest says.
    """

    def __init__(self, folder: Folder, entry: Entry, kind: str) -> None:
        self.folder, self.entry = folder, entry
        try:
            content = content_of(folder, entry.file)
        except OSError as error:
            raise DamagedShardError(damage(folder, entry.file, entry.sha256)) from error
        start, stop = entry.pixels
        if len(content) != entry.bytes or index_sha256(content, entry.pixels) != entry.index_sha256:
            raise DamagedShardError(damage(folder, entry.file, entry.sha256))
        batch = pa.ipc.open_file(content).get_batch(0)
        self.columns = {name: batch.column(name) for name in batch.schema.names if name != PIXELS[kind]}
        self.pixels = np.frombuffer(content, np.uint8)[start:stop]
        pixels = batch.column(PIXELS[kind])
        self.offsets = (
            np.frombuffer(pixels.buffers()[1], np.int64)
            if kind == "images"
            else np.arange(entry.rows + 1) * pixels.type.byte_width
        )
        self.checks = self.numbers("check")
        self.valid = pixels.is_valid().to_numpy(zero_copy_only=False)

    def numbers(self, name: str) -> NDArray:
        """(rows,) of a column of numbers."""
        return self.columns[name].to_numpy()

    def row(self, row: int) -> NDArray[np.uint8]:
        """The pixels of a row, flat and read-only.

        Raises:
            DamagedShardError: They are not those that were written.
        """
        pixels = self.pixels[self.offsets[row] : self.offsets[row + 1]]
        if checksum(pixels) != self.checks[row]:
            raise DamagedShardError(damage(self.folder, self.entry.file, self.entry.sha256))
        return pixels

    def image(self, row: int) -> NDArray[np.uint8]:
        """(H, W, 3), of kind images."""
        return self.row(row).reshape(self.numbers("height")[row], self.numbers("width")[row], 3)


def index_sha256(content: pa.Buffer, pixels: tuple[int, int]) -> str:
    """SHA-256 of a shard without its pixels."""
    digest = hashlib.sha256(content[: pixels[0]])
    digest.update(content[pixels[1] :])
    return digest.hexdigest()


class ShardFolder:
    """The shards of a folder that is complete, opened when they are needed.

    Args:
        location: of the folder.
        kind: images or views.
        digest: of the manifest that is expected, where the folder has been opened before.
    Raises:
        ValueError: It is of another kind, not complete, or its manifest has changed.
    """

    def __init__(self, location: str, kind: str, digest: str = "") -> None:
        self.folder = Folder(location)
        self.manifest = read_manifest(self.folder)
        self.digest = hashlib.sha256(self.manifest.as_json().encode()).hexdigest()
        if digest not in ("", self.digest):
            raise ValueError(f"{location}/{MANIFEST} has changed since this run began; start the run again")
        if self.manifest.kind != kind:
            raise ValueError(f"{location} holds {self.manifest.kind}, not {kind}, written by jobs/preprocess.py")
        if not self.manifest.complete:
            raise ValueError(f"{location} is not complete; give the command of jobs/preprocess.py again to go on")
        kept = None if self.folder.is_local else REMOTE_SHARDS_KEPT
        self.shard = functools.lru_cache(maxsize=kept)(self.open_shard)

    def __reduce__(self) -> Any:
        return type(self), (self.folder.location, self.manifest.kind, self.digest)

    def open_shard(self, number: int) -> Shard:
        """Open one."""
        return Shard(self.folder, self.manifest.shards[number], self.manifest.kind)

    def whole(self, file: str, sha256: str) -> pa.Buffer:
        """A file that is checked as a whole.

        Raises:
            ValueError: It is missing or damaged.
        """
        try:
            content = content_of(self.folder, file)
        except OSError as error:
            raise ValueError(damage(self.folder, file, sha256)) from error
        if hashlib.sha256(content).hexdigest() != sha256:
            raise ValueError(damage(self.folder, file, sha256))
        return content

    def check_sizes(self) -> None:
        """Compare the sizes of all files, from one listing.

        Raises:
            ValueError: A file is missing or has another size.
        """
        sizes = self.folder.sizes()
        for entry in self.manifest.shards:
            if sizes.get(entry.file) != entry.bytes:
                raise ValueError(damage(self.folder, entry.file, entry.sha256))


class ShardSource(ShardFolder):
    """Images that `jobs/preprocess.py images` has decoded. It travels to the workers as its path."""

    def __init__(self, location: str, kind: str = "images", digest: str = "") -> None:
        super().__init__(location, kind, digest)
        self.reasons = {sample_id: reason for sample_id, _, reason in self.manifest.unreadable}
        self.labels: NDArray[np.int64] = np.load(io.BytesIO(self.whole(LABELS, self.manifest.labels_sha256)))

    @property
    def class_names(self) -> tuple[str, ...]:
        """In the order of the labels."""
        return self.manifest.class_names

    @property
    def shard_rows(self) -> NDArray[np.int64] | None:
        """The rows of each shard where a shard is fetched as a whole, for an order that keeps to some shards at a time;
        None where any row can be read at any time.
        """
        if self.folder.is_local:
            return None
        return np.array([entry.rows for entry in self.manifest.shards], np.int64)

    def __len__(self) -> int:
        return self.manifest.rows

    def read(
        self, sample_ids: Sequence[int] | NDArray[np.int64]
    ) -> tuple[list[bytes | NDArray[np.uint8] | Unreadable], NDArray[np.int64]]:
        """Read-only images (H, W, 3), no copies, and labels.

        Raises:
            DamagedShardError: A file is not what was written.
        """
        ids = np.asarray(sample_ids, np.int64)
        return [self.image(*divmod(i, self.manifest.rows_a_shard)) for i in ids.tolist()], self.labels[ids]

    def image(self, number: int, row: int) -> NDArray[np.uint8] | Unreadable:
        """A row of a shard."""
        shard = self.shard(number)
        if shard.valid[row]:
            return shard.image(row)
        return Unreadable(self.reasons[shard.entry.first + row])

    def describe(self, sample_id: int) -> str:
        """Where a sample comes from."""
        number, row = divmod(sample_id, self.manifest.rows_a_shard)
        shard = self.shard(number)
        return f"{self.folder.location}/{shard.entry.file} row {row} ({shard.columns['path'][row].as_py()})"


class StoredViews(ShardFolder):
    """Rows of a training stream that `jobs/preprocess.py views` has made."""

    def __init__(self, location: str, kind: str = "views", digest: str = "") -> None:
        super().__init__(location, kind, digest)

    def rows(self, positions: NDArray[np.int64], views: int) -> dict[str, NDArray]:
        """Columns sample_id, requested_id, epoch, label and views (N, views, H, W, 3) uint8, as `augment.rows_of`.

        Positions past the last one begin anew: a stream's last block may be longer than the training.

        Raises:
            DamagedShardError: A file is not what was written.
        """
        size, stored = self.manifest.config["data.image_size"], self.manifest.config["augmix.views"]
        numbers, rows = np.divmod(positions % self.manifest.rows, self.manifest.rows_a_shard)
        columns: dict[str, NDArray] = {
            name: np.empty(len(rows), np.int64) for name in ("sample_id", "requested_id", "epoch", "label")
        }
        made = np.empty((len(rows), views, size, size, 3), np.uint8)
        for number in np.unique(numbers).tolist():
            shard, at = self.shard(number), np.flatnonzero(numbers == number)
            for name, column in columns.items():
                column[at] = shard.numbers(name)[rows[at]]
            for n in at.tolist():
                made[n] = shard.row(int(rows[n])).reshape(stored, size, size, 3)[:views]
        return columns | {"views": made}


@functools.cache
def opened_views(location: str) -> StoredViews:
    """The stored views of a folder, opened once a process."""
    return StoredViews(location)


def holds_shards(path: str) -> bool:
    """Whether a folder is the output of `jobs/preprocess.py images`."""
    folder = Folder(path)
    return any(folder.size(f"{split}/{MANIFEST}") is not None for split in SPLITS)


def open_shards(path: str, name: str, *, train: bool) -> ShardSource:
    """Return the training or the test images of such a folder.

    Args:
        path: data.path.
        name: data.name.
    Raises:
        ValueError: They are incomplete, damaged, or of another data set.
    """
    split = SPLITS[0] if train else SPLITS[1]
    if Folder(path).size(f"{split}/{MANIFEST}") is None:
        raise ValueError(
            f"data.path {path!r} holds shards, but none of the {split} images; "
            f"give jobs/preprocess.py images --splits {split} with --output {path}"
        )
    source = ShardSource(f"{path.rstrip('/')}/{split}")
    made_of = source.manifest.config["data.name"]
    if made_of != name:
        raise ValueError(f"data.path {path!r} holds shards of {made_of!r}, data.name is {name!r}; correct one of them")
    source.check_sizes()
    return source
