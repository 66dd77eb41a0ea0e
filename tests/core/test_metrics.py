"""Corruption errors, flip rates and top-5 distances."""

import itertools
import json

import numpy as np
import pytest

from augmix_core.baselines import (
    ALEXNET_CLEAN_ERROR,
    ALEXNET_ERRORS,
    ALEXNET_ERRORS_BY_SEVERITY,
    ALEXNET_EXTRA_ERRORS,
    ALEXNET_EXTRA_FLIP_PROBABILITIES,
    ALEXNET_FLIP_PROBABILITIES,
)
from augmix_core.metrics import (
    changes_of_frames,
    corruption_errors,
    count_flips,
    flip_probability,
    mean_corruption_error,
    mean_corruption_errors,
    mean_flip_rate,
    mean_top5_distance,
    relative_mean_corruption_error,
    top5_distance,
    top5_distances_of_frames,
    unnormalized_corruption_error,
)
from tests.conftest import SHARED

HALF = dict.fromkeys(ALEXNET_ERRORS, 0.5)
REFERENCE = SHARED.parent / "reference" / "imagenet_c_errors.json"


@pytest.fixture
def published():
    if not REFERENCE.is_file():
        pytest.skip("the published ImageNet-C errors are not beside this checkout (../shared/reference)")
    return json.loads(REFERENCE.read_text())["errors"]


def test_uce_is_the_mean_over_corruptions_of_the_mean_over_severities():
    assert unnormalized_corruption_error({"a": [0.1, 0.3], "b": [0.6]}) == pytest.approx(40.0)


@pytest.mark.parametrize("wrong", [{}, {"a": []}, {"a": [12.0]}, {"a": [-0.1]}])
def test_uce_refuses_what_are_no_error_fractions(wrong):
    with pytest.raises(ValueError, match="error"):
        unnormalized_corruption_error(wrong)


def test_alexnets_errors_by_severity_average_to_the_official_constants():
    assert ALEXNET_ERRORS_BY_SEVERITY.keys() == ALEXNET_ERRORS.keys()
    for name, by_severity in ALEXNET_ERRORS_BY_SEVERITY.items():
        assert sum(by_severity) / 5 == pytest.approx(ALEXNET_ERRORS[name], abs=2e-6)


def test_the_benchmark_has_15_corruptions_and_10_perturbations_none_of_them_an_extra_one():
    assert len(ALEXNET_ERRORS) == 15 and len(ALEXNET_FLIP_PROBABILITIES) == 10
    assert not ALEXNET_ERRORS.keys() & ALEXNET_EXTRA_ERRORS.keys()
    assert not ALEXNET_FLIP_PROBABILITIES.keys() & ALEXNET_EXTRA_FLIP_PROBABILITIES.keys()


def test_alexnet_scores_100():
    assert mean_corruption_error(ALEXNET_ERRORS) == 100
    assert relative_mean_corruption_error(ALEXNET_ERRORS, ALEXNET_CLEAN_ERROR) == 100
    assert mean_corruption_error(ALEXNET_ERRORS_BY_SEVERITY) == pytest.approx(100, abs=1e-3)
    assert mean_flip_rate(ALEXNET_FLIP_PROBABILITIES) == 100


def test_published_errors_give_the_published_mce(published):
    assert mean_corruption_error(published["Hendrycks2020AugMix"]) == pytest.approx(64.18, abs=0.006)
    assert mean_corruption_error(published["Standard_R50"]) == pytest.approx(76.37, abs=0.006)


def test_published_errors_give_the_known_relative_mce(published):
    assert relative_mean_corruption_error(published["Hendrycks2020AugMix"], 1 - 0.7734) == pytest.approx(80.5, abs=0.05)
    assert relative_mean_corruption_error(published["Standard_R50"], 1 - 0.7672) == pytest.approx(106.3, abs=0.05)


def test_mce_is_a_mean_of_ratios_of_sums():
    errors = HALF | {"fog": [0.1, 0.2, 0.3, 0.4, 0.5], "snow": 0.8}
    expected = {name: 100 * 0.5 / mean for name, mean in ALEXNET_ERRORS.items()}
    expected |= {"fog": 100 * 1.5 / (5 * 0.819324), "snow": 100 * 0.8 / 0.866816}
    assert corruption_errors(errors) == pytest.approx(expected)
    assert mean_corruption_error(errors) == pytest.approx(sum(expected.values()) / 15)


def test_relative_mce_subtracts_the_clean_errors_on_both_sides():
    errors = {name: 0.2 + 0.3 * (mean - 0.4348) for name, mean in ALEXNET_ERRORS.items()}
    assert relative_mean_corruption_error(errors, 0.2) == pytest.approx(30)
    halved = {name: mean / 2 for name, mean in ALEXNET_ERRORS.items()}
    assert relative_mean_corruption_error(
        errors, 0.2, baseline=halved, baseline_clean_error=ALEXNET_CLEAN_ERROR / 2
    ) == pytest.approx(60)


