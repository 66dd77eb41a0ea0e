"""WebDataset shards: tar files whose members `<key>.jpg` and `<key>.cls` or `<key>.json` are an image and its label.

An index of where every image lies is built once from the headers; images are then read by offset. Nothing is
extracted and nothing unpickled: members other than images, .cls and .json are passed over unread.

A shard is refused, in words, that holds a link, a device or a name that leads out of it, the same member twice, a
header that claims more than the file holds, or no end: it was cut off. Python's own reader would take most of these
for the end of the archive, or follow a negative size backwards forever.
"""

import json
import re
import tarfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from pipeline.sources.base import Encoded, refuse_labels
from pipeline.sources.files import Entry, Place, at_once, sample_bytes
from pipeline.sources.index import Built, Index, each, joined, open_index

IMAGES = ("jpg", "jpeg", "png", "webp")
LABELS = ("cls", "json")
MAX_LABEL_BYTES = 1 << 20
MAX_NAME_BYTES = 1 << 16
NAME_KEYS = ("class_name", "classname", "wnid", "synset")
"""Where a .json may give the name of its label."""
RANGE_BYTES, GAP_BYTES = 32 << 20, 256 << 10
"""Images of a remote shard that lie this near to each other come with one request of at most so many bytes."""


@dataclass(frozen=True)
class TarSource:
    """Images in tar shards, by offset; remote shards are best read one after the other."""

    root: Place
    shards: tuple[str, ...]
    index: Index
    """shard, offset, size, label and key."""
    class_names: tuple[str, ...]
    digest: str

    @property
    def labels(self) -> NDArray[np.int64]:
        """(N,) labels."""
        return self.index.numbers("label")

    @property
    def shard_rows(self) -> NDArray[np.int64] | None:
        """(S,) images of each remote shard."""
        return np.asarray(self.index.about["rows"], np.int64) if self.root.store else None

    def __len__(self) -> int:
        return len(self.index)

    def read(self, sample_ids: Sequence[int] | NDArray[np.int64]) -> tuple[list[Encoded], NDArray[np.int64]]:
        """Images and labels; neighbours in a remote shard come together."""
        ids = np.asarray(sample_ids, np.int64)
        images: list[Encoded] = [b""] * len(ids)
        remote = bool(self.root.store)
        requests = list(self.requests(ids)) if remote else [np.asarray([n]) for n in range(len(ids))]
        for rows, found in zip(requests, at_once(partial(self.read_rows, ids), requests, remote=remote), strict=True):
            for n, image in zip(rows, found, strict=True):
                images[n] = image
        return images, self.labels[ids]

    def requests(self, ids: NDArray[np.int64]) -> Iterator[NDArray[np.int64]]:
        """Places in `ids` whose images are to be read together, in the order of the shards."""
        shards, offsets, sizes = (self.index.numbers(name)[ids] for name in ("shard", "offset", "size"))
        order = np.lexsort((offsets, shards))
        begin = 0
        for n in range(1, len(order) + 1):
            first, last = order[begin], order[n - 1]
            if n < len(order):
                following = order[n]
                end = offsets[following] + sizes[following]
                near = offsets[following] - offsets[last] - sizes[last] <= GAP_BYTES
                if shards[following] == shards[first] and near and end - offsets[first] <= RANGE_BYTES:
                    continue
            yield order[begin:n]
            begin = n

    def read_rows(self, ids: NDArray[np.int64], rows: NDArray[np.int64]) -> list[bytes]:
        """The images of neighbouring ids of one shard."""
        shards, offsets, sizes = (self.index.numbers(name)[ids[rows]] for name in ("shard", "offset", "size"))
        begin, size = int(offsets[0]), int((offsets + sizes).max() - offsets[0])
        shard = self.root / self.shards[shards[0]]
        piece = sample_bytes(partial(shard.read_range, begin, size), self.root)
        return [
            piece[offset : offset + size]
            for offset, size in zip((offsets - begin).tolist(), sizes.tolist(), strict=True)
        ]

    def describe(self, sample_id: int) -> str:
        """Where a sample comes from."""
        shard = self.root / self.shards[self.index.numbers("shard")[sample_id]]
        return f"{shard} member {self.index.texts('key')[sample_id].as_py()}"


class Scanned(NamedTuple):
    """What the index needs of one shard."""

    batch: pa.RecordBatch
    names: dict[int, str]
    """Of the labels that a .json names."""


class Header(tarfile.TarInfo):
    """A header that Python may go on from."""

    @classmethod
    def frombuf(cls, buf: Any, encoding: str, errors: str) -> "Header":
        """Refuse sizes that would be followed backwards, or read into memory as a name."""
        header = super().frombuf(buf, encoding, errors)
        is_name = header.type in (b"L", b"K", b"x", b"g", b"X")
        if header.size < 0 or (is_name and header.size > MAX_NAME_BYTES):
            raise ValueError(f"a header claims {header.size:,} bytes")
        return header


def tar_files(entries: Sequence[Entry], prefix: str) -> list[Entry]:
    """The shards of one split: `*<prefix>*.tar`, where it is a word of its own."""
    word = re.compile(rf"(?<![a-z]){prefix}(?![a-z]).*\.tar$")
    return [entry for entry in entries if word.search(entry.name.lower()) and not entry.is_folder]


