"""A corrupted copy of a data set, in the layout of the published benchmarks, made by Ray Data tasks.

    npy       <corruption>.npy uint8 (5 N, H, W, 3), severity s in rows N (s - 1) .. N s, and labels.npy: CIFAR-10-C's
    folder    <corruption>/<severity>/<class>/<file>.JPEG, quality 85: ImageNet-C's
    parquet   <corruption>/<severity>/<first row>.parquet with image: struct<bytes, path> (PNG) and label

The copy comes near to the published files and is not them: `generated.json` and README.md in it say so. A killed job
goes on with the pieces that are missing; every piece is a pure function of the images and the seed, so writing one
twice does no harm. While it is being made, `.done` holds a mark for every piece that is written, arrays are called
`<corruption>.partial`, and `generated.json` says that it is not complete.

An image that cannot be read is left out and listed in `generated.json`. An array has a row for every image, so there
it ends the job: a black row with a label would be scored as if it were an image.
"""

import io
import json
import os
import shutil
from collections import Counter
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, NoReturn

import numpy as np
import pyarrow as pa
import ray
import ray.data
from numpy.lib import format as npy_format
from numpy.typing import NDArray
from PIL import Image

from augmix_core import STREAM_VERSION, __version__
from augmix_core.corruptions.severity import table_for
from pipeline.blocks import opened_source, placement, rows_of
from pipeline.budget import check_storage
from pipeline.cells import Cell, Input, Plan
from pipeline.config import GenerateConfig, piece_size
from pipeline.corrupt import piece_rows, portions_of
from pipeline.decode import reason_unreadable
from pipeline.evaluate import digest_of_textures
from pipeline.ledger import as_parquet
from pipeline.progress import counted, say
from pipeline.source import FolderSource, Source
from pipeline.storage import write_atomically

ABOUT, README, DONE = "generated.json", "README.md", ".done"
NOT_OF_THE_PIXELS = ("piece", "complete", "unreadable")
JPEG_QUALITY = 85
SUFFIXES = {"folder": ".JPEG", "parquet": ".png"}
PIECE = ("sample_id", "label", "valid", "image")


@dataclass(frozen=True)
class Target:
    """Where the pieces go. It travels to the workers, so it is small."""

    folder: str
    layout: str
    rows: int
    image_size: int

    def npy(self, corruption: str) -> Path:
        """The array of a corruption, under this name once it is complete."""
        return Path(self.folder) / f"{corruption}.npy"

    def partial(self, corruption: str) -> Path:
        """The same file until then."""
        return Path(self.folder) / f"{corruption}.partial"


def generate(config: GenerateConfig, source: Source) -> None:
    """Write, or go on writing, the corrupted copy into a folder that `begin` has claimed.

    Raises:
        ValueError: The folder is not shared by all nodes, or an array would lack an image.
    """
    folder, done = Path(config.output), Path(config.output) / DONE
    described = json.loads((folder / ABOUT).read_text())
    if described["complete"]:
        shutil.rmtree(done, ignore_errors=True)  # a kill may have come between completing and tidying up
        say(f"corrupt: {folder} is complete already")
        return
    run = config.as_run()
    rows = config.data.tested(len(source))
    cells = tuple(Cell("corruption", name, s) for name in config.corruptions for s in config.severities)
    plan = Plan((Input(0, np.arange(rows, dtype=np.int64), cells, generated=True),), (source,), {})
    target = Target(config.output, config.layout_of(), rows, config.data.image_size)
    check_storage(config.output, "give another --output")
    piece = described["piece"]  # pieces are cut as they were when this copy was begun
    missing = {cell.key: frozenset(firsts_missing(done, cell, rows, piece)) for cell in cells}
    pieces = sum(map(len, missing.values()))
    say(f"corrupt: {rows:,} images in {len(cells)} cells into {folder}, {pieces} pieces to do")
    if target.layout == "npy":
        for name in config.corruptions:
            prepare_array(target, name, len(config.severities))
    if pieces:
        written = piece_rows(ray.put((source,)), portions_of(plan, missing, piece), run).map_batches(
            write_pieces,
            fn_kwargs={"target": target, "names": ray.put(names_of(source, rows, target.layout))},
            batch_size=None,
            **placement(run),
        )
        with closing(rows_of(written)) as finished:
            for row in counted(finished, "corrupt", pieces):
                if row["unreadable"] and target.layout == "npy":
                    refuse_gap(source, row["unreadable"][0], config)
                mark = done / row["cell"] / str(row["first"])
                mark.parent.mkdir(parents=True, exist_ok=True)
                write_atomically(mark, json.dumps(row["unreadable"]))
    complete(target, described, source, cells, piece)
    say(f"corrupt: {folder} is complete; it is generated, not the published files")


