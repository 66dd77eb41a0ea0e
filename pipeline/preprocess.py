"""Shards of decoded images, or of the views of some epochs of a training, written by Ray Data tasks.

    <output>/train, <output>/test    kind images: a `data.path` for every job
    <output>                         kind views: a `data.views` for the training they were made for

A read task writes whole shards: into `.done` under a name of its own, then renamed, then marked by an entry in `.done`
that holds what the manifest will say. A shard is a pure function of images and configuration, so a killed job goes on
with the shards that have no mark, and ends with the files, manifest included, of one that nobody disturbed. A complete
folder that lacks a shard gets it back in the same way.
"""

import dataclasses
import hashlib
import io
import json
import os
import shutil
from collections.abc import Callable, Iterable
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import ray
import ray.data
from numpy.typing import NDArray
from ray.data.block import Block, BlockMetadata
from ray.data.datasource import Datasource, ReadTask

from augmix_core.crop import resize_short_side
from pipeline.augment import fields_of_views, row_bytes, rows_of
from pipeline.blocks import opened_source, placement, quiet
from pipeline.blocks import rows_of as rows_one_by_one
from pipeline.budget import check_storage
from pipeline.config import DataConfig, PreprocessConfig, RunConfig
from pipeline.decode import decoded
from pipeline.order import Split, training_splits
from pipeline.progress import counted, say
from pipeline.shards import (
    DONE,
    LABELS,
    MANIFEST,
    PIXELS,
    SPLITS,
    Entry,
    Folder,
    Manifest,
    checksum,
    content_of,
    damage,
    index_sha256,
    read_manifest,
)
from pipeline.source import Encoded, Source, open_source

SHARD_BYTES = 128 << 20
MAX_TASKS = 5000
SAMPLED = 32  # images that are decoded to tell how large a row is
IMAGES_AT_ONCE = 32  # read together
VIEWS_AT_ONCE = 128  # the order takes 1.3 ms a row for 32 of them, 0.6 for 128
UNITS = {"images": "images", "views": "rows of views"}


@dataclass(frozen=True)
class Target:
    """What a task needs to know to write a shard. It travels to the workers, so it is small."""

    location: str
    kind: str
    rows: int
    rows_a_shard: int
    short_side: int
    config: RunConfig
    split: Split
    """Of the training stream; kind images does not ask."""
    strip: str
    """What the paths of the images begin with, and what is left out."""

    def rows_of_shard(self, number: int) -> NDArray[np.int64]:
        """The sample ids or positions in a shard."""
        first = number * self.rows_a_shard
        return np.arange(first, min(first + self.rows_a_shard, self.rows), dtype=np.int64)


@dataclass(frozen=True)
class Work:
    """One folder to fill."""

    folder: Folder
    wanted: Manifest
    source: Source
    config: PreprocessConfig
    split: Split
    row_bytes: float
    """Of the pixels of a row, on average."""


def plan_works(kind: str, config: PreprocessConfig) -> list[Work]:
    """Open the sources and say what goes where.

    Raises:
        ValueError: As `open_source`; or there is not one readable image.
    """
    if kind == "images":
        return [images_work(split, config) for split in config.splits]
    run = config.as_run()
    source = open_source(run.data, train=True)
    split, _ = training_splits(len(source), source.shard_rows, run.data, seed=run.seed, hold_out=run.train.hold_out)
    fields = {**fields_of_views(run, split), "epochs": config.epochs}
    size = row_bytes(run)
    wanted = manifest("views", fields, source, config.epochs * split.size, size, config)
    return [Work(Folder(config.output), wanted, source, config, split, size)]


def images_work(split: str, config: PreprocessConfig) -> Work:
    """The images of one split."""
    source = open_source(config.data, train=split == SPLITS[0])
    fields = {"data.name": config.data.name, "split": split, "short_side": config.short_side}
    size = mean_bytes(source, config)
    wanted = manifest("images", fields, source, len(source), size, config)
    everything = Split(len(source), 0, len(source), config.seed)
    return Work(Folder(f"{config.output.rstrip('/')}/{split}"), wanted, source, config, everything, size)