def open_tars(
    root: Place,
    shards: Sequence[Entry],
    *,
    classes: int | None,
    name: str,
    index_folder: Path | None,
    rebuild: bool,
) -> TarSource:
    """The shards of one split; their index is used again while names, sizes and times of change are the same.

    Args:
        classes: None takes as many as the largest label says.
    Raises:
        ValueError: A shard is damaged or hostile, an image has no label, or a label is out of range.
    """
    state = [[entry.name, entry.size, entry.mtime_ns] for entry in shards]

    def build() -> Built:
        numbered = list(enumerate(root / entry.name for entry in shards))
        scanned = list(each(scan, numbered))
        if not any(part.batch.num_rows for part in scanned):
            raise ValueError(f"{root}: {len(shards):,} shards hold no image ({', '.join(IMAGES)}); check their members")
        batch = joined([part.batch for part in scanned])
        labels = batch.column("label").to_numpy()
        count = classes or int(labels.max()) + 1
        refuse_labels(f"{root}, {shards[0].name} to {shards[-1].name},", labels, count)
        named = {label: text for part in scanned for label, text in part.names.items()}
        whole = len(named) == len(set(named.values())) == count
        names = [named[label] if whole else str(label) for label in range(count)]
        return Built(batch, state, {"class_names": names, "rows": [part.batch.num_rows for part in scanned]})

    index = open_index(
        index_folder,
        name,
        place=["tars", str(root), root.store, [entry.name for entry in shards], classes],
        current=lambda known: known == state,
        build=build,
        rebuild=rebuild,
    )
    return TarSource(
        root, tuple(entry.name for entry in shards), index, tuple(index.about["class_names"]), index.digest
    )


def scan(numbered: tuple[int, Place]) -> Scanned:
    """Runs in a task: where the images of one shard lie, and their labels."""
    number, place = numbered
    images: dict[str, tuple[int, int]] = {}
    labels: dict[str, int] = {}
    names: dict[int, str] = {}
    try:
        with place.scan() as file, tarfile.open(fileobj=file, mode="r:", tarinfo=Header) as tar:
            for key, kind, member in members(tar, file):
                if kind in IMAGES:
                    if key in images:
                        raise ValueError(f"{key} has two images")
                    images[key] = member.offset_data, member.size
                elif kind in LABELS and member.size <= MAX_LABEL_BYTES:
                    file.seek(member.offset_data)
                    label, text = label_in(kind, file.read(member.size), member.name)
                    if label is not None and labels.setdefault(key, label) != label:
                        raise ValueError(f"{key} has two labels, {labels[key]} and {label}")
                    if label is not None and text:
                        names[label] = text
        without = [key for key in images if key not in labels]
        if without:
            raise ValueError(f"{len(without):,} of {len(images):,} images have no .cls or .json label: {without[0]}")
    except (tarfile.TarError, ValueError, RecursionError, OSError) as error:
        reason = "headers follow each other without end" if isinstance(error, RecursionError) else error
        raise ValueError(f"{place} is not a usable shard: {reason}; write or download it again") from error
    keys = list(images)
    columns = {
        "shard": np.full(len(keys), number, np.int64),
        "offset": np.asarray([images[key][0] for key in keys], np.int64),
        "size": np.asarray([images[key][1] for key in keys], np.int64),
        "label": np.asarray([labels[key] for key in keys], np.int64),
        "key": pa.array(keys, pa.large_string()),
    }
    return Scanned(pa.RecordBatch.from_pydict(columns), names)


def members(tar: tarfile.TarFile, file: Any) -> Iterator[tuple[str, str, tarfile.TarInfo]]:
    """(key, kind, member) of every regular member, the kind being what follows the first dot of its name.

    Raises:
        ValueError: What is in the shard may not be in one, or the shard has been cut off.
    """
    end = file.seek(0, 2)
    at = -1
    seen: set[str] = set()
    for member in tar:
        name = member.name
        if not at < member.offset_data or member.size < 0 or member.offset_data + member.size > end:
            raise ValueError(f"member {name!r} claims {member.size:,} bytes and the shard has {end:,}")
        at = member.offset_data
        if name.startswith("/") or ".." in name.split("/"):
            raise ValueError(f"member {name!r} leads out of the shard")
        if member.isdir():
            continue
        if not member.isreg() or member.issparse():
            raise ValueError(f"member {name!r} is a link, a device or sparse, not a plain file")
        if name in seen:
            raise ValueError(f"member {name!r} is there twice")
        seen.add(name)
        folder, slash, base = name.rpartition("/")
        stem, _, kind = base.partition(".")
        yield folder + slash + stem, kind.lower(), member
    file.seek(tar.offset)
    if file.read(tarfile.BLOCKSIZE) != bytes(tarfile.BLOCKSIZE):
        raise ValueError(f"it is damaged or cut off at byte {tar.offset:,} of {end:,}")


def label_in(kind: str, content: bytes, name: str) -> tuple[int | None, str]:
    """The label that a .cls or .json gives, None where a .json has none, and its name."""
    try:
        if kind == "cls":
            return int(content.decode("ascii")), ""
        known = json.loads(content)
        label = known.get("label") if isinstance(known, dict) else None
        if label is None:
            return None, ""
        if type(label) is not int:
            raise ValueError(f"label {label!r}")
        return label, next((known[key] for key in NAME_KEYS if isinstance(known.get(key), str)), "")
    except (ValueError, RecursionError) as error:
        raise ValueError(f"member {name!r} is not a whole number, or JSON with one as its label") from error
