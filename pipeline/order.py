"""The stream: position k -> (epoch, sample), a pure function of the seed, evaluated by index in O(1) memory.

Position k lies in epoch k // N and holds sample perm(seed, epoch)[k % N]. The permutation is a Feistel network on
the smallest even number of bits that holds N, walked until it lands below N; its round function is Philox.
Global batch s is positions [s B, (s + 1) B), whatever the number of workers.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from augmix_core.philox import Purpose, words

FEISTEL_ROUNDS = 6


def permute(index: ArrayLike, size: int, *, seed: int, purpose: Purpose, epoch: ArrayLike = 0) -> NDArray[np.int64]:
    """Return where a keyed permutation of 0 .. size - 1 sends each index.

    Args:
        index: (N,) int64 in [0, size).
        size: at least 1, below 2**62.
        epoch: one number, or (N,); every epoch has its own permutation.
    """
    at = np.atleast_1d(np.asarray(index, np.int64))
    epochs = np.broadcast_to(np.asarray(epoch, np.int64), at.shape)
    half_bits = max(1, -(-(size - 1).bit_length() // 2))
    found = feistel(at, epochs, half_bits, seed, purpose)
    while (outside := found >= size).any():
        found[outside] = feistel(found[outside], epochs[outside], half_bits, seed, purpose)
    return found


def feistel(
    at: NDArray[np.int64], epochs: NDArray[np.int64], half_bits: int, seed: int, purpose: Purpose
) -> NDArray[np.int64]:
    """One pass through the network: a bijection of [0, 4**half_bits)."""
    mask = np.int64((1 << half_bits) - 1)
    left, right = at >> half_bits, at & mask
    for block in range(FEISTEL_ROUNDS):
        drawn = words(right, seed=seed, purpose=purpose, epoch=epochs, block=block)[..., 0].astype(np.int64)
        left, right = right, left ^ (drawn & mask)
    return (left << half_bits) | right


@dataclass(frozen=True, slots=True)
class Split:
    """Which samples of a source take part: members start .. start + size - 1 of a keyed permutation of all of them.

    Disjoint ranges are disjoint sets of samples, so a held-out split is a range that training leaves out.
    """

    total: int
    start: int
    size: int
    seed: int

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


def total_steps(samples: int, *, epochs: int, global_batch_size: int) -> int:
    """Return T = E N // B, the steps of a run; batches straddle epochs."""
    return epochs * samples // global_batch_size