def manifest(
    kind: str, fields: dict[str, Any], source: Source, rows: int, size: float, config: PreprocessConfig
) -> Manifest:
    """What the folder will hold; no shards yet."""
    fields = json.loads(json.dumps(fields))
    rows_a_shard = min(config.rows_a_shard or max(1, round(SHARD_BYTES / size)), rows)
    return Manifest(kind, rows, rows_a_shard, tuple(source.class_names), fields, source.digest)


def mean_bytes(source: Source, config: PreprocessConfig) -> float:
    """Bytes of a decoded image, from some of them, evenly spread."""
    sizes, reason = [], ""
    for sample_id in np.unique(np.linspace(0, len(source) - 1, SAMPLED).astype(np.int64)):
        image, why = prepared(source.read([int(sample_id)])[0][0], config.short_side, config.data)
        if image is not None:
            sizes.append(image.nbytes)
        reason = reason or why
    if not sizes:
        raise ValueError(f"none of {SAMPLED} images, evenly spread, can be read; {source.describe(0)}: {reason}")
    return float(np.mean(sizes))


def begin(work: Work) -> None:
    """Claim a new or empty folder, or one that holds the beginning, or all, of the very same shards.

    Raises:
        ValueError: The folder holds something else, cannot be written, or the disk is too small.
    """
    folder = work.folder
    try:
        if folder.is_local:
            Path(folder.location).mkdir(parents=True, exist_ok=True)
        if begun := folder.size(MANIFEST) is not None:
            refuse_other_shards(folder, work.wanted)
        elif folder.is_local and (found := sorted(set(os.listdir(folder.location)) - {DONE})):
            raise ValueError(
                f"output {folder.location!r} is not empty (found: {', '.join(found[:3])}); give a new folder"
            )
        if folder.is_local:
            check_space(work, shards_there=len(written(folder)) if begun else 0)
        if not begun:
            folder.write(MANIFEST, work.wanted.as_json().encode())
    except OSError as error:
        reason = error.strerror or str(error).splitlines()[0]
        raise ValueError(f"output {folder.location!r} cannot be used: {reason}") from error


def refuse_other_shards(folder: Folder, wanted: Manifest) -> None:
    """Refuse a folder whose shards hold other rows than the wanted ones, and say what differs."""
    known = read_manifest(folder)
    old, new = ({"kind": m.kind, "rows": m.rows, "source": m.source, **m.config} for m in (known, wanted))
    changed = [
        f"{key} {old.get(key)!r} -> {new.get(key)!r}" for key in sorted(old | new) if old.get(key) != new.get(key)
    ]
    if changed or known.class_names != wanted.class_names:
        differs = "; ".join(changed) or "class names"
        raise ValueError(f"output {folder.location!r} holds other shards ({differs}); give another --output")


def check_space(work: Work, *, shards_there: int) -> None:
    """Refuse what will not fit on the disk."""
    wanted = work.wanted
    needed = max(0, wanted.rows - shards_there * wanted.rows_a_shard) * work.row_bytes
    free = shutil.disk_usage(work.folder.location).free
    if needed > free:
        raise ValueError(
            f"output {work.folder.location!r} needs about {needed / 2**30:,.1f} GiB, its disk has "
            f"{free / 2**30:,.1f} GiB free; give an --output on a larger one, or a smaller --short-side or --epochs"
        )


def written(folder: Folder) -> dict[int, dict[str, Any]]:
    """The marks of the shards that are there in full, by number."""
    known = read_manifest(folder)
    if known.complete:
        broken = {row[0]: list(row) for row in known.unreadable}
        marks: list[dict[str, Any]] = [
            {"entry": dataclasses.asdict(entry), "unreadable": [broken[i] for i in ids_of(entry) if i in broken]}
            for entry in known.shards
        ]
    else:
        names = [name for name in folder.sizes(DONE) if name.endswith(".json")]
        marks = [json.loads(folder.read(f"{DONE}/{name}").to_pybytes()) for name in names]
    sizes = folder.sizes()
    return {
        mark["entry"]["first"] // known.rows_a_shard: mark
        for mark in marks
        if sizes.get(mark["entry"]["file"]) == mark["entry"]["bytes"]
    }