def refuse_gap(source: Source, sample_id: int, config: GenerateConfig) -> NoReturn:
    """Refuse an image that cannot be read where it would leave a gap."""
    reason = reason_unreadable(source, sample_id, config.data)
    raise ValueError(
        f"{source.describe(sample_id)}: {reason}; the npy layout has a row for every image: repair it, "
        "or give --layout folder or parquet and another --output"
    )


def complete(target: Target, described: dict[str, Any], source: Source, cells: tuple[Cell, ...], piece: int) -> None:
    """Give the arrays their names, say that the copy is complete, and tidy up.

    Raises:
        RuntimeError: A piece never came.
    """
    folder, done = Path(target.folder), Path(target.folder) / DONE
    left = [cell.key for cell in cells if any(firsts_missing(done, cell, target.rows, piece))]
    if left:
        raise RuntimeError(f"nothing was written for some images of {len(left)} cells, the first {left[0]}")
    if target.layout == "npy":
        severities = len({cell.severity for cell in cells})
        buffer = io.BytesIO()
        np.save(buffer, np.tile(source.labels[: target.rows], severities))
        write_bytes(folder / "labels.npy", buffer.getvalue())
        for name in dict.fromkeys(cell.name for cell in cells):
            if target.partial(name).exists():
                target.partial(name).replace(target.npy(name))
    marks = (done / cells[0].key / str(first) for first in range(0, target.rows, piece))  # the same in every cell
    unreadable = [source.describe(sample_id) for mark in marks for sample_id in json.loads(mark.read_text())]
    write_atomically(folder / ABOUT, json.dumps(described | {"complete": True, "unreadable": unreadable}, indent=1))
    shutil.rmtree(done)


def about(config: GenerateConfig, source: Source, rows: int) -> dict[str, Any]:
    """What decides the pixels, and what they are not."""
    size = config.data.image_size
    return {
        "what": "generated by augmix-ray from the published definitions; not the published files of any benchmark",
        "version": __version__,
        "stream_version": STREAM_VERSION,
        "table": table_for(size, size),
        "seed": config.seed,
        "images": rows,
        "source": source.digest,
        "split": config.split,
        "layout": config.layout_of(),
        "corruptions": list(config.corruptions),
        "severities": list(config.severities),
        "piece": piece_size(config.scale, config.data),
        "frost_textures": digest_of_textures(config.frost_textures),
        "data": {name: getattr(config.data, name) for name in ("name", "image_size", "crop", "test_limit")},
        "complete": False,
        "unreadable": [],
    }


def begin(config: GenerateConfig, source: Source) -> None:
    """Claim a new or empty folder, or one that holds the beginning of the very same copy.

    Raises:
        ValueError: The folder holds something else or cannot be written, or two images would get one file name.
    """
    folder = Path(config.output)
    path = folder / ABOUT
    rows = config.data.tested(len(source))
    wanted = json.loads(json.dumps(about(config, source, rows)))
    refuse_namesakes(names_of(source, rows, config.layout_of()))
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if path.exists():
            refuse_other_copy(path, wanted)
        else:
            scratch = path.with_suffix(".tmp").name  # a kill may have come while the folder was claimed
            if found := sorted(set(os.listdir(folder)) - {scratch}):
                raise ValueError(
                    f"output {str(folder)!r} is not empty (found: {', '.join(found[:3])}); give a new folder"
                )
            write_atomically(path, json.dumps(wanted, indent=1))
        if not (folder / README).exists():
            write_atomically(folder / README, f"# {wanted['what']}\n\n`{ABOUT}` says how it was made.\n")
    except OSError as error:
        raise ValueError(f"output {str(folder)!r} cannot be used: {error.strerror}") from error


def refuse_other_copy(path: Path, wanted: dict[str, Any]) -> None:
    """Refuse a folder whose copy has other pixels than the wanted one, and say what differs."""
    folder = str(path.parent)
    try:
        known = json.loads(path.read_text())
    except ValueError:
        known = None
    if not isinstance(known, dict) or known.get("what") != wanted["what"]:
        raise ValueError(f"output {folder!r} holds an {ABOUT} that is not ours; give a new folder")
    compared = [key for key in wanted if key not in NOT_OF_THE_PIXELS]
    changed = [f"{key} {known.get(key)!r} -> {wanted[key]!r}" for key in compared if known.get(key) != wanted[key]]
    if changed:
        raise ValueError(f"output {folder!r} holds another copy ({'; '.join(changed)}); give another --output")


