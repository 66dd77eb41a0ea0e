"""The random numbers of one image in one cell: a private Philox stream, read from its beginning.

The stream's key is drawn from (seed, sample id, corruption, severity), so what an image looks like depends on nothing
else; see the counter space in `augmix_core/philox.py`.
"""

import numpy as np
from numpy.typing import NDArray

from augmix_core.philox import below, philox4x32, uniform


class Draws:
    """A stream of 32-bit words; every call takes the next ones.

    Args:
        key: 0 <= key < 2**64. Block i of four words is Philox4x32-10 of the counter (i, 0, 0, 0) under this key.
    """

    def __init__(self, key: int) -> None:
        self.key = key
        self.block = 0
        """The next block; a call begins with a new one."""

    def words(self, count: int) -> NDArray[np.uint32]:
        """(count,) words."""
        blocks = np.arange(self.block, self.block + -(-count // 4), dtype=np.uint64)
        zero = np.zeros_like(blocks)
        self.block += len(blocks)
        return philox4x32((blocks, zero, zero, zero), self.key).reshape(-1)[:count]

    def uniform(self, *shape: int, low: float = 0.0, high: float = 1.0) -> NDArray[np.float64]:
        """Uniform in [low, high)."""
        return low + (high - low) * uniform(self.words(int(np.prod(shape)))).reshape(shape)

    def below(self, bound: int, *shape: int) -> NDArray[np.int64]:
        """Integers 0 .. bound - 1."""
        return below(self.words(int(np.prod(shape))), bound).reshape(shape)

    def normal(self, *shape: int, mean: float = 0.0, std: float = 1.0) -> NDArray[np.float64]:
        """Normal, by the inverse of its distribution function, each from one word."""
        from scipy.special import ndtri

        return mean + std * ndtri(uniform(self.words(int(np.prod(shape)))) + 2.0**-33).reshape(shape)
