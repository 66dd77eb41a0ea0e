"""Keyed permutations, evaluated by index in O(1) memory: what the order of a training stream is made of.

A Feistel network on the smallest even number of bits that holds the size, walked until it lands below the size; its
round function is Philox. Compiled where the kernels are; the NumPy twin gives the same numbers.
"""

import numpy as np
from numpy.typing import ArrayLike, NDArray

from augmix_core import backends
from augmix_core.philox import Purpose, check_range, words

FEISTEL_ROUNDS = 6
WINDOW_SHIFT = 32  # above the bits of half an index


def permute(
    index: ArrayLike, size: ArrayLike, *, seed: int, purpose: Purpose, epoch: ArrayLike = 0, window: ArrayLike = 0
) -> NDArray[np.int64]:
    """Return where a keyed permutation of 0 .. size - 1 sends each index.

    Args:
        index: (N,) int64 in [0, size).
        size: at least 1, at most 2**53; one number, or (N,).
        epoch: one number, or (N,); every epoch has its own permutation.
        window: the same, below 2**31; every window has its own permutation.
    """
    at = np.atleast_1d(np.asarray(index, np.int64))
    sizes, epochs, windows = (np.broadcast_to(np.asarray(a, np.int64), at.shape) for a in (size, epoch, window))
    check_range("seed", seed, 64)
    if backends.NATIVE and backends.variant_of("auto"):
        found = np.array(at, order="C")
        others = (np.ascontiguousarray(a) for a in (sizes, epochs, windows))
        backends.NATIVE.permute(found, *others, seed, int(purpose))
        return found
    return permute_in_numpy(at, sizes, epochs, windows, seed, purpose)


def permute_in_numpy(
    at: NDArray[np.int64],
    sizes: NDArray[np.int64],
    epochs: NDArray[np.int64],
    windows: NDArray[np.int64],
    seed: int,
    purpose: Purpose,
) -> NDArray[np.int64]:
    """`permute` without the compiled kernels."""
    bits = np.frexp((sizes - 1).astype(np.float64))[1].astype(np.int64)
    half_bits = np.maximum(1, (bits + 1) // 2)
    found = feistel(at, epochs, windows, half_bits, seed, purpose)
    while (out := found >= sizes).any():
        found[out] = feistel(found[out], epochs[out], windows[out], half_bits[out], seed, purpose)
    return found


def feistel(
    at: NDArray[np.int64],
    epochs: NDArray[np.int64],
    windows: NDArray[np.int64],
    half_bits: NDArray[np.int64],
    seed: int,
    purpose: Purpose,
) -> NDArray[np.int64]:
    """One pass through the network: a bijection of [0, 4**half_bits)."""
    mask = (np.int64(1) << half_bits) - 1
    left, right = at >> half_bits, at & mask
    for block in range(FEISTEL_ROUNDS):
        items = right | windows << WINDOW_SHIFT
        drawn = words(items, seed=seed, purpose=purpose, epoch=epochs, block=block)[..., 0].astype(np.int64)
        left, right = right, left ^ (drawn & mask)
    return (left << half_bits) | right
