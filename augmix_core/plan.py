"""Plans: (seed, epoch, sample, view) -> which ops at which magnitudes, mixed with which weights.

A plan is everything random about one view, in readable form. All of it comes from Philox words addressed by
(seed, epoch, sample id, view, block), in this layout of blocks of four words:

| block | words |
|---|---|
| 0, 1 | the skip weight, then up to 7 uniforms that split [0, 1) into mixture weights (alpha = 1) |
| 2, 3 | the depths of up to 8 chains |
| 4 + 4 c + k | the op calls 2k and 2k + 1 of chain c, two words each: level; op and sign |
| 64 + 32 i .. | the gamma variate i of a Dirichlet or Beta with alpha != 1 |

Only + - * / sqrt and integer operations touch the words, so every machine draws the same plan; native/plan.c draws it
too, word for word.
Source: AugMix (Hendrycks et al., 2020), algorithm 1; ranges as in its released code.
"""

import functools
import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike, NDArray

from augmix_core import backends
from augmix_core.ops import ALL_OPS, STANDARD_OPS, level_law, magnitude_of, magnitude_rules
from augmix_core.philox import Purpose, below, uniform, words

if TYPE_CHECKING:
    from augmix_core.views import AugMixConfig

RANDOM_DEPTH = 3  # depth -1 draws 1..3 ops a chain
DEPTH_BLOCK = 2
OPS_BLOCK = 4
GAMMA_BLOCK = 64
GAMMA_BLOCKS_EACH = 32
GAMMA_TRIES = 48
TINY = 1e-300


Draw = Callable[[Iterable[int]], NDArray[np.uint32]]
"""Block numbers -> (N, views - 1, 4 x blocks) words."""


@dataclass(frozen=True, slots=True)
class OpCall:
    """One op at one magnitude, in the op's own unit."""

    name: str
    magnitude: float


@dataclass(frozen=True, slots=True)
class ViewPlan:
    """One augmented view: its chains, their Dirichlet weights, and the share of the clean image."""

    chains: tuple[tuple[OpCall, ...], ...]
    mixture_weights: tuple[float, ...]
    skip_weight: float


