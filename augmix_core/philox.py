"""Counter-based randomness: every random number is a pure function of what it is for.

Philox4x32-10 turns (key, counter) into four 32-bit words with no state in between, so a draw does not depend on
batches, workers, retries or order. The counter space, one table for the whole project:

| word | holds |
|---|---|
| key 0, 1 | seed, low and high 32 bits |
| counter 0, 1 | item (mostly the sample id), low and high 32 bits |
| counter 2 | purpose << 24 | view << 16 | block |
| counter 3 | epoch |

Source: Salmon et al. (2011), "Parallel random numbers: as easy as 1, 2, 3".
"""

from enum import IntEnum

import numpy as np
from numpy.typing import ArrayLike, NDArray

STREAM_VERSION = 2
"""Raised whenever the same seed begins to give other pixels or another order; a golden test guards it."""

MULTIPLIERS = (np.uint64(0xD2511F53), np.uint64(0xCD9E8D57))
KEY_STEPS = (0x9E3779B9, 0xBB67AE85)
ROUNDS = 10
LOW = np.uint64(0xFFFFFFFF)
SHIFT = np.uint64(32)


class Purpose(IntEnum):
    """What a draw is for: bits 24..31 of counter word 2. A number is never used again for something else."""

    PLAN = 1
    CROP = 2
    ORDER = 3
    SPLIT = 4
    CORRUPTION = 5
    MODEL = 6
    PERTURBATION = 7
    BOOTSTRAP = 8
    CUTOUT = 9
    PARTNER = 10
    MIXUP = 11
    CUTMIX = 12
    POLICY = 13
    ATTACK = 14


def words(
    items: ArrayLike,
    *,
    seed: int,
    purpose: Purpose,
    epoch: ArrayLike = 0,
    view: ArrayLike = 0,
    block: ArrayLike = 0,
) -> NDArray[np.uint32]:
    """Return (..., 4) random 32-bit words; items, epoch, view and block broadcast against each other.

    Args:
        items: int64 >= 0, mostly sample ids.
        seed: 0 <= seed < 2**64.
        epoch: 0 <= epoch < 2**32.
        view: 0 <= view < 256.
        block: 0 <= block < 65536; how many blocks a purpose needs is its own affair.
    Raises:
        ValueError: One of them is out of its range.
    """
    check_counters(items, seed=seed, epoch=epoch)
    check_range("view", view, 8)
    check_range("block", block, 16)
    item64 = np.asarray(items).astype(np.uint64)
    where = np.uint64(purpose << 24) | (np.asarray(view, np.uint64) << np.uint64(16)) | np.asarray(block, np.uint64)
    counter = np.broadcast_arrays(item64 & LOW, item64 >> SHIFT, where, np.asarray(epoch, np.uint64))
    return philox4x32((counter[0], counter[1], counter[2], counter[3]), seed)


def philox4x32(counter: tuple[NDArray[np.uint64], ...], seed: int) -> NDArray[np.uint32]:
    """Return the four output words, last axis, of Philox4x32-10 for four counter words and a 64-bit key."""
    c0, c1, c2, c3 = counter
    key0, key1 = seed & 0xFFFFFFFF, seed >> 32
    for _ in range(ROUNDS):
        product0, product1 = MULTIPLIERS[0] * c0, MULTIPLIERS[1] * c2
        c0 = (product1 >> SHIFT) ^ c1 ^ np.uint64(key0)
        c2 = (product0 >> SHIFT) ^ c3 ^ np.uint64(key1)
        c1, c3 = product1 & LOW, product0 & LOW
        key0, key1 = (key0 + KEY_STEPS[0]) & 0xFFFFFFFF, (key1 + KEY_STEPS[1]) & 0xFFFFFFFF
    return np.stack([c0, c1, c2, c3], axis=-1).astype(np.uint32)


def uniform(word: NDArray[np.uint32]) -> NDArray[np.float64]:
    """Map 32-bit words to [0, 1), exactly: word / 2**32."""
    return word * np.float64(2.0**-32)


def below(word: NDArray[np.uint32], bound: ArrayLike) -> NDArray[np.int64]:
    """Map 32-bit words to the integers 0 .. bound - 1 by multiply and shift (bias below bound / 2**32)."""
    return ((word.astype(np.uint64) * np.asarray(bound, np.uint64)) >> SHIFT).astype(np.int64)


def check_counters(items: ArrayLike, *, seed: int, epoch: ArrayLike) -> None:
    """Refuse items, a seed or epochs that do not fit the counter."""
    check_range("seed", seed, 64)
    item = np.asarray(items)
    if item.size and (item.dtype.kind not in "iu" or item.min() < 0 or item.max() >= 2**63):
        raise ValueError(
            f"sample ids must be integers from 0 to 2**63 - 1, got dtype {item.dtype}, {item.min()} to {item.max()}"
        )
    check_range("epoch", epoch, 32)


def check_range(name: str, value: ArrayLike, bits: int) -> None:
    """Refuse a value that does not fit its bits of the counter."""
    values = np.asarray(value)
    if values.size == 0:
        return
    low, high = int(values.min()), int(values.max())
    if values.dtype.kind not in "iuO" or low < 0 or high >= 2**bits:
        raise ValueError(
            f"{name} is {low if low == high else f'{low}..{high}'}; it must be an integer from 0 to 2**{bits} - 1"
        )
