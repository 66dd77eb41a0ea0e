"""The random numbers of one image in one cell: a private Philox stream, read from its beginning.

The stream's key is drawn from (seed, sample id, corruption, severity), so what an image looks like depends on nothing
else; see the counter space in `augmix_core/philox.py`.
"""

import functools
import math

import numpy as np
from numpy.typing import NDArray

from augmix_core.backends import NATIVE, VARIANT_NUMBERS
from augmix_core.errors import missing_extra
from augmix_core.philox import below, philox4x32, uniform


class Draws:
    """A stream of 32-bit words; every call takes the next ones.

    Args:
        key: 0 <= key < 2**64. Block i of four words is Philox4x32-10 of the counter (i, 0, 0, 0) under this key.
        variant: the compiled variant that makes the words, or None for NumPy; they are the same.
    """

    def __init__(self, key: int, variant: str | None = None) -> None:
        self.key = key
        self.variant = variant
        self.block = 0
        """The next block; a call begins with a new one."""

    def words(self, count: int) -> NDArray[np.uint32]:
        """(count,) words."""
        first, self.block = self.block, self.block - (-count // 4)
        if self.variant is not None:
            drawn = np.empty(count, np.uint32)
            NATIVE.draw_words(drawn, self.key, first, VARIANT_NUMBERS[self.variant])
            return drawn
        blocks = np.arange(first, self.block, dtype=np.uint64)
        zero = np.zeros_like(blocks)
        return philox4x32((blocks, zero, zero, zero), self.key).reshape(-1)[:count]

    def uniform(self, *shape: int, low: float = 0.0, high: float = 1.0) -> NDArray[np.float64]:
        """Uniform in [low, high)."""
        return low + (high - low) * uniform(self.words(math.prod(shape))).reshape(shape)

    def signed(self, *shape: int) -> NDArray[np.float32]:
        """Uniform between -1 and 1: the words as signed integers over 2**31, in float32."""
        return self.words(math.prod(shape)).view(np.int32).astype(np.float32).reshape(shape) * np.float32(2.0**-31)

    def below(self, bound: int, *shape: int) -> NDArray[np.int64]:
        """Integers 0 .. bound - 1."""
        return below(self.words(math.prod(shape)), bound).reshape(shape)

    def normal(self, *shape: int, mean: float = 0.0, std: float = 1.0) -> NDArray[np.float32]:
        """Normal, one of 65,536 equally likely values, each from one word; float32."""
        drawn = normal_quantiles()[self.words(math.prod(shape)) >> np.uint32(16)].reshape(shape)
        return np.float32(mean) + np.float32(std) * drawn


@functools.cache
def normal_quantiles() -> NDArray[np.float32]:
    """(65536,) the normal distribution's values at the midpoints of 65,536 equal shares."""
    try:
        from scipy.special import ndtri
    except ImportError as error:
        raise missing_extra("scipy", "score") from error
    return ndtri((np.arange(2**16) + 0.5) / 2**16).astype(np.float32)
