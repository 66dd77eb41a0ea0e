"""Calibration errors, proper scores, and the temperature."""

import numpy as np
import pytest
import torch
from sklearn.metrics import brier_score_loss, log_loss
from torchmetrics.functional.classification import binary_calibration_error, multiclass_calibration_error

from augmix_core.calibration import (
    TEMPERATURE_BOUNDS,
    brier_score,
    expected_calibration_error,
    fit_temperature,
    negative_log_likelihood,
    per_image_scores,
    rms_calibration_error,
)


def overconfident(count, seed=0):
    rng = np.random.default_rng(seed)
    confidence = rng.uniform(0.1, 0.999, count)
    return confidence, rng.random(count) < confidence**1.5


def some_logits(count=200, classes=7, scale=3.0, dtype=np.float32):
    rng = np.random.default_rng(4)
    labels = rng.integers(0, classes, count)
    logits = rng.normal(size=(count, classes)) * scale
    logits[np.arange(count), labels] += 2
    return logits.astype(dtype), labels


def softmax(logits):
    return torch.softmax(torch.tensor(logits, dtype=torch.float64), dim=1).numpy()


def rms_by_hand(confidence, correct, ends):
    """ends: where the counted bins end, in the order of confidence."""
    order = np.argsort(confidence)
    total = start = 0
    for end in ends:
        inside = order[start:end]
        total += (end - start) * (confidence[inside].mean() - correct[inside].mean()) ** 2
        start = end
    return (total / len(confidence)) ** 0.5


@pytest.mark.parametrize(
    ("count", "fixed_ends", "official_ends"),
    [
        (500, (100, 200, 300, 400, 500), (100, 200, 300, 400)),
        (450, (100, 200, 300, 450), (100, 200, 300)),
        (399, (100, 200, 399), (100, 200)),
        (200, (100, 200), (100,)),
        (199, (199,), ()),
        (100, (100,), ()),
    ],
)
def test_official_binning_leaves_out_the_most_confident_bin(count, fixed_ends, official_ends):
    confidence, correct = overconfident(count)
    fixed = rms_calibration_error(confidence, correct)
    official = rms_calibration_error(confidence, correct, binning="official")
    assert fixed == pytest.approx(rms_by_hand(confidence, correct, fixed_ends), rel=1e-12)
    assert official == pytest.approx(rms_by_hand(confidence, correct, official_ends), rel=1e-12)
    assert fixed > official


def test_fewer_than_100_images_are_one_bin_and_have_no_official_error():
    assert rms_calibration_error([0.9, 0.7], [True, False]) == pytest.approx(0.3)
    with pytest.raises(ValueError, match="at least 100 images, got 99; choose 'fixed'"):
        rms_calibration_error([0.5] * 99, [True] * 99, binning="official")


def test_perfectly_calibrated_bins_have_no_error():
    confidence, correct = np.repeat([0.25, 0.75], 100), np.tile([True, False, False, False], 50)
    correct[100:] = ~correct[100:]
    assert rms_calibration_error(confidence, correct) == 0
    assert expected_calibration_error(confidence, correct) == 0


def test_calibration_errors_do_not_depend_on_the_order_of_images():
    confidence, correct = overconfident(730)
    shuffled = np.random.default_rng(5).permutation(730)
    for error in (rms_calibration_error, expected_calibration_error):
        assert error(confidence[shuffled], correct[shuffled]) == pytest.approx(error(confidence, correct), rel=1e-12)


def test_ece_is_that_of_torchmetrics_where_no_confidence_is_1():
    confidence, correct = overconfident(3000)
    # torchmetrics takes the probability of class 1 and its frequency, which here are confidence and correctness.
    theirs = binary_calibration_error(torch.tensor(confidence), torch.tensor(correct.astype(int)), n_bins=15)
    assert expected_calibration_error(confidence, correct) == pytest.approx(float(theirs), abs=1e-6)


def test_ece_of_logits_is_that_of_torchmetrics():
    logits, labels = some_logits(count=2000)
    scores = per_image_scores(logits, labels)
    theirs = multiclass_calibration_error(torch.tensor(softmax(logits)), torch.tensor(labels), num_classes=7, n_bins=10)
    ours = expected_calibration_error(scores["confidence"], scores["predicted"] == labels, bins=10)
    assert ours == pytest.approx(float(theirs), abs=1e-6)


def test_a_confidence_of_1_belongs_to_the_last_bin():
    confidence, correct = np.array([1.0, 1.0, 0.95, 0.95]), np.array([False, True, True, True])
    assert expected_calibration_error(confidence, correct) == pytest.approx(abs((0.5 * 4 - 0.1) - 1) / 4)
    theirs = float(binary_calibration_error(torch.tensor(confidence), torch.tensor(correct.astype(int)), n_bins=15))
    assert theirs == pytest.approx((1 + 0.1) / 4)


