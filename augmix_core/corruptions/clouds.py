"""Clouds: the plasma that fog is made of."""

import numpy as np

from augmix_core.corruptions.draws import Draws
from augmix_core.corruptions.filters import Float32

FIRST_WIBBLE = 100.0


def plasma(size: int, decay: float, draws: Draws) -> Float32:
    """Return (size, size) clouds from 0 to 1, by diamonds and squares on a torus.

    Each point between others is their mean plus noise, uniform within the square of a wibble that falls by `decay` from
    one halving to the next.

    Args:
        size: a power of two, at least 2.
    """
    noise = draws.signed(size * size - 1)
    grid = np.zeros((2, 2), np.float32)  # row and column n repeat row and column 0: the torus closes there
    wibble = FIRST_WIBBLE
    n = 1
    while n < size:
        centre_noise, upper_noise, left_noise = (noise[: 3 * n * n] * np.float32(wibble * wibble)).reshape(3, n, n)
        noise = noise[3 * n * n :]
        centres = np.empty((n + 1, n + 1), np.float32)  # here row and column 0 repeat the last ones
        along = grid[:, :-1] + grid[:, 1:]
        down = grid[:-1] + grid[1:]
        centres[1:, 1:] = (along[:-1] + along[1:]) * np.float32(0.25) + centre_noise
        centres[0, 1:] = centres[-1, 1:]
        centres[1:, 0] = centres[1:, -1]
        finer = np.empty((2 * n + 1, 2 * n + 1), np.float32)
        finer[::2, ::2] = grid
        finer[1::2, 1::2] = centres[1:, 1:]
        finer[:-1:2, 1::2] = (along[:-1] + (centres[:-1, 1:] + centres[1:, 1:])) * np.float32(0.25) + upper_noise
        finer[1::2, :-1:2] = (down[:, :-1] + (centres[1:, :-1] + centres[1:, 1:])) * np.float32(0.25) + left_noise
        finer[-1] = finer[0]
        finer[:, -1] = finer[:, 0]
        grid, wibble, n = finer, wibble / decay, 2 * n
    grid = grid[:-1, :-1] - grid.min()
    return grid / grid.max()
