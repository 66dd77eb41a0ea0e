"""Telling in- from out-of-distribution images by their scores."""

import numpy as np
import pytest
from sklearn.metrics import average_precision_score, roc_auc_score, roc_curve

from augmix_core.ood import aupr, auroc, fpr_at_tpr


def scores(kind):
    """In- and out-of-distribution scores: all different, in ties, or saturated."""
    rng = np.random.default_rng(8)
    inside, outside = rng.beta(5, 2, 700), rng.beta(2, 2, 400)
    if kind == "ties":
        inside, outside = inside.round(1), outside.round(1)
    if kind == "saturated":
        inside, outside = np.minimum(1, inside + 0.4), np.minimum(1, outside + 0.4)
    return inside, outside


def joined(inside, outside):
    return np.repeat([1, 0], [len(inside), len(outside)]), np.concatenate([inside, outside])


KINDS = ["different", "ties", "saturated"]


@pytest.mark.parametrize("kind", KINDS)
def test_auroc_is_that_of_sklearn(kind):
    assert auroc(*scores(kind)) == pytest.approx(roc_auc_score(*joined(*scores(kind))), rel=1e-12)


@pytest.mark.parametrize("kind", KINDS)
def test_aupr_is_the_average_precision_of_sklearn(kind):
    labels, values = joined(*scores(kind))
    assert aupr(*scores(kind), positive="in") == pytest.approx(average_precision_score(labels, values), rel=1e-12)
    assert aupr(*scores(kind), positive="out") == pytest.approx(average_precision_score(1 - labels, -values), rel=1e-12)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("tpr", [0.05, 0.5, 0.95, 0.999, 1.0])
def test_fpr_is_the_first_point_of_sklearns_curve_that_keeps_enough(kind, tpr):
    false_rates, true_rates, _ = roc_curve(*joined(*scores(kind)), drop_intermediate=False)
    assert fpr_at_tpr(*scores(kind), tpr=tpr) == false_rates[np.argmax(true_rates >= tpr)]


@pytest.mark.parametrize("kind", KINDS)
def test_only_the_order_of_the_scores_matters(kind):
    inside, outside = scores(kind)
    for of in (auroc, fpr_at_tpr, lambda i, o: aupr(i, o, "in"), lambda i, o: aupr(i, o, "out")):
        assert of(np.exp(inside)[::-1], np.exp(outside)) == of(inside, outside)


def test_swapping_the_sets_mirrors_auroc():
    inside, outside = scores("ties")
    assert auroc(outside, inside) == pytest.approx(1 - auroc(inside, outside), rel=1e-12)


def test_separated_scores_are_perfect_and_equal_ones_chance():
    inside, outside = [0.8, 0.9], [0.1, 0.2, 0.3]
    assert (auroc(inside, outside), aupr(inside, outside, "in"), aupr(inside, outside, "out")) == (1, 1, 1)
    assert fpr_at_tpr(inside, outside) == 0
    same = [0.5] * 2, [0.5] * 3
    assert (auroc(*same), aupr(*same, "in"), aupr(*same, "out")) == (0.5, 2 / 5, 3 / 5)
    assert fpr_at_tpr(*same) == 1


def test_exactly_the_wanted_share_is_kept():
    inside = np.arange(1, 21)
    assert fpr_at_tpr(inside, np.arange(0, 21), tpr=0.95) == 19 / 21
    assert fpr_at_tpr(inside, np.arange(0, 21), tpr=0.951) == 20 / 21


@pytest.mark.parametrize("of", [auroc, fpr_at_tpr, lambda i, o: aupr(i, o, "in")])
@pytest.mark.parametrize("wrong", [[], [0.5, float("nan")], [float("inf")], [[0.5]], 0.5])
def test_scores_that_cannot_be_ordered_are_refused(of, wrong):
    with pytest.raises(ValueError, match="in_scores"):
        of(wrong, [0.5])
    with pytest.raises(ValueError, match="out_scores"):
        of([0.5], wrong)


@pytest.mark.parametrize("tpr", [0.0, 1.01, float("nan")])
def test_a_share_that_is_none_is_refused(tpr):
    with pytest.raises(ValueError, match="tpr is"):
        fpr_at_tpr([0.5], [0.5], tpr=tpr)


def test_an_unknown_positive_is_refused():
    with pytest.raises(ValueError, match="choose 'in' or 'out'"):
        aupr([0.5], [0.5], positive="ood")