def test_bins_are_closed_on_the_left():
    assert expected_calibration_error([0.5, 0.25], [True, True], bins=2) == pytest.approx((0.5 + 0.75) / 2)
    assert expected_calibration_error([0.5, 0.75], [True, False], bins=2) == pytest.approx(0.25 / 2)
    assert expected_calibration_error([0.0, 1.0], [True, False], bins=1) == 0


@pytest.mark.parametrize("error", [rms_calibration_error, expected_calibration_error])
@pytest.mark.parametrize(
    ("confidence", "correct"),
    [
        ([], []),
        ([0.5], [True, False]),
        ([[0.5]], [[True]]),
        ([1.1], [True]),
        ([-0.1], [True]),
        ([float("nan")], [True]),
        ([0.5], [2]),
    ],
)
def test_what_is_no_confidence_is_refused(error, confidence, correct):
    with pytest.raises(ValueError, match=r"confidence|correct"):
        error(confidence, correct)


def test_unknown_binning_and_no_bins_are_refused():
    with pytest.raises(ValueError, match="'offical'; choose 'fixed' or 'official'"):
        rms_calibration_error([0.5], [True], binning="offical")
    with pytest.raises(ValueError, match="bins is 0"):
        expected_calibration_error([0.5], [True], bins=0)


def test_brier_score_and_nll_are_those_of_sklearn():
    logits, labels = some_logits()
    p = softmax(logits)
    assert brier_score(p, labels) == pytest.approx(brier_score_loss(labels, p, labels=range(7), scale_by_half=False))
    assert negative_log_likelihood(p, labels) == pytest.approx(log_loss(labels, p, labels=range(7)))


def test_means_of_the_columns_of_images_are_the_scores():
    logits, labels = some_logits()
    p, columns = softmax(logits), per_image_scores(logits, labels)
    assert columns["brier"].mean() == pytest.approx(brier_score(p, labels), rel=1e-12)
    assert columns["nll"].mean() == pytest.approx(negative_log_likelihood(p, labels), rel=1e-12)
    assert columns["confidence"] == pytest.approx(p.max(axis=1), rel=1e-12)
    assert (columns["predicted"] == p.argmax(axis=1)).all()


def test_brier_score_goes_from_0_for_sure_and_right_to_2_for_sure_and_wrong():
    assert brier_score([[1.0, 0.0]], [0]) == 0
    assert brier_score([[1.0, 0.0]], [1]) == 2
    assert negative_log_likelihood([[1.0, 0.0]], [1]) == np.inf


@pytest.mark.parametrize(
    ("probabilities", "labels"),
    [
        ([], []),
        ([0.5, 0.5], [0, 1]),
        ([[0.5, 0.6]], [0]),
        ([[1.5, -0.5]], [0]),
        ([[float("nan"), 1.0]], [0]),
        ([[0.5, 0.5]], [2]),
        ([[0.5, 0.5]], [-1]),
        ([[0.5, 0.5]], [0, 1]),
        ([[0.5, 0.5]], [0.0]),
    ],
)
@pytest.mark.parametrize("score", [brier_score, negative_log_likelihood])
def test_what_are_no_probabilities_or_labels_is_refused(score, probabilities, labels):
    with pytest.raises(ValueError, match=r"probabilities|labels"):
        score(probabilities, labels)


def test_columns_have_the_stated_types():
    columns = per_image_scores(*some_logits())
    assert {name: values.dtype.name for name, values in columns.items()} == {
        **{"predicted": "int64", "confidence": "float64", "nll": "float64", "brier": "float64", "label_rank": "int64"}
    }
    assert {values.shape for values in columns.values()} == {(200,)}
    assert [len(values) for values in per_image_scores(np.zeros((0, 3), np.float32), np.zeros(0, int)).values()] == [
        0
    ] * 5


def test_columns_of_an_image_do_not_depend_on_its_batch():
    logits, labels = some_logits(count=65, dtype=np.float32)
    whole, alone = per_image_scores(logits, labels), per_image_scores(logits[40:41], labels[40:41])
    assert all(whole[name][40] == alone[name][0] for name in whole)


def test_columns_do_not_depend_on_a_shift_of_the_logits():
    logits, labels = some_logits(dtype=np.float64)
    for name, values in per_image_scores(logits + 1000, labels).items():
        assert values == pytest.approx(per_image_scores(logits, labels)[name], abs=1e-11)


