"""The stream of positions."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from augmix_core.permutation import permute
from augmix_core.philox import Purpose
from pipeline.order import Split, classes_of_a_batch, split_train, total_steps, windowed


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


def test_the_order_by_index_is_that_of_stream_version_2():
    """Printed by the first release with this stream version; they change with the version alone."""
    _, ids = Split(1000, 100, 900, 3).at([0, 1, 2, 899, 900, 12345], seed=7)
    assert ids.tolist() == [125, 635, 832, 525, 926, 674]
    order = permute(np.arange(12), 12, seed=5, purpose=Purpose.ORDER, epoch=2)
    assert order.tolist() == [4, 9, 0, 3, 10, 11, 2, 7, 8, 1, 6, 5]
    large = permute(np.arange(4), 10**15, seed=2**63, purpose=Purpose.ORDER, epoch=np.arange(4))
    assert large.tolist() == [90314573849852, 415262370660835, 363039825890344, 814478316924004]


shards = st.lists(st.one_of(st.integers(0, 2), st.integers(0, 60)), min_size=1, max_size=25).filter(any)


@settings(max_examples=60, deadline=None)
@given(shards, st.integers(1, 6), st.integers(0, 2**64 - 1), st.integers(0, 300), st.data())
def test_an_epoch_of_shards_holds_every_sample_once_and_stays_in_its_windows(rows, window, seed, epoch, data):
    rows, total = np.array(rows), sum(rows)
    start = data.draw(st.integers(0, total - 1))
    split = Split(total, start, data.draw(st.integers(1, total - start)), seed)
    members = np.sort(split.sample_ids(np.arange(split.size)))
    ours = windowed(split, rows, window=window)
    epochs, ids = ours.at(np.arange(epoch * split.size, (epoch + 1) * split.size), seed=seed)
    assert (epochs == epoch).all() and (np.sort(ids) == members).all()
    shard_of = np.repeat(np.arange(len(rows)), rows)
    sequence = permute(np.arange(len(rows)), len(rows), seed=seed, purpose=Purpose.ORDER, epoch=epoch)
    taken = 0
    for first in range(0, len(rows), window):
        inside = np.isin(shard_of[members], sequence[first : first + window])
        assert set(ids[taken : taken + inside.sum()]) == set(members[inside])
        taken += inside.sum()
    assert taken == split.size


@settings(max_examples=20, deadline=None)
@given(shards, st.integers(1, 4), st.data())
def test_a_position_in_shards_does_not_depend_on_what_is_asked_beside_it(rows, window, data):
    total = sum(rows)
    split = windowed(Split(total, 0, total, 1), np.array(rows), window=window)
    positions = np.array(data.draw(st.lists(st.integers(0, 5 * total), min_size=1, max_size=30)))
    epochs, ids = split.at(positions, seed=2)
    for k, epoch, sample_id in zip(positions, epochs, ids, strict=True):
        assert split.at([k], seed=2) == (epoch, sample_id)


def test_epochs_seeds_and_windows_of_shards_have_their_own_order():
    split = windowed(Split(160, 0, 160, 0), np.full(16, 10), window=4)
    orders = [split.at(np.arange(160) + 160 * epoch, seed=seed)[1] for seed in (0, 1) for epoch in (0, 1)]
    assert len({tuple(order) for order in orders}) == 4
    assert (np.abs(np.diff(orders[0])) == 1).mean() < 0.1
    _, alone = windowed(Split(160, 0, 160, 0), np.full(16, 10), window=1).at(np.arange(160), seed=0)
    assert len({tuple(shard) for shard in alone.reshape(16, 10) % 10}) == 16


def test_splits_of_the_same_size_keep_their_own_shards():
    for rows in ([3, 5, 2], [2, 1, 7], [1, 1, 8]):
        split = windowed(Split(10, 0, 10, 0), np.array(rows), window=1)
        assert sorted(split.at(np.arange(10), seed=0)[1]) == list(range(10))


def test_shards_that_are_sorted_by_class_give_batches_of_few_classes():
    labels = np.repeat(np.arange(40), 10)
    split = Split(400, 0, 400, 0)
    ours, random = classes_of_a_batch(windowed(split, np.full(40, 10), window=2), labels, 20, seed=0)
    assert ours == 2 and random > 10
    assert classes_of_a_batch(split, labels, 20, seed=0)[0] > 10


def test_the_order_of_a_source_without_shards_is_left_alone():
    split = Split(160, 0, 160, 0)
    assert windowed(split, None, window=4) is split


def test_a_permutation_looks_random():
    """Neighbours do not stay together, and no place is preferred."""
    order = permute(np.arange(5000), 5000, seed=0, purpose=Purpose.ORDER)
    assert np.abs(np.corrcoef(np.arange(5000), order)[0, 1]) < 0.05
    assert (np.abs(np.diff(order)) < 10).mean() < 0.02


@settings(deadline=None)
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