def refuse_namesakes(names: list[str]) -> None:
    """Refuse images that differ in their suffix alone: the copy gives all files the same."""
    name, times = Counter(names).most_common(1)[0]
    if times > 1:
        raise ValueError(f"{times} images would be written to {name}; rename them so that they differ before the dot")


def firsts_missing(done: Path, cell: Cell, rows: int, piece: int) -> list[int]:
    """The first rows of the pieces of a cell that have not been written."""
    return [first for first in range(0, rows, piece) if not (done / cell.key / str(first)).exists()]


def names_of(source: Source, rows: int, layout: str) -> list[str]:
    """A file name below the cell's folder for each sample: the source's own, or class and sample id."""
    suffix = SUFFIXES.get(layout, "")
    if isinstance(source, FolderSource):
        return [str(PurePosixPath(path).with_suffix(suffix)) for path in source.paths.to_pylist()[:rows]]
    names = source.class_names
    return [f"{names[int(label)]}/{sample_id:08d}{suffix}" for sample_id, label in enumerate(source.labels[:rows])]


def prepare_array(target: Target, corruption: str, severities: int) -> None:
    """Have the file of a corruption at its full length under its partial name, header first."""
    path = target.partial(corruption)
    if target.npy(corruption).exists():
        target.npy(corruption).replace(path)
    if path.exists():
        return
    scratch = path.with_suffix(".tmp")  # a kill may leave a file without its header
    size = target.image_size
    shape = (severities * target.rows, size, size, 3)
    np.lib.format.open_memmap(scratch, mode="w+", dtype=np.uint8, shape=shape).flush()
    scratch.replace(path)


def write_pieces(pieces: dict[str, NDArray], target: Target, names: ray.ObjectRef) -> dict[str, Any]:
    """Write pieces, one as a rule; runs on the workers. Tells which images could not be read."""
    for at, key in enumerate(pieces["cell"]):
        write_piece(str(key), int(pieces["first"][at]), {name: pieces[name][at] for name in PIECE}, target, names)
    unreadable = [
        ids[~valid].tolist() for ids, valid in zip(pieces["sample_id"], pieces["valid"].astype(bool), strict=True)
    ]
    return {
        "cell": pieces["cell"],
        "first": pieces["first"],
        "unreadable": pa.array(unreadable, pa.list_(pa.int64())),
    }


def write_piece(key: str, first: int, rows: dict[str, NDArray], target: Target, names: ray.ObjectRef) -> None:
    """Write some rows of a cell."""
    corruption, _, severity = key.rpartition("_")
    if target.layout == "npy":
        write_rows(target, corruption, int(severity), first, rows["image"])
        return
    folder = Path(target.folder) / corruption / severity
    chosen = np.flatnonzero(rows["valid"])
    known = opened_source(names)
    files = [known[int(rows["sample_id"][n])] for n in chosen]
    if target.layout == "folder":
        for n, file in zip(chosen, files, strict=True):
            write_bytes(folder / file, encoded(rows["image"][n], "JPEG"))
        return
    struct = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    images = [{"bytes": encoded(rows["image"][n], "PNG"), "path": file} for n, file in zip(chosen, files, strict=True)]
    table = pa.table({"image": pa.array(images, struct), "label": pa.array(rows["label"][chosen], pa.int64())})
    write_bytes(folder / f"{first:09d}.parquet", as_parquet(table))


def write_rows(target: Target, corruption: str, severity: int, first: int, images: NDArray[np.uint8]) -> None:
    """Write rows into their place in the array's file; several nodes may do so at the same time."""
    with target.partial(corruption).open("r+b") as file:
        version = npy_format.read_magic(file)
        assert version == (1, 0)
        npy_format.read_array_header_1_0(file)
        row = (severity - 1) * target.rows + first
        file.seek(file.tell() + row * images[0].nbytes)
        file.write(np.ascontiguousarray(images).tobytes())


def encoded(image: NDArray[np.uint8], kind: str) -> bytes:
    """An image file; JPEGs as ImageNet-C's."""
    buffer = io.BytesIO()
    options: dict[str, Any] = {"quality": JPEG_QUALITY, "optimize": True} if kind == "JPEG" else {}
    Image.fromarray(image).save(buffer, kind, **options)
    return buffer.getvalue()


def write_bytes(path: Path, content: bytes) -> None:
    """Readers see the whole file or none."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, content)
