"""The samples that a run could not use, with path and reason: quarantine.parquet.

Whoever finds some keeps a list in a folder of its own, so that no two write the same file; `collected` merges them into
the list of the run. Lists grow: an image that has been repaired since stays on them, since it was replaced until then.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import ray
import torch

from pipeline.blocks import opened_source
from pipeline.config import DataConfig
from pipeline.decode import MAX_REPLACEMENTS, NO_SAMPLE, reason_unreadable
from pipeline.ranks import from_all_ranks, summed
from pipeline.source import Source
from pipeline.storage import StoredPath, matching, open_file, write_atomically

QUARANTINE = "quarantine.parquet"
COLUMNS = pa.schema([("sample_id", pa.int64()), ("path", pa.string()), ("reason", pa.string()), ("split", pa.string())])
FINDERS = ("train/*", "search/trials/*", "ledger")
"""Folders within a run's that have a list of their own."""
NAMED = 3


def listed(folder: StoredPath) -> list[dict[str, Any]]:
    """The rows of a folder's list, sorted; none where there is no list."""
    path = folder / QUARANTINE
    return pq.read_table(open_file(path)).to_pylist() if path.exists() else []


def add(folder: StoredPath, rows: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """Add rows to a folder's list and return all of it; of a sample that is listed already, the old row stays."""
    by_key = {(row["split"], row["sample_id"]): row for row in [*rows, *listed(folder)]}
    merged = [by_key[key] for key in sorted(by_key)]
    if merged:
        sink = pa.BufferOutputStream()
        pq.write_table(pa.Table.from_pylist(merged, COLUMNS), sink)
        folder.mkdir(parents=True, exist_ok=True)
        write_atomically(folder / QUARANTINE, sink.getvalue().to_pybytes())
    return merged


def collected(run: StoredPath) -> list[dict[str, Any]]:
    """Merge all lists within a run's folder into the list of the run, and return it."""
    return add(run, [row for pattern in FINDERS for folder in matching(run, pattern) for row in listed(folder)])


@contextmanager
def collecting(run: StoredPath) -> Iterator[None]:
    """Have the list of the run complete when the block ends, however it ends."""
    try:
        yield
    finally:
        collected(run)


def too_many(rows: Sequence[dict[str, Any]], bad: int, images: int, config: DataConfig) -> str:
    """Say, in one line, that too many of some images cannot be used.

    Args:
        rows: of the list, for examples.
        bad: how many are known.
        images: out of how many.
    """
    named = "; ".join(f"{row['path']}: {row['reason']}" for row in rows[:NAMED])
    more = f"; and {bad - NAMED} more" if bad > NAMED else ""
    return (
        f"{bad} of {images} images ({100 * bad / images:.3g} %) cannot be used, data.max_bad_fraction "
        f"{config.max_bad_fraction:g} allows {100 * config.max_bad_fraction:g} %: {named}{more}; "
        "repair or remove them, or raise --data.max-bad-fraction"
    )


class Quarantine:
    """The bad samples that a training has met, the same on all of its ranks after every `share`.

    Args:
        folder: of the training's list, which rank 0 writes.
        source: the training images.
        images: how many of them take part.
    """

    def __init__(self, folder: StoredPath, rank: int, source: ray.ObjectRef, images: int, config: DataConfig) -> None:
        self.folder, self.rank, self.source, self.images, self.config = folder, rank, source, images, config
        self.known: set[int] = set()
        self.stuck = False
        """Whether so many in a row are bad that a position has no sample."""
        self.new: set[int] = set()
        if rank == 0:  # those that an earlier start has met and nobody has repaired since
            opened = opened_source(source)
            ids = [row["sample_id"] for row in listed(folder)]
            self.new = {sample_id for sample_id in ids if reason_unreadable(opened, sample_id, config)}

    def add(self, rows: Mapping[str, torch.Tensor]) -> None:
        """Take note of what had to be replaced in a batch."""
        replaced = rows["requested_id"][rows["requested_id"] != rows["sample_id"]]
        self.new.update(replaced.tolist())
        self.stuck |= bool((rows["sample_id"] == NO_SAMPLE).any())

    def share(self, device: torch.device) -> str:
        """Tell all ranks what each has met, list it, and return why training must stop, or ''. A collective."""
        self.new -= self.known
        if summed(torch.tensor(len(self.new) + self.stuck), device):
            gathered = from_all_ranks((self.new, self.stuck))
            self.new = set().union(*(new for new, _ in gathered))
            self.stuck = any(stuck for _, stuck in gathered)
        if not self.new and not self.stuck:
            return ""
        if self.rank == 0:
            add(self.folder, described(opened_source(self.source), self.new, "train", self.config))
        self.known |= self.new
        self.new = set()
        if len(self.known) <= self.config.max_bad_fraction * self.images and not self.stuck:
            return ""
        told = too_many(listed(self.folder), len(self.known), self.images, self.config)
        return f"{MAX_REPLACEMENTS} samples in a row have no replacement; {told}" if self.stuck else told


def described(
    source: Source, sample_ids: Iterable[int], split: str, config: DataConfig, *, resized: bool = True
) -> list[dict[str, Any]]:
    """Rows of the list for some samples; `resized` as in `evaluation_images`."""
    return [
        {
            "sample_id": sample_id,
            "path": source.describe(sample_id),
            "reason": reason_unreadable(source, sample_id, config, resized=resized)
            or "could not be read, and now it can",
            "split": split,
        }
        for sample_id in sorted(sample_ids)
    ]
