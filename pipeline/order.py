"""The stream: position k -> (epoch, sample), a pure function of the seed, evaluated by index in O(1) memory.

Position k lies in epoch k // N and holds sample perm(seed, epoch)[k % N]. Global batch s is positions [s B, (s + 1) B),
whatever the number of workers.

A source that is best read sequentially says how many rows each of its shards has. Its order is shuffled on two
levels: the shards, then the rows inside windows of a few consecutive ones of the shuffled shards. What lies near in
the stream then lies in one or two windows, and the order takes memory for shards, not for rows.
"""

import hashlib
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import ArrayLike, NDArray

from augmix_core.permutation import permute
from augmix_core.philox import Purpose
from pipeline.config import DataConfig


@dataclass(frozen=True, slots=True)
class Split:
    """Which samples of a source take part: members start .. start + size - 1 of a keyed permutation of all of them.

    Disjoint ranges are disjoint sets of samples, so a held-out split is a range that training leaves out.
    """

    total: int
    start: int
    size: int
    seed: int

    @property
    def order(self) -> str:
        """What the order of the stream follows, for comparing: the same samples may come in another one."""
        return "by index"

    def sample_ids(self, members: ArrayLike) -> NDArray[np.int64]:
        """Return the sample id of each member 0 .. size - 1."""
        shifted = np.asarray(members, np.int64) + self.start
        return permute(shifted, self.total, seed=self.seed, purpose=Purpose.SPLIT)

    def at(self, positions: ArrayLike, *, seed: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Return (epoch, sample id) of stream positions."""
        k = np.asarray(positions, np.int64)
        epoch = k // self.size
        member = permute(k % self.size, self.size, seed=seed, purpose=Purpose.ORDER, epoch=epoch)
        return epoch, self.sample_ids(member)


@dataclass(frozen=True, slots=True, eq=False)
class WindowedSplit(Split):
    """A split of a source in shards: the same samples, in an order that stays inside a few shards at a time.

    Per epoch the shards are permuted, and the rows of each window of them are. Sample ids count through the shards.
    """

    rows_before: NDArray[np.int64]
    """(S + 1,) samples of the split that lie before each shard, and all of them."""
    listed: NDArray[np.int64]
    """The sorted ids of the samples that take part, or of those that do not: whichever are fewer."""
    left_out: bool
    """Which of the two are listed."""
    window: int
    """Consecutive shards of the permuted ones whose rows are mixed."""

    @property
    def order(self) -> str:
        """The window and the shards."""
        digest = hashlib.sha256(self.rows_before.tobytes()).hexdigest()[:8]
        return f"windows of {self.window} of {len(self.rows_before) - 1} shards ({digest})"

    __eq__, __hash__ = object.__eq__, object.__hash__  # the parent's would take splits of other shards for this one

    def at(self, positions: ArrayLike, *, seed: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Return (epoch, sample id) of stream positions."""
        k = np.atleast_1d(np.asarray(positions, np.int64))
        epochs, within = np.divmod(k, self.size)
        ids = np.empty_like(k)
        for epoch in np.unique(epochs):
            now = epochs == epoch
            ids[now] = self.in_epoch(within[now], seed, int(epoch))
        return epochs, ids

    def in_epoch(self, within: NDArray[np.int64], seed: int, epoch: int) -> NDArray[np.int64]:
        """The sample ids of places 0 .. size - 1 of an epoch."""
        shards, starts = shuffled_shards(self, seed, epoch)
        edges = starts[:: self.window]
        window = np.searchsorted(edges, within, side="right") - 1  # of several that begin there, the one with rows
        ends = starts[np.minimum((window + 1) * self.window, len(shards))]
        first = edges[window]
        place = first + permute(
            within - first, ends - first, seed=seed, purpose=Purpose.ORDER, epoch=epoch, window=window + 1
        )
        at = np.searchsorted(starts, place, side="right") - 1
        rank = self.rows_before[shards[at]] + place - starts[at]
        if not self.left_out:
            return self.listed[rank]
        return rank + np.searchsorted(self.listed - np.arange(len(self.listed)), rank, side="right")


@lru_cache(maxsize=4)
def shuffled_shards(split: WindowedSplit, seed: int, epoch: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return (the shards in an epoch's order, (S + 1,) samples that lie before each in that order)."""
    count = len(split.rows_before) - 1
    shards = permute(np.arange(count), count, seed=seed, purpose=Purpose.ORDER, epoch=epoch)
    return shards, np.concatenate([[0], np.cumsum(np.diff(split.rows_before)[shards])])


def windowed(split: Split, shard_rows: NDArray[np.int64] | None, *, window: int) -> Split:
    """Return the split in the order of windows where the source is in shards, else the split itself.

    What a split leaves out costs 3 us for each sample of it or of its complement, whichever is smaller, here, and
    eight bytes in every process that reads.
    """
    if shard_rows is None:
        return split
    start, stop = split.start, split.start + split.size
    left_out = split.size > split.total // 2
    places = np.concatenate([np.arange(start), np.arange(stop, split.total)]) if left_out else np.arange(start, stop)
    listed = np.sort(permute(places, split.total, seed=split.seed, purpose=Purpose.SPLIT))
    ends = np.concatenate([[0], np.cumsum(shard_rows)])
    before = np.searchsorted(listed, ends)
    rows_before = ends - before if left_out else before
    return WindowedSplit(split.total, split.start, split.size, split.seed, rows_before, listed, left_out, window)


def classes_of_a_batch(split: Split, labels: NDArray[np.int64], batch: int, *, seed: int) -> tuple[int, int]:
    """Return how many classes the first global batch of a stream has, and a batch of samples drawn at random."""
    count = min(batch, split.size)
    _, first = split.at(np.arange(count), seed=seed)
    drawn = split.sample_ids(np.arange(count))
    return len(np.unique(labels[first])), len(np.unique(labels[drawn]))


def split_train(total: int, *, seed: int, limit: int = 0, holdout_fraction: float = 0.0) -> tuple[Split, Split]:
    """Return (training split, held-out split); the held-out one is empty for a fraction of 0.

    Args:
        total: samples of the source.
        limit: how many of them take part at all; 0 means all.
    Raises:
        ValueError: One of the two would hold nothing.
    """
    size = min(limit, total) if limit else total
    held_out = round(size * holdout_fraction)
    if size - held_out < 1 or (holdout_fraction and not held_out):
        raise ValueError(
            f"{size} images leave nothing to train on or to hold out at data.holdout_fraction {holdout_fraction}"
        )
    return Split(total, held_out, size - held_out, seed), Split(total, 0, held_out, seed)


def training_splits(
    total: int, shard_rows: NDArray[np.int64] | None, data: DataConfig, *, seed: int, hold_out: bool
) -> tuple[Split, Split]:
    """Return (what a training sees, in the order in which its source is best read; what it leaves out).

    Args:
        total, shard_rows: of the source.
        hold_out: whether it leaves data.holdout_fraction out.
    """
    fraction = data.holdout_fraction if hold_out else 0.0
    split, held_out = split_train(total, seed=seed, limit=data.train_limit, holdout_fraction=fraction)
    return windowed(split, shard_rows, window=data.shuffle_window), held_out


def total_steps(samples: int, *, epochs: int, global_batch_size: int) -> int:
    """Return T = E N // B, the steps of a run; batches straddle epochs."""
    return epochs * samples // global_batch_size