def test_the_order_of_the_names_changes_no_bit():
    errors = {name: 0.9 * mean for name, mean in ALEXNET_ERRORS.items()} | {"fog": 0.123}
    alphabetical = dict(sorted(errors.items()))
    assert list(alphabetical) != list(errors)
    assert mean_corruption_error(alphabetical) == mean_corruption_error(errors)
    assert list(corruption_errors(alphabetical)) == list(ALEXNET_ERRORS)


@pytest.mark.parametrize("score", [mean_corruption_error, lambda e: relative_mean_corruption_error(e, 0.2)])
@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ([0.5] * 15, "errors is a list; it must map"),
        ({name: 0.5 for name in ALEXNET_ERRORS if name != "fog"}, "errors lacks fog"),
        (HALF | {"gausian_noise": 0.5}, "'gausian_noise'.*did you mean 'gaussian_noise'"),
        (HALF | ALEXNET_EXTRA_ERRORS, "'speckle_noise', one of the extra ones.*leave it out"),
        (HALF | {"fog": 50.0}, r"errors\['fog'\] is 50.0; it must be a fraction"),
        (HALF | {"fog": float("nan")}, "fraction"),
        (HALF | {"fog": [0.1, 0.2, 0.3, 0.4, -0.1]}, "fraction"),
        (HALF | {"fog": [0.1, 0.2, 0.3]}, r"shape \(3,\); give the mean error, or"),
    ],
)
def test_wrong_names_and_values_are_refused(score, wrong, message):
    with pytest.raises(ValueError, match=message):
        score(wrong)


@pytest.mark.parametrize("value", [1.5, -0.1, float("nan")])
def test_a_clean_error_that_is_no_fraction_is_refused(value):
    with pytest.raises(ValueError, match=r"^clean_error is"):
        relative_mean_corruption_error(HALF, value)


def test_a_baseline_that_cannot_be_divided_by_is_refused():
    with pytest.raises(ValueError, match=r"baseline\['fog'\] is 0;"):
        mean_corruption_error(HALF, baseline=dict(ALEXNET_ERRORS) | {"fog": 0.0})
    with pytest.raises(ValueError, match=r"baseline\['fog'\] is 0.3; .* above 0.4348"):
        relative_mean_corruption_error(HALF, 0.2, baseline=dict(ALEXNET_ERRORS) | {"fog": 0.3})


def test_each_replicate_scores_as_if_it_were_alone():
    rng = np.random.default_rng(0)
    errors = {name: rng.random((5, 4)) for name in ALEXNET_ERRORS}
    alone = [mean_corruption_error({name: by[:, r] for name, by in errors.items()}) for r in range(4)]
    assert mean_corruption_errors(errors) == pytest.approx(alone, rel=1e-14)


def test_an_empty_replicate_stays_nan_and_spoils_no_other():
    errors = {name: np.full((5, 2), 0.5) for name in ALEXNET_ERRORS}
    errors["fog"] = np.array([[0.5, np.nan]] * 5)
    assert np.isnan(mean_corruption_errors(errors)).tolist() == [False, True]


@pytest.mark.parametrize("shape", [(5,), (4, 2), (5, 3)])
def test_replicates_of_other_shapes_are_refused(shape):
    errors = {name: np.full((5, 2), 0.5) for name in ALEXNET_ERRORS} | {"fog": np.full(shape, 0.5)}
    with pytest.raises(ValueError, match="replicates"):
        mean_corruption_errors(errors)


FRAMES = np.array([[3, 3, 4, 4, 3], [1, 2, 2, 2, 2]])


def test_frames_are_compared_with_the_one_before_or_with_the_first():
    assert changes_of_frames(FRAMES, against_first=False).tolist() == [2, 1]
    assert changes_of_frames(FRAMES, against_first=True).tolist() == [2, 4]
    assert flip_probability(FRAMES, against_first=False) == 3 / 8
    assert flip_probability(FRAMES, against_first=True) == 6 / 8


@pytest.mark.parametrize("against_first", [False, True])
def test_flip_counts_add_up_over_shards(against_first):
    predictions = np.random.default_rng(1).integers(0, 3, (20, 31))
    parts = [
        count_flips(part, against_first=against_first) for part in (predictions[:7], predictions[7:7], predictions[7:])
    ]
    flips, comparisons = (sum(counts) for counts in zip(*parts, strict=True))
    assert (flips, comparisons) == count_flips(predictions, against_first=against_first)
    assert comparisons == 20 * 30
    assert flips / comparisons == flip_probability(predictions, against_first=against_first)


@pytest.mark.parametrize("wrong", [np.zeros((3, 1), int), np.zeros(3, int), np.zeros((2, 3))])
def test_predictions_that_cannot_be_compared_are_refused(wrong):
    with pytest.raises(ValueError, match="predictions"):
        count_flips(wrong, against_first=False)


def test_a_flip_probability_of_no_sequences_is_refused():
    with pytest.raises(ValueError, match="no sequence"):
        flip_probability(np.zeros((0, 5), int), against_first=False)


