"""Confidence intervals over images, by a Poisson bootstrap.

Cells of a benchmark and methods under comparison share their images, so an image is drawn for all of them at once: its
weight in a replicate is a pure function of (seed, replicate, sample id). Weighted sums are integers and exact, so
neither shards nor their order change a bit, and nothing is kept but two sums for each cell and replicate.

The weights are Poisson(1), the limit of drawing N of N images with replacement. Replicate b of an image is the
(b mod 8)-th of the eight 16-bit halves, low half first, of Philox block b // 8. Cumulative probabilities are rounded to
1 / 65536: the mean stays exactly 1, the variance is 0.99997, the largest weight 8.
Source: Chamandy et al. (2012), "Estimating uncertainty for massive data streams"; Efron (1979).
"""

import math
from collections.abc import Hashable

import numpy as np
from numpy.typing import ArrayLike, NDArray

from augmix_core.philox import Purpose, words

HALVES = 8  # of 16 bits in the four words of a Philox block
LARGEST_WEIGHT = 8
CHUNK = 1024
"""Images whose weights exist at a time. Sums of weights below 2**24 are exact in float32; these are below 2**14."""


def weight_table() -> NDArray[np.uint8]:
    """Map each 16-bit number to a weight with the probabilities of Poisson(1)."""
    probabilities = [math.exp(-1) / math.factorial(k) for k in range(LARGEST_WEIGHT + 1)]
    ends = np.rint(2**16 * np.cumsum(probabilities)).astype(np.int64)
    return np.repeat(np.arange(LARGEST_WEIGHT + 1, dtype=np.uint8), np.diff(ends, prepend=0))


class Bootstrap:
    """The weights of images.

    Args:
        replicates: 1 to 524,288; a replicate's weights do not depend on how many there are.
        seed: 0 <= seed < 2**64.
    Raises:
        ValueError: replicates is out of its range.
    """

    def __init__(self, replicates: int = 1000, seed: int = 0) -> None:
        if not 1 <= replicates <= HALVES << 16:
            raise ValueError(f"replicates is {replicates}; choose 1 to {HALVES << 16}")
        self.replicates, self.seed = replicates, seed
        self.table = weight_table()

    def weights(self, sample_ids: ArrayLike) -> NDArray[np.uint8]:
        """Return (replicates, N) how often each image is drawn, 0 to 8.

        Raises:
            ValueError: sample_ids are not (N,) integers from 0 to 2**63 - 1, or the seed is out of its range.
        """
        ids = np.asarray(sample_ids)
        if ids.ndim != 1:
            raise ValueError(f"sample_ids has shape {ids.shape}; it must be (N,)")
        blocks = np.arange(-(-self.replicates // HALVES))
        drawn = words(ids[:, None], seed=self.seed, purpose=Purpose.BOOTSTRAP, block=blocks)
        halves = drawn.astype("<u4", copy=False).view("<u2").reshape(len(ids), -1)
        return self.table[halves[:, : self.replicates]].T


class ErrorSums:
    """Replicates of the error of cells, from answers that come shard by shard.

    Weights are drawn once for all `add`s in a row that have the same sample ids: go through the cells and methods of a
    shard before the next shard. In all cells a sample id must stand for the same image.

    Args:
        replicates, seed: as for `Bootstrap`.
    """

    def __init__(self, replicates: int = 1000, seed: int = 0) -> None:
        self.bootstrap = Bootstrap(replicates, seed)
        self.sums: dict[Hashable, NDArray[np.int64]] = {}
        """Cell -> (2, replicates) weighted wrong images, weighted images."""
        self.waiting_ids: NDArray[np.int64] = np.zeros(0, np.int64)
        self.waiting: list[tuple[Hashable, NDArray[np.bool_]]] = []
        """Cells and their (2, N) wrong and valid images, N = len(waiting_ids)."""

    def add(self, cell: Hashable, sample_ids: ArrayLike, wrong: ArrayLike, valid: ArrayLike) -> None:
        """Count a shard of a cell. Every image of a cell is to be added once.

        Args:
            cell: any key, such as (method, corruption, severity).
            sample_ids: (N,) int64 >= 0.
            wrong: (N,) bool, whether the prediction is wrong.
            valid: (N,) bool, whether the image counts at all.
        Raises:
            ValueError: The shapes differ; wrong or valid are not bool.
        """
        ids, marks = np.asarray(sample_ids), [np.asarray(wrong), np.asarray(valid)]
        for field, given in zip(("wrong", "valid"), marks, strict=True):
            if ids.ndim != 1 or given.shape != ids.shape or given.dtype != np.bool_:
                raise ValueError(
                    f"{field} is {given.dtype} {given.shape}, sample_ids {ids.shape}; it must be bool, one for each id"
                )
        if not np.array_equal(ids, self.waiting_ids):
            self.count()
            self.waiting_ids = ids.copy()
        self.waiting.append((cell, np.stack([marks[0] & marks[1], marks[1]])))

    def count(self) -> None:
        """Weight what waits, and add it to the sums."""
        if not self.waiting:
            return
        cells = [cell for cell, _ in self.waiting]
        marks_SN = np.concatenate([marks for _, marks in self.waiting])
        replicates = self.bootstrap.replicates
        sums_SR = np.zeros((len(marks_SN), replicates), np.int64)
        for at in range(0, len(self.waiting_ids), CHUNK):
            weights_RN = self.bootstrap.weights(self.waiting_ids[at : at + CHUNK])
            exact = marks_SN[:, at : at + CHUNK].astype(np.float32) @ weights_RN.T.astype(np.float32)
            sums_SR += exact.astype(np.int64)
        for cell, sums in zip(cells, sums_SR.reshape(len(cells), 2, replicates), strict=True):
            self.sums[cell] = self.sums.get(cell, 0) + sums
        self.waiting = []

    def errors(self, cell: Hashable) -> NDArray[np.float64]:
        """Return (replicates,) errors of a cell, as fractions; NaN for a replicate that drew none of its images.

        Raises:
            ValueError: Nothing was added for this cell.
        """
        self.count()
        if cell not in self.sums:
            raise ValueError(f"nothing was added for cell {cell!r}")
        wrong, images = self.sums[cell]
        return np.divide(wrong, images, out=np.full(len(images), np.nan), where=images > 0)


def interval(values: ArrayLike, level: float = 0.95) -> tuple[float, float]:
    """Return (low, high): the percentile interval of replicates. NaN, replicates without images, are left out.

    Args:
        values: (replicates,) of a score, or of a difference of two scores from the same weights.
        level: the share of replicates inside, 0 < level < 1.
    Raises:
        ValueError: level is out of its range, or no value is a number.
    """
    if not 0 < level < 1:
        raise ValueError(f"level is {level}; it must be between 0 and 1, such as 0.95")
    replicates = np.asarray(values, np.float64)
    known = replicates[~np.isnan(replicates)]
    if not known.size:
        raise ValueError(f"none of the {replicates.size} replicates is a number; there is no valid image")
    low, high = np.quantile(known, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)