def test_huge_logits_give_finite_columns():
    columns = per_image_scores(np.array([[3e38, -3e38, 0], [-3e38, 3e38, 3e38]], np.float32), np.array([1, 1]))
    assert columns["nll"].tolist() == [pytest.approx(6e38), pytest.approx(np.log(2))]
    assert columns["confidence"].tolist() == [1, 0.5]
    assert columns["brier"].tolist() == [2, 0.5]


def test_label_rank_counts_what_comes_before_and_ties_go_by_class():
    columns = per_image_scores(np.array([[1.0, 3.0, 3.0, 2.0]] * 4), np.arange(4))
    assert columns["label_rank"].tolist() == [3, 0, 1, 2]
    assert columns["predicted"].tolist() == [1] * 4


def test_a_prediction_is_right_where_the_rank_of_the_label_is_0():
    logits, labels = some_logits()
    columns = per_image_scores(np.round(logits), labels)
    assert ((columns["label_rank"] == 0) == (columns["predicted"] == labels)).all()


BAD_LOGITS = [
    (np.array([[0.0, np.nan]]), np.array([0]), r"logits\[0\] are not finite"),
    (np.array([[0.0, 1.0], [0.0, np.inf]]), np.array([0, 0]), r"logits\[1\] are not finite"),
    (np.array([[0, 1]]), np.array([0]), "logits must be floats"),
    (np.zeros(3), np.zeros(3, int), "logits must be floats"),
    (np.zeros((1, 0)), np.array([0]), "logits must be floats"),
    (np.zeros((1, 2)), np.array([2]), "labels go from 2 to 2"),
    (np.zeros((1, 2)), np.array([-1]), "labels go from -1"),
    (np.zeros((1, 2)), np.array([0, 1]), "labels must be integers"),
]


@pytest.mark.parametrize("of", [per_image_scores, fit_temperature])
@pytest.mark.parametrize(("logits", "labels", "message"), BAD_LOGITS)
def test_what_are_no_logits_or_labels_is_refused(of, logits, labels, message):
    with pytest.raises(ValueError, match=message):
        of(logits, labels)


def test_a_temperature_of_no_images_is_refused():
    with pytest.raises(ValueError, match="no image"):
        fit_temperature(np.zeros((0, 3)), np.zeros(0, int))


def nll_at(logits, labels, temperature):
    return per_image_scores(logits.astype(np.float64) / temperature, labels)["nll"].mean()


@pytest.mark.parametrize("scale", [0.05, 1.0, 20.0])
def test_the_temperature_has_the_smallest_loss(scale):
    logits, labels = some_logits(scale=3.0)
    logits = logits * np.float32(scale)
    t = fit_temperature(logits, labels)
    assert all(nll_at(logits, labels, t) < nll_at(logits, labels, t * other) for other in (0.5, 0.99, 1.01, 2))


def test_the_temperature_is_where_the_derivative_is_zero():
    logits, labels = some_logits()
    t = fit_temperature(logits, labels)
    p, z = softmax(logits.astype(np.float64) / t), logits.astype(np.float64)
    assert ((p * z).sum(axis=1) - z[np.arange(len(z)), labels]).mean() == pytest.approx(0, abs=1e-8)


def test_scaling_the_logits_scales_the_temperature():
    logits, labels = some_logits(dtype=np.float64)
    assert fit_temperature(5 * logits, labels) == pytest.approx(5 * fit_temperature(logits, labels), rel=1e-8)


def test_labels_drawn_from_the_softmax_need_no_temperature():
    rng = np.random.default_rng(6)
    logits = rng.normal(size=(40_000, 4)) * 2
    labels = (softmax(logits).cumsum(axis=1) < rng.random((40_000, 1))).sum(axis=1)
    assert fit_temperature(logits, labels) == pytest.approx(1, abs=0.03)


@pytest.mark.parametrize("size", [1e-3, 1.0, 1e30])
def test_a_temperature_without_an_optimum_ends_at_its_bound(size):
    labels = np.arange(50) % 5
    right = np.eye(5)[labels] * size
    coldest, hottest = TEMPERATURE_BOUNDS
    assert fit_temperature(right, labels) == coldest
    assert fit_temperature(-right, labels) == hottest
    assert fit_temperature(np.full((3, 5), size), labels[:3]) == 1


def test_chunks_do_not_change_the_temperature(monkeypatch):
    logits, labels = some_logits(count=1000)
    whole = fit_temperature(logits, labels)
    monkeypatch.setattr("augmix_core.calibration.CHUNK", 17)
    assert fit_temperature(logits, labels) == pytest.approx(whole, rel=1e-8)
