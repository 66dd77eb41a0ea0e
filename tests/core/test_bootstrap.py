"""Confidence intervals over images."""

import math

import numpy as np
import pytest

from augmix_core import bootstrap
from augmix_core.bootstrap import Bootstrap, ErrorSums, interval


def filled(shards, replicates=40, cells=("a", "b")):
    """ErrorSums of (ids, wrong (cells, N), valid (cells, N)) shards."""
    sums = ErrorSums(replicates=replicates, seed=3)
    for ids, wrong, valid in shards:
        for place, cell in enumerate(cells):
            sums.add(cell, ids, wrong[place], valid[place])
    return sums


def answers(count=500):
    rng = np.random.default_rng(9)
    return rng.choice(10**12, count, replace=False), rng.random((2, count)) < 0.3, rng.random((2, count)) < 0.9


def replicated(sums, cells=("a", "b")):
    return np.stack([sums.errors(cell) for cell in cells])


def test_errors_are_weighted_counts():
    ids, wrong, valid = answers()
    weights = Bootstrap(replicates=40, seed=3).weights(ids).astype(np.int64)
    for cell, w, v in zip("ab", wrong, valid, strict=True):
        assert (filled([answers()]).errors(cell) == (weights @ (w & v)) / (weights @ v)).all()


@pytest.mark.parametrize("sizes", [[500], [1] * 20 + [480], [77] * 6 + [38], [0, 500, 0]])
def test_shards_change_no_bit(sizes):
    ids, wrong, valid = answers()
    ends = np.cumsum(sizes)
    shards = [(ids[e - s : e], wrong[:, e - s : e], valid[:, e - s : e]) for s, e in zip(sizes, ends, strict=True)]
    whole = replicated(filled([(ids, wrong, valid)]))
    assert (replicated(filled(shards)) == whole).all()
    assert (replicated(filled(shards[::-1])) == whole).all()


def test_the_order_of_images_and_of_cells_changes_no_bit():
    ids, wrong, valid = answers()
    shuffled = np.random.default_rng(10).permutation(500)
    whole = replicated(filled([(ids, wrong, valid)]))
    assert (replicated(filled([(ids[shuffled], wrong[:, shuffled], valid[:, shuffled])])) == whole).all()
    by_cell = ErrorSums(replicates=40, seed=3)
    for place, cell in ((1, "b"), (0, "a")):
        for part in (slice(0, 200), slice(200, 500)):
            by_cell.add(cell, ids[part], wrong[place, part], valid[place, part])
    assert (replicated(by_cell) == whole).all()


def test_chunks_change_no_bit(monkeypatch):
    whole = replicated(filled([answers()]))
    monkeypatch.setattr(bootstrap, "CHUNK", 64)
    assert (replicated(filled([answers()])) == whole).all()


def test_errors_may_be_read_between_shards():
    ids, wrong, valid = answers()
    sums = filled([(ids[:100], wrong[:, :100], valid[:, :100])])
    sums.errors("a")
    sums.add("a", ids[100:], wrong[0, 100:], valid[0, 100:])
    assert (sums.errors("a") == filled([answers()]).errors("a")).all()


def test_ids_that_change_in_place_are_told_apart():
    ids, wrong, valid = answers()
    sums, buffer = ErrorSums(replicates=40, seed=3), np.empty(250, np.int64)
    for part in (slice(0, 250), slice(250, 500)):
        buffer[:] = ids[part]
        sums.add("a", buffer, wrong[0, part], valid[0, part])
    assert (sums.errors("a") == filled([answers()]).errors("a")).all()


def test_a_weight_depends_on_nothing_but_seed_replicate_and_sample_id():
    weights = Bootstrap(replicates=20, seed=5).weights([3, 10**18, 7])
    assert weights.shape == (20, 3) and weights.dtype == np.uint8
    assert (Bootstrap(replicates=100, seed=5).weights([7, 3])[:20] == weights[:, [2, 0]]).all()
    assert (Bootstrap(replicates=20, seed=6).weights([3, 10**18, 7]) != weights).any()


def test_weights_have_the_distribution_of_poisson_1():
    weights = Bootstrap(replicates=96, seed=1).weights(np.arange(10_000))
    shares = np.bincount(weights.reshape(-1), minlength=9) / weights.size
    expected = [math.exp(-1) / math.factorial(k) for k in range(9)]
    assert np.abs(shares - expected).max() < 4 * math.sqrt(0.25 / weights.size)
    assert np.bincount(bootstrap.weight_table()).tolist() == [24109, 24110, 12054, 4019, 1004, 201, 34, 4, 1]
    assert bootstrap.weight_table().sum() == 2**16