def ids_of(entry: Entry) -> range:
    """The sample ids, or positions, of a shard."""
    return range(entry.first, entry.first + entry.rows)


def write(work: Work) -> None:
    """Write, or go on writing, the shards of a folder that `begin` has claimed.

    Raises:
        ValueError: The folder is not shared by all nodes.
        RuntimeError: A shard cannot be written.
    """
    folder, known = work.folder, read_manifest(work.folder)
    if folder.is_local:
        check_storage(folder.location, "give another --output")
    marks = written(folder)
    numbers = tuple(number for number in range(known.files) if number not in marks)
    if not numbers and known.complete and (known.kind == "views" or folder.size(LABELS)):
        tidy(folder)  # a kill may have come between completing and tidying up
        say(f"preprocess: {folder.location} is complete already")
        return
    say(f"preprocess: {known.rows:,} {UNITS[known.kind]} into {folder.location}, {len(numbers)} shards to do")
    if numbers:
        sweep(folder)
        target = target_of(work)
        tasks = ShardTasks(numbers, ray.put(work.source), target)
        rows = ray.data.read_datasource(tasks, override_num_blocks=len(tasks.portions()), **placement(target.config))
        quiet(rows, target.config, target_block_bytes=1)
        left = sum(len(target.rows_of_shard(number)) for number in numbers)
        with closing(rows_one_by_one(rows)) as finished:
            for row in counted(finished, "preprocess", left, unit="image", size=lambda row: row["rows"]):
                marks[row["number"]] = json.loads(row["mark"])
    complete(work, marks)
    say(f"preprocess: {folder.location} is complete")


def target_of(work: Work) -> Target:
    """What the tasks are told; shards are cut as they were when the folder was claimed."""
    known, config = read_manifest(work.folder), work.config
    return Target(
        location=work.folder.location,
        kind=known.kind,
        rows=known.rows,
        rows_a_shard=known.rows_a_shard,
        short_side=config.short_side,
        config=config.as_run(),
        split=work.split,
        strip=f"{config.data.path.rstrip('/')}/",
    )


def sweep(folder: Folder) -> None:
    """Remove what a killed job has left half written."""
    for name in folder.sizes(DONE) if folder.is_local else ():
        if name.endswith(".tmp"):
            Path(folder.path(f"{DONE}/{name}")).unlink(missing_ok=True)


def tidy(folder: Folder) -> None:
    """Remove the marks, which the manifest now holds."""
    if folder.is_local:
        shutil.rmtree(folder.path(DONE), ignore_errors=True)
    elif folder.sizes(DONE):
        folder.files.delete_dir(folder.path(DONE))


def complete(work: Work, marks: dict[int, dict[str, Any]]) -> None:
    """Write the labels and the manifest, and tidy up."""
    folder, known = work.folder, read_manifest(work.folder)
    assert sorted(marks) == list(range(known.files))
    ordered = [marks[number] for number in range(known.files)]
    labels_sha256 = ""
    if known.kind == "images":
        buffer = io.BytesIO()
        np.save(buffer, np.asarray(work.source.labels, np.int64))
        folder.write(LABELS, buffer.getvalue())
        labels_sha256 = hashlib.sha256(buffer.getvalue()).hexdigest()
    whole = dataclasses.replace(
        known,
        complete=True,
        shards=tuple(Entry(**mark["entry"]) for mark in ordered),
        unreadable=tuple(tuple(row) for mark in ordered for row in mark["unreadable"]),
        labels_sha256=labels_sha256,
    )
    folder.write(MANIFEST, whole.as_json().encode())
    tidy(folder)


