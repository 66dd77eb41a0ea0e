"""The stream of positions."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from augmix_core.philox import Purpose
from pipeline.order import Split, permute, split_train, total_steps


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 3000), st.integers(0, 2**64 - 1), st.integers(0, 1000))
def test_every_epoch_holds_every_sample_exactly_once(size, seed, epoch):
    split = Split(total=size, start=0, size=size, seed=seed)
    epochs, ids = split.at(np.arange(epoch * size, (epoch + 1) * size), seed=seed)
    assert (epochs == epoch).all()
    assert (np.sort(ids) == np.arange(size)).all()


def test_epochs_and_seeds_have_their_own_order():
    orders = {
        tuple(permute(np.arange(100), 100, seed=seed, purpose=Purpose.ORDER, epoch=epoch))
        for seed in (0, 1)
        for epoch in (0, 1)
    }
    assert len(orders) == 4


def test_a_position_does_not_depend_on_what_is_asked_beside_it():
    split = Split(total=1000, start=100, size=900, seed=3)
    positions = np.random.default_rng(0).integers(0, 9000, 200)
    epochs, ids = split.at(positions, seed=3)
    for k, epoch, sample_id in zip(positions[:20], epochs, ids, strict=False):
        assert split.at([k], seed=3) == (epoch, sample_id)


def test_a_permutation_looks_random():
    """Neighbours do not stay together, and no place is preferred."""
    order = permute(np.arange(5000), 5000, seed=0, purpose=Purpose.ORDER)
    assert np.abs(np.corrcoef(np.arange(5000), order)[0, 1]) < 0.05
    assert (np.abs(np.diff(order)) < 10).mean() < 0.02


@given(st.integers(20, 2000), st.floats(0.05, 0.9), st.integers(0, 100))
def test_training_and_held_out_samples_are_disjoint_and_complete(total, fraction, seed):
    train, held_out = split_train(total, seed=seed, holdout_fraction=fraction)
    chosen = np.concatenate([split.sample_ids(np.arange(split.size)) for split in (train, held_out)])
    assert (np.sort(chosen) == np.arange(total)).all()


def test_a_limit_draws_that_many_different_samples():
    train, held_out = split_train(1000, seed=1, limit=50)
    assert (train.size, held_out.size) == (50, 0)
    ids = train.sample_ids(np.arange(50))
    assert len(set(ids.tolist())) == 50 and ids.max() > 200


def test_too_few_samples_are_refused():
    with pytest.raises(ValueError, match=r"holdout_fraction 0\.1"):
        split_train(3, seed=0, holdout_fraction=0.1)


def test_steps_straddle_epochs():
    assert total_steps(100, epochs=3, global_batch_size=64) == 4