def test_mfr_is_a_mean_of_ratios():
    halved = {name: p / 2 for name, p in ALEXNET_FLIP_PROBABILITIES.items()}
    assert mean_flip_rate(halved) == pytest.approx(50)
    assert mean_flip_rate(halved | {"tilt": ALEXNET_FLIP_PROBABILITIES["tilt"]}) == pytest.approx(55)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({}, "lacks gaussian_noise, .*scale"),
        (dict(ALEXNET_FLIP_PROBABILITIES) | {"tild": 0.1}, "did you mean 'tilt'"),
        (dict(ALEXNET_FLIP_PROBABILITIES) | {"spatter": 0.1}, "extra"),
        (dict(ALEXNET_FLIP_PROBABILITIES) | {"tilt": 7.0}, "fraction"),
        ([0.1] * 10, "must map"),
    ],
)
def test_wrong_perturbations_are_refused(wrong, message):
    with pytest.raises(ValueError, match=message):
        mean_flip_rate(wrong)


def distance_as_defined(ranking, next_ranking):
    """The double sum of the paper, over complete rankings of one sample."""
    total = 0
    for i in range(1, 6):
        sigma = next_ranking.index(ranking[i - 1]) + 1
        total += sum(1 <= j - 1 <= 5 for j in range(min(i, sigma) + 1, max(i, sigma) + 1))
    return total


def test_top5_distance_is_the_papers_double_sum():
    rng = np.random.default_rng(2)
    first, second = (np.stack([rng.permutation(9) for _ in range(300)]) for _ in range(2))
    expected = [distance_as_defined(a.tolist(), b.tolist()) for a, b in zip(first, second, strict=True)]
    assert top5_distance(first, second).tolist() == expected
    assert len(set(expected)) > 5


def test_ranks_below_the_top_five_do_not_matter():
    rng = np.random.default_rng(3)
    first, second = (np.stack([rng.permutation(20) for _ in range(50)]) for _ in range(2))
    assert (top5_distance(first, second) == top5_distance(first[:, :5], second[:, :5])).all()


def test_top5_distance_goes_from_0_for_equal_to_15_for_disjoint_rankings():
    a = np.arange(10)[None]
    assert top5_distance(a, a).tolist() == [0]
    assert top5_distance(a, a[:, ::-1]).tolist() == [15]


def test_top5_distance_is_not_symmetric():
    a, b = np.array([[1, 2, 3, 4, 5]]), np.array([[6, 1, 2, 3, 4]])
    assert (top5_distance(a, b).tolist(), top5_distance(b, a).tolist()) == ([5], [9])


def test_fewer_than_five_classes_have_the_distance_of_the_definition():
    rankings = list(itertools.permutations(range(3)))
    for b in rankings:
        padded = [(*r, 3, 4, 5) for r in ((0, 1, 2), b)]
        assert top5_distance([[0, 1, 2]], [b]).tolist() == [distance_as_defined(*map(list, padded))]


@pytest.mark.parametrize(
    ("a", "b", "message"),
    [
        ([[0, 1, 2, 3, 3]], [[0, 1, 2, 3, 4]], "twice"),
        ([[0, 1, 2, 3]], [[0, 1, 2, 4]], "at least the top five"),
        ([[0, 1, 2, 3]], [[0, 1, 2, 3, 4]], "must agree"),
        ([[0.0, 1.0, 2.0, 3.0, 4.0]], [[0, 1, 2, 3, 4]], "integers"),
        ([0, 1, 2, 3, 4], [0, 1, 2, 3, 4], "integers"),
    ],
)
def test_rankings_that_are_none_are_refused(a, b, message):
    with pytest.raises(ValueError, match=message):
        top5_distance(a, b)


def test_top5_distances_of_frames_are_means_over_the_compared_pairs():
    up, other = [0, 1, 2, 3, 4, 5], [1, 0, 2, 3, 4, 5]
    frames = np.array([[up, other, other, up], [up, up, up, up]])
    assert top5_distances_of_frames(frames, against_first=False).tolist() == [4 / 3, 0]
    assert top5_distances_of_frames(frames, against_first=True).tolist() == [4 / 3, 0]
    assert top5_distances_of_frames(frames[:, :3], against_first=False).tolist() == [1, 0]
    assert top5_distances_of_frames(frames[:, :3], against_first=True).tolist() == [2, 0]


def test_one_frame_has_no_top5_distance():
    with pytest.raises(ValueError, match="needs 2"):
        top5_distances_of_frames(np.zeros((2, 1, 5), int), against_first=True)


def test_mt5d_is_a_mean_of_ratios_to_the_given_baseline():
    baseline = dict.fromkeys(ALEXNET_FLIP_PROBABILITIES, 4.0)
    assert mean_top5_distance(dict.fromkeys(baseline, 1.0), baseline) == 25
    with pytest.raises(ValueError, match="lacks tilt"):
        mean_top5_distance(baseline, {name: 4.0 for name in baseline if name != "tilt"})
    with pytest.raises(ValueError, match=r"baseline.* is 0"):
        mean_top5_distance(baseline, baseline | {"tilt": 0.0})
    with pytest.raises(ValueError, match="from 0 to 15"):
        mean_top5_distance(baseline | {"tilt": float("nan")}, baseline)
