"""Cutout, Mixup and CutMix: their laws, and that nothing but (seed, epoch, sample id) decides."""

import numpy as np
import pytest

from augmix_core.patches import cutmix, cutout, mixup
from tests.conftest import natural

MANY = 4000
KEY = {"epoch": 3, "seed": 5}


def pairs(count, height=8, width=12):
    """Black images and white partners: what is white came from the partner."""
    shape = (count, height, width, 3)
    return np.zeros(shape, np.uint8), np.full(shape, 255, np.uint8), np.arange(count)


def applied(name, images, partners, ids, **key):
    if name == "cutout":
        return cutout(images, ids, size=6, fill=(1, 2, 3), **key)
    if name == "mixup":
        return mixup(images, partners, ids, alpha=2.0, **key)[0]
    return cutmix(images, partners, ids, alpha=1.0, probability=1.0, **key)[0]


@pytest.mark.parametrize("name", ["cutout", "mixup", "cutmix"])
def test_a_result_is_a_function_of_seed_epoch_and_sample_alone(name):
    images, partners, ids = natural(6, 8, 12), natural(6, 8, 12)[::-1], np.array([3, 9, 4, 0, 7, 2**40])
    together = applied(name, images, partners, ids, **KEY)
    order = [4, 2, 5, 0]
    assert (applied(name, images[order], partners[order], ids[order], **KEY) == together[order]).all()
    epochs = np.array([3, 3, 0, 3, 3, 1])
    mixed_epochs = applied(name, images, partners, ids, epoch=epochs, seed=5)
    assert [bool((a == b).all()) for a, b in zip(mixed_epochs, together, strict=True)] == (epochs == 3).tolist()
    assert not (applied(name, images, partners, ids, epoch=3, seed=6) == together).all()


def test_a_hole_has_the_mean_area_that_centres_uniform_over_the_pixels_give():
    images, _, ids = pairs(MANY)
    holes = (cutout(images, ids, size=6, fill=(255, 255, 255), **KEY) == 255).all(axis=3)

    def mean_side(length):
        return np.mean([min(centre + 3, length) - max(centre - 3, 0) for centre in range(length)])

    assert holes.mean(axis=0).max() < 1 and holes.any(axis=0).all()
    assert holes.sum(axis=(1, 2)).mean() == pytest.approx(mean_side(8) * mean_side(12), rel=0.02)
    assert holes.sum(axis=(1, 2)).max() == 36  # whole ones, and never more than one


def test_a_hole_is_one_box_of_the_fill_and_the_rest_is_untouched(images):
    cut = cutout(images, np.arange(5), size=7, fill=(1, 2, 3), **KEY)
    for before, after in zip(images, cut, strict=True):
        rows, columns = np.nonzero((before != after).any(axis=2))
        box = after[rows.min() : rows.max() + 1, columns.min() : columns.max() + 1]
        assert (box == (1, 2, 3)).all() and max(box.shape[:2]) <= 7


@pytest.mark.parametrize("alpha", [0.2, 1.0, 4.0])
def test_shares_of_mixup_follow_their_beta_law(alpha):
    images, partners, ids = pairs(MANY, 1, 1)
    mixed, share = mixup(images, partners, ids, alpha=alpha, **KEY)
    assert ((share >= 0) & (share <= 1)).all() and share.dtype == np.float32
    assert share.mean() == pytest.approx(0.5, abs=0.03)
    assert share.var() == pytest.approx(1 / (4 * (2 * alpha + 1)), rel=0.08)  # of Beta(alpha, alpha)
    assert (np.abs(mixed[:, 0, 0, 0] - 255 * (1 - share.astype(np.float64))) <= 0.5 + 1e-4).all()


def test_a_sample_mixed_with_itself_stays_as_it_is(images):
    for mixed, _ in (
        mixup(images, images, np.arange(5), alpha=1.0, **KEY),
        cutmix(images, images, np.arange(5), alpha=1.0, probability=1.0, **KEY),
    ):
        assert (mixed == images).all()


@pytest.mark.parametrize("probability", [0.0, 0.5, 1.0])
def test_the_share_of_cutmix_is_the_part_of_the_image_that_is_its_own(probability):
    images, partners, ids = pairs(MANY, 16, 24)
    mixed, share = cutmix(images, partners, ids, alpha=1.0, probability=probability, **KEY)
    own = (mixed[..., 0] == 0).mean(axis=(1, 2))
    assert np.allclose(own, share, atol=1e-6)
    assert (share < 1).mean() == pytest.approx(probability, abs=0.03)  # a box of no pixel at all is rare


def test_boxes_of_cutmix_have_the_area_of_their_beta_law_where_the_border_does_not_cut_them():
    """alpha 1: before the border cuts, 1 - share is uniform, so half of the area on average; the border takes some."""
    images, partners, ids = pairs(MANY, 40, 40)
    _, share = cutmix(images, partners, ids, alpha=1.0, probability=1.0, **KEY)

    def mean_side(side):
        return np.mean([min(c - side // 2 + side, 40) - max(c - side // 2, 0) for c in range(40)])

    lambdas = (np.arange(500) + 0.5) / 500
    expected = np.mean([mean_side(int(np.sqrt(1 - own) * 40)) ** 2 for own in lambdas]) / 40**2
    assert (1 - share).mean() == pytest.approx(expected, rel=0.04)