def draw_plans(
    sample_ids: ArrayLike, *, epoch: ArrayLike, seed: int, config: "AugMixConfig", image_size: tuple[int, int]
) -> list[list[ViewPlan]]:
    """Return plans[n][v - 1] for sample n and its augmented view v = 1 .. views - 1.

    Args:
        sample_ids: (N,) int64 >= 0.
        epoch: one epoch, or (N,) one for each sample.
        seed: 0 <= seed < 2**64.
        image_size: (H, W) in pixels; translations are bounded by a third of it.
    Raises:
        ValueError: An id, epoch or seed is out of range.
    """
    ids = np.atleast_1d(np.asarray(sample_ids))
    epochs = np.broadcast_to(np.asarray(epoch), ids.shape)
    views = np.arange(1, config.views)

    def draw(blocks: Iterable[int]) -> NDArray[np.uint32]:
        block = np.fromiter(blocks, np.int64)
        drawn = words(
            ids[:, None, None],
            seed=seed,
            purpose=Purpose.PLAN,
            epoch=epochs[:, None, None],
            view=views[:, None],
            block=block,
        )
        return drawn.reshape(len(ids), len(views), 4 * len(block))

    skip, mixture = draw_weights(draw, config)
    depth = draw_depths(draw, config)
    ops = STANDARD_OPS if config.ops == "standard" else ALL_OPS
    deepest = config.depth if config.depth > 0 else RANDOM_DEPTH
    blocks_a_chain = -(-deepest // 2)
    calls = draw([OPS_BLOCK + 4 * chain + k for chain in range(config.width) for k in range(blocks_a_chain)])
    calls = calls.reshape(len(ids), len(views), config.width, 2 * blocks_a_chain, 2)
    level = draw_levels(calls[..., 0], config)
    op = (((calls[..., 1] >> np.uint32(1)).astype(np.uint64) * np.uint64(len(ops))) >> np.uint64(31)).astype(np.int64)
    negative = (calls[..., 1] & np.uint32(1)).astype(bool)

    def call(at: tuple[int, ...]) -> OpCall:
        name = ops[op[at]]
        return OpCall(name, magnitude_of(name, float(level[at]), bool(negative[at]), image_size, config.dialect))

    return [
        [
            ViewPlan(
                chains=tuple(tuple(call((n, v, c, k)) for k in range(depth[n, v, c])) for c in range(config.width)),
                mixture_weights=tuple(mixture[n, v].tolist()),
                skip_weight=float(skip[n, v]),
            )
            for v in range(len(views))
        ]
        for n in range(len(ids))
    ]


def draw_packed_plans(
    ids: NDArray[np.integer],
    *,
    epoch: ArrayLike,
    seed: int,
    config: "AugMixConfig",
    image_size: tuple[int, int],
    variant: str,
) -> NDArray[np.void]:
    """Return the same plans as `draw_plans`, (N, views - 1) `backends.PLAN`s drawn by the compiled kernels."""
    rules = packed_rules(config.dialect, config.ops, image_size)
    law = level_law(config.dialect)
    return backends.native_plans(ids, epoch, seed=seed, config=config, law=law, rules=rules, variant=variant)


@functools.lru_cache(maxsize=64)
def packed_rules(dialect: str, ops: str, image_size: tuple[int, int]) -> NDArray[np.float64]:
    """Return (number of ops, 7): the C struct Rule of each op."""
    rules = magnitude_rules(dialect, image_size)
    return np.array(
        [
            (r.scale, r.base, r.factor, r.signed, r.whole != "", 0.5 if r.whole == "rounded" else 0, r.at_least)
            for r in (rules[name] for name in (STANDARD_OPS if ops == "standard" else ALL_OPS))
        ]
    )


def draw_levels(word: NDArray[np.uint32], config: "AugMixConfig") -> NDArray[np.float64]:
    """The level of each op call, as the dialect samples it."""
    law = level_law(config.dialect)
    level = law.lowest + uniform(word) * (config.aug_severity - law.lowest)
    return np.trunc(level) if law.binned else level


def draw_depths(draw: Draw, config: "AugMixConfig") -> NDArray[np.int64]:
    """(N, V - 1, width) ops in each chain."""
    drawn = draw([DEPTH_BLOCK, DEPTH_BLOCK + 1])[..., : config.width]
    return 1 + below(drawn, RANDOM_DEPTH) if config.depth == -1 else np.full(drawn.shape, config.depth)


def draw_weights(draw: Draw, config: "AugMixConfig") -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Skip weights (N, V - 1) ~ Beta(alpha, alpha) and mixture weights (N, V - 1, width) ~ Dirichlet(alpha)."""
    if config.alpha == 1.0:
        head = uniform(draw([0, 1]))
        cuts = np.sort(head[..., 1 : config.width], axis=-1)
        edges = np.concatenate([np.zeros_like(head[..., :1]), cuts, np.ones_like(head[..., :1])], axis=-1)
        return head[..., 0], np.diff(edges, axis=-1)
    log_gamma = np.stack([draw_log_gamma(draw, i, config.alpha) for i in range(config.width + 2)], axis=-1)
    skip = normalise_exp(log_gamma[..., config.width :])[..., 0]
    return skip, normalise_exp(log_gamma[..., : config.width])


def draw_log_gamma(draw: Draw, variate: int, alpha: float) -> NDArray[np.float64]:
    """Logarithms of Gamma(alpha) variates, for any alpha > 0.

    Best's rejection method XG gives Gamma(alpha + 1) from uniforms; times U**(1 / alpha) that is Gamma(alpha), which
    in logarithms cannot underflow. A variate has GAMMA_TRIES tries, two a block, and takes the mode if all fail: one
    in 10**9 at alpha 0.01, where two of three tries fail, and far fewer above. Source: Devroye (1986), chapter IX.3.
    """
    first = GAMMA_BLOCK + GAMMA_BLOCKS_EACH * variate
    boost = open_uniform(draw([first]))[..., 0]
    gamma = np.full(boost.shape, alpha)
    undecided = np.ones(boost.shape, bool)
    for k in range(GAMMA_TRIES):
        if not undecided.any():
            break
        u, v = np.moveaxis(open_uniform(draw([first + 1 + k // 2]))[..., 2 * (k % 2) : 2 * (k % 2) + 2], -1, 0)
        w = u * (1 - u)
        y = np.sqrt((3 * (alpha + 1) - 0.75) / w) * (u - 0.5)
        candidate = np.maximum(alpha + y, TINY)
        accepted = (alpha + y > 0) & (log(64 * w * w * w * v * v) <= 2 * (alpha * log(candidate / alpha) - y))
        gamma = np.where(undecided & accepted, candidate, gamma)
        undecided &= ~accepted
    return log(gamma) + log(boost) / alpha


def open_uniform(word: NDArray[np.uint32]) -> NDArray[np.float64]:
    """Map words into (0, 1), where logarithms are finite."""
    return uniform(word) + 2.0**-33


LN2 = math.log(2.0)


def log(positive: NDArray[np.float64]) -> NDArray[np.float64]:
    """Natural logarithm by basic arithmetic only, to about 1e-15: libraries differ in its last bit, this cannot.

    2 artanh((m - 1) / (m + 1)) for the mantissa m in [0.75, 1.5), summed to where terms fall below 2**-53.
    """
    mantissa, exponent = np.frexp(positive)
    low = mantissa < 0.75
    mantissa, exponent = np.where(low, 2 * mantissa, mantissa), np.where(low, exponent - 1, exponent)
    t = (mantissa - 1) / (mantissa + 1)
    square = t * t
    series = np.zeros_like(t)
    for odd in range(23, 0, -2):
        series = series * square + 1.0 / odd
    return 2 * t * series + exponent * LN2


def exp(negative: NDArray[np.float64]) -> NDArray[np.float64]:
    """exp of values <= 0 by basic arithmetic only: 2**k times a Taylor sum on [-ln 2 / 2, ln 2 / 2]."""
    floored = np.maximum(negative, -745.0)
    k = np.rint(floored / LN2)
    r = floored - k * LN2
    series = np.ones_like(r)
    for n in range(16, 0, -1):
        series = series * r / n + 1
    return np.ldexp(series, k.astype(np.int64))


def normalise_exp(log_gamma: NDArray[np.float64]) -> NDArray[np.float64]:
    """exp(x) over their sum along the last axis; summed left to right, so in one order everywhere."""
    gamma = exp(log_gamma - log_gamma.max(axis=-1, keepdims=True))
    total = gamma[..., 0].copy()
    for i in range(1, gamma.shape[-1]):
        total += gamma[..., i]
    return gamma / total[..., None]
