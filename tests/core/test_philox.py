"""The one source of randomness."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from augmix_core.philox import Purpose, below, philox4x32, uniform, words


def test_philox_gives_the_published_known_answers():
    zero = tuple(np.array(0, np.uint64) for _ in range(4))
    ones = tuple(np.array(0xFFFFFFFF, np.uint64) for _ in range(4))
    assert [hex(w) for w in philox4x32(zero, 0)] == ["0x6627e8d5", "0xe169c58d", "0xbc57ac4c", "0x9b00dbd8"]
    assert [hex(w) for w in philox4x32(ones, 2**64 - 1)] == ["0x408f276d", "0x41c83b0e", "0xa20bc7c6", "0x6d5451fd"]


@given(st.integers(0, 2**63 - 1), st.integers(0, 2**64 - 1), st.integers(0, 2**32 - 1))
def test_a_word_does_not_depend_on_what_is_drawn_beside_it(item, seed, epoch):
    alone = words(item, seed=seed, purpose=Purpose.PLAN, epoch=epoch, view=2, block=3)
    batch = words([5, item, 9], seed=seed, purpose=Purpose.PLAN, epoch=[1, epoch, 2], view=2, block=3)
    assert (batch[1] == alone).all()


def test_purposes_views_blocks_epochs_and_seeds_are_distinct_streams():
    drawn = [
        tuple(words(1, seed=seed, purpose=purpose, epoch=epoch, view=view, block=block))
        for seed in (0, 1)
        for purpose in Purpose
        for epoch in (0, 1)
        for view in (0, 1)
        for block in (0, 1)
    ]
    assert len(set(drawn)) == len(drawn)


def test_uniform_and_below_stay_in_range_at_the_extreme_words():
    extremes = np.array([0, 2**32 - 1], np.uint32)
    assert uniform(extremes).tolist() == [0.0, 1 - 2.0**-32]
    assert below(extremes, 9).tolist() == [0, 8]


@pytest.mark.parametrize(
    "wrong",
    [{"seed": -1}, {"seed": 2**64}, {"epoch": 2**32}, {"view": 256}, {"block": 65536}, {"items": -1}, {"items": 0.5}],
)
def test_what_does_not_fit_the_counter_is_refused(wrong):
    arguments = {"items": 1, "seed": 0, "purpose": Purpose.PLAN} | wrong
    with pytest.raises(ValueError, match="must be"):
        words(arguments.pop("items"), **arguments)