@dataclass(frozen=True)
class ShardTasks(Datasource):
    """One read task for a shard, or for some where there are many. A row of the dataset is the mark of one shard."""

    numbers: tuple[int, ...]
    source: ray.ObjectRef
    target: Target

    def portions(self) -> list[tuple[int, ...]]:
        """The shards of each task."""
        step = -(-len(self.numbers) // MAX_TASKS)
        return [self.numbers[at : at + step] for at in range(0, len(self.numbers), step)]

    def estimate_inmemory_data_size(self) -> int:
        """Next to nothing goes through Ray."""
        return len(self.numbers)

    def get_read_tasks(
        self, parallelism: int, per_task_row_limit: int | None = None, data_context: Any = None
    ) -> list[ReadTask]:
        """One for each portion, whatever parallelism Ray proposes."""
        return [
            ReadTask(
                self.reader(portion),
                BlockMetadata(num_rows=len(portion), size_bytes=len(portion), input_files=None, exec_stats=None),
            )
            for portion in self.portions()
        ]

    def reader(self, portion: tuple[int, ...]) -> Callable[[], Iterable[Block]]:
        """The function of one task."""
        source, target = self.source, self.target

        def read() -> Iterable[Block]:
            for number in portion:
                mark = write_shard(opened_source(source), target, number)
                yield pa.table({"number": [number], "rows": [mark["entry"]["rows"]], "mark": [json.dumps(mark)]})

        return read


def write_shard(source: Source, target: Target, number: int) -> dict[str, Any]:
    """Write a shard and its mark, unless both are there, and return the mark: entry and unreadable samples.

    Raises:
        RuntimeError: It cannot be written.
    """
    folder = Folder(target.location)
    file, mark_name = f"shard-{number:05d}.arrow", f"{DONE}/{number:05d}.json"
    if folder.size(mark_name):  # a task that is run again because the node with its answer has gone
        mark = json.loads(folder.read(mark_name).to_pybytes())
        if folder.size(file) == mark["entry"]["bytes"]:
            return mark
    batch, unreadable = (image_rows if target.kind == "images" else view_rows)(source, target, number)
    try:
        entry = put_batch(folder, file, batch, PIXELS[target.kind], first=number * target.rows_a_shard)
        mark = {"entry": dataclasses.asdict(entry), "unreadable": unreadable}
        folder.write(mark_name, json.dumps(mark).encode())
    except OSError as error:
        raise RuntimeError(
            f"{folder.location}/{file} cannot be written: {str(error).splitlines()[0]}; make room, or see to the folder"
        ) from error
    return mark


def put_batch(folder: Folder, file: str, batch: pa.RecordBatch, pixels: str, *, first: int) -> Entry:
    """Write an Arrow file so that readers see all of it or nothing, and return its entry."""
    scratch = folder.scratch(file)
    try:
        with scratch.open("wb") as sink:
            with pa.ipc.new_file(sink, batch.schema) as writer:
                writer.write_batch(batch)
            sink.flush()
            os.fsync(sink.fileno())
        with pa.memory_map(str(scratch)) as mapped:
            content = mapped.read_buffer()
        entry = entry_of(file, content, pixels, first)
        if folder.is_local:
            scratch.replace(folder.path(file))
        else:
            folder.write(file, content)
    finally:
        scratch.unlink(missing_ok=True)
    return entry


def entry_of(file: str, content: pa.Buffer, pixels: str, first: int) -> Entry:
    """What the manifest says about the bytes of a shard."""
    batch = pa.ipc.open_file(content).get_batch(0)
    values = batch.column(pixels).buffers()[-1]
    start = values.address - content.address if values is not None and values.size else 0
    where = (start, start + (values.size if values is not None else 0))
    sha256 = hashlib.sha256(content).hexdigest()
    return Entry(file, first, batch.num_rows, content.size, sha256, where, index_sha256(content, where))


def image_rows(source: Source, target: Target, number: int) -> tuple[pa.RecordBatch, list[list[Any]]]:
    """The samples of a shard, decoded, and [sample id, path, reason] of those that cannot be."""
    ids = target.rows_of_shard(number)
    pixels, offsets, checks = bytearray(), [0], []
    shapes: list[tuple[int, ...]] = []
    paths: list[str] = []
    unreadable: list[list[Any]] = []
    all_labels: list[NDArray[np.int64]] = []
    for start in range(0, len(ids), IMAGES_AT_ONCE):
        encoded, labels = source.read(ids[start : start + IMAGES_AT_ONCE])
        all_labels.append(labels)
        for sample_id, item in zip(ids[start : start + IMAGES_AT_ONCE].tolist(), encoded, strict=True):
            image, reason = prepared(item, target.short_side, target.config.data)
            paths.append(source.describe(sample_id).removeprefix(target.strip))
            if image is None:
                unreadable.append([sample_id, paths[-1], reason])
                image = np.empty((0, 0, 3), np.uint8)
            flat = np.ascontiguousarray(image).reshape(-1)
            pixels += flat.data
            offsets.append(len(pixels))
            shapes.append(image.shape[:2])
            checks.append(checksum(flat))
    broken = {sample_id for sample_id, _, _ in unreadable}
    valid = pa.array([sample_id not in broken for sample_id in ids.tolist()])
    shape = np.array(shapes, np.int32)
    buffers = [valid.buffers()[1] if broken else None, pa.py_buffer(np.array(offsets, np.int64)), pa.py_buffer(pixels)]
    columns = {
        "sample_id": ids,
        "label": np.concatenate(all_labels).astype(np.int64),
        "height": shape[:, 0],
        "width": shape[:, 1],
        "image": pa.Array.from_buffers(pa.large_binary(), len(ids), buffers),
        "path": pa.array(paths, pa.string()),
        "check": np.array(checks, np.uint64),
    }
    return pa.record_batch(columns), unreadable


def prepared(item: Encoded, short_side: int, data: DataConfig) -> tuple[NDArray[np.uint8] | None, str]:
    """The image as it is kept, or None and the reason."""
    try:
        image = decoded(item, data)
    except ValueError as error:
        return None, str(error)
    return (resize_short_side(image, short_side) if 0 < short_side < min(image.shape[:2]) else image), ""


def view_rows(source: Source, target: Target, number: int) -> tuple[pa.RecordBatch, list[list[Any]]]:
    """The rows of a shard of views; what cannot be read has been replaced, as the rows say."""
    positions = target.rows_of_shard(number)
    pixels, parts, checks = bytearray(), [], []
    for start in range(0, len(positions), VIEWS_AT_ONCE):
        rows = rows_of(source, target.split, positions[start : start + VIEWS_AT_ONCE], target.config)
        views = rows.pop("views")
        parts.append(rows)
        checks += [checksum(one.reshape(-1)) for one in views]
        pixels += views.data
    columns: dict[str, Any] = {name: np.concatenate([rows[name] for rows in parts]) for name in parts[0]}
    kind = pa.binary(row_bytes(target.config))
    columns["views"] = pa.Array.from_buffers(kind, len(positions), [None, pa.py_buffer(pixels)])
    columns["check"] = np.array(checks, np.uint64)
    return pa.record_batch(columns), []


def verify(config: PreprocessConfig) -> None:
    """Compare the SHA-256 of every file of an output with its manifest, on all nodes.

    Raises:
        ValueError: There is no manifest, or a file is damaged; each has been named.
    """
    places = ["", *SPLITS]
    found = [place for place in places if Folder(config.output).size(f"{place}/{MANIFEST}".lstrip("/")) is not None]
    if not found:
        raise ValueError(f"output {config.output!r} holds no {MANIFEST}, nor does train/ or test/ in it")
    files: list[tuple[str, str, str]] = []
    for place in found:
        folder = Folder(f"{config.output.rstrip('/')}/{place}".rstrip("/"))
        known = read_manifest(folder)
        if not known.complete:
            raise ValueError(f"{folder.location} is not complete; give the command that writes it again")
        files += [(folder.location, entry.file, entry.sha256) for entry in known.shards]
        if known.labels_sha256:
            files.append((folder.location, LABELS, known.labels_sha256))
    check = ray.remote(**placement(config.as_run()))(damage_of)
    waiting = [check.remote(*file) for file in files]
    damaged = 0
    for answer in counted((ray.get(one) for one in waiting), "verify", len(files), unit="file"):
        if answer:
            damaged += 1
            say(answer)
    if damaged:
        raise ValueError(f"{damaged} of {len(files)} files in {config.output!r} are damaged")
    say(f"verify: all {len(files)} files in {config.output} are as they were written")


def damage_of(location: str, file: str, sha256: str) -> str:
    """What is wrong with a file, or ''."""
    folder = Folder(location)
    try:
        if hashlib.sha256(content_of(folder, file)).hexdigest() == sha256:
            return ""
    except OSError:
        pass
    return damage(folder, file, sha256)