def test_replicates_and_images_are_uncorrelated():
    weights = Bootstrap(replicates=32, seed=2).weights(np.arange(20_000)).astype(float)
    between_replicates = np.corrcoef(weights) - np.eye(32)
    neighbours = np.corrcoef(weights[:, :-1].reshape(-1), weights[:, 1:].reshape(-1))[0, 1]
    assert np.abs(between_replicates).max() < 5 / math.sqrt(20_000)
    assert abs(neighbours) < 5 / math.sqrt(32 * 20_000)


def test_weights_are_the_golden_ones():
    """From this code; an edit that changes them changes every published interval."""
    assert Bootstrap(replicates=10, seed=0).weights([0, 1]).tolist() == GOLDEN


GOLDEN = [[1, 1], [2, 1], [0, 1], [1, 3], [1, 1], [0, 1], [2, 1], [1, 2], [0, 1], [0, 3]]


def test_the_interval_of_an_error_is_the_normal_one():
    count, error = 20_000, 0.3
    wrong = np.arange(count) < error * count
    sums = ErrorSums(replicates=1000)
    sums.add("clean", np.arange(count), wrong, np.ones(count, bool))
    low, high = interval(sums.errors("clean"))
    half = 1.96 * math.sqrt(error * (1 - error) / count)
    assert (low + high) / 2 == pytest.approx(error, abs=0.1 * half)
    assert (high - low) / 2 == pytest.approx(half, rel=0.08)


def test_identical_methods_differ_by_exactly_0():
    ids, wrong, valid = answers()
    sums = filled([(ids, wrong[[0, 0]], valid[[0, 0]])])
    assert (sums.errors("a") - sums.errors("b") == 0).all()
    assert interval(sums.errors("a") - sums.errors("b")) == (0, 0)


def test_the_interval_of_a_paired_difference_is_narrower_than_that_of_either_error():
    rng = np.random.default_rng(11)
    first = rng.random(4000) < 0.3
    second = first ^ (rng.random(4000) < 0.02)
    sums = filled([(np.arange(4000), np.stack([first, second]), np.ones((2, 4000), bool))], replicates=400)
    widths = [np.ptp(interval(values)) for values in (sums.errors("a"), sums.errors("a") - sums.errors("b"))]
    assert widths[1] < widths[0] / 2


def test_about_95_percent_of_the_intervals_hold_the_truth():
    rng = np.random.default_rng(12)
    repeats, count, error = 400, 300, 0.2
    sums = ErrorSums(replicates=300, seed=7)
    for repeat in range(repeats):
        ids = np.arange(repeat * count, (repeat + 1) * count)
        sums.add(repeat, ids, rng.random(count) < error, np.ones(count, bool))
    held = [low <= error <= high for low, high in (interval(sums.errors(repeat)) for repeat in range(repeats))]
    assert 0.91 < np.mean(held) < 0.98


def test_a_replicate_without_images_is_nan_and_left_out_of_the_interval():
    sums = ErrorSums(replicates=200)
    sums.add("a", [5], np.array([True]), np.array([True]))
    errors = sums.errors("a")
    assert 0.2 < np.isnan(errors).mean() < 0.55
    assert interval(errors) == (1, 1)


def test_a_cell_without_valid_images_has_no_interval():
    sums = ErrorSums(replicates=20)
    sums.add("a", [5], np.array([True]), np.array([False]))
    with pytest.raises(ValueError, match="no valid image"):
        interval(sums.errors("a"))


def test_intervals_are_percentiles():
    assert interval(np.arange(101.0)) == pytest.approx((2.5, 97.5))
    assert interval(np.arange(101.0), level=0.8) == pytest.approx((10, 90))
    for level in (0.0, 1.0, 95.0):
        with pytest.raises(ValueError, match="level is"):
            interval([1.0], level=level)


@pytest.mark.parametrize(
    ("ids", "wrong", "valid"),
    [
        ([1, 2], [True], [True, True]),
        ([1, 2], [True, False], [True]),
        ([1], [1], [True]),
        ([1], [True], [1.0]),
        (1, True, True),
    ],
)
def test_answers_of_other_shapes_or_types_are_refused(ids, wrong, valid):
    with pytest.raises(ValueError, match="must be bool"):
        ErrorSums(replicates=8).add("a", ids, wrong, valid)


def test_an_unknown_cell_is_refused():
    with pytest.raises(ValueError, match="for cell 'fog'"):
        ErrorSums(replicates=8).errors("fog")


@pytest.mark.parametrize("replicates", [0, 8 * 65536 + 1])
def test_replicates_out_of_range_are_refused(replicates):
    with pytest.raises(ValueError, match="replicates is"):
        Bootstrap(replicates=replicates)


def test_sample_ids_that_are_none_are_refused():
    for ids in ([-1], [0.5], [[1]]):
        with pytest.raises(ValueError, match=r"sample[_ ]ids"):
            Bootstrap(replicates=8).weights(ids)
