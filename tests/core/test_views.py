"""AugMix on batches: laws of the views and of the plans."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from augmix_core import AugMixConfig, augmix
from augmix_core.backends import MAX_DEPTH, MAX_WIDTH
from augmix_core.philox import Purpose, words
from augmix_core.plan import OpCall, ViewPlan, draw_log_gamma, draw_plans, exp, log
from augmix_core.reference import augmented_view, q15_weights
from tests.conftest import natural

IDS = np.array([3, 2**40, 0, 77, 12])


def test_view_0_is_the_clean_image(images):
    views = augmix(images, IDS)
    assert views.shape == (5, 3, 24, 40, 3)
    assert (views[:, 0] == images).all()
    assert (views[:, 1:] != images[:, None]).any()


def test_views_do_not_depend_on_the_batch_or_its_order(images):
    whole = augmix(images, IDS, epoch=4, seed=9)
    order = np.array([4, 1, 3, 0, 2])
    assert (augmix(images[order], IDS[order], epoch=4, seed=9) == whole[order]).all()
    for n in range(len(IDS)):
        assert (augmix(images[n : n + 1], IDS[n : n + 1], epoch=4, seed=9)[0] == whole[n]).all()


def test_a_batch_may_straddle_epochs(images):
    epochs = np.array([0, 0, 1, 1, 2])
    mixed = augmix(images, IDS, epoch=epochs)
    for n, epoch in enumerate(epochs):
        assert (mixed[n] == augmix(images[n : n + 1], IDS[n : n + 1], epoch=epoch)[0]).all()


def test_seed_epoch_sample_and_view_each_change_the_pixels(image):
    def view(sample_id=1, epoch=0, seed=0, at=1):
        return augmix(image[None], [sample_id], epoch=epoch, seed=seed)[0, at].tobytes()

    assert len({view(), view(sample_id=2), view(epoch=1), view(seed=1), view(at=2)}) == 5


def test_the_inputs_are_only_read(images):
    images.setflags(write=False)
    before = images.copy()
    augmix(images[:, ::-1, ::-1], IDS)  # not contiguous either
    assert (images == before).all()


def test_identity_ops_and_any_weights_return_the_clean_image(image):
    chain = (OpCall("rotate", 0), OpCall("posterize", 8), OpCall("translate_x", 0))
    plan = ViewPlan(chains=(chain, chain), mixture_weights=(0.123, 0.877), skip_weight=0.3141)
    assert (augmented_view(image, plan, fill=0) == image).all()


def test_mixing_is_at_most_one_level_from_floats():
    images = natural(3, 32, 32)
    config = AugMixConfig()
    plans = draw_plans([0, 1, 2], epoch=0, seed=0, config=config, image_size=(32, 32))
    for image, (plan, _) in zip(images, plans, strict=True):
        mixed = np.zeros(image.shape)
        for weight, chain in zip(plan.mixture_weights, plan.chains, strict=True):
            alone = augmented_view(image, ViewPlan((chain,), (1.0,), 0.0), fill=0)
            mixed += weight * alone
        mixed = plan.skip_weight * image + (1 - plan.skip_weight) * mixed
        assert np.abs(augmented_view(image, plan, fill=0) - np.rint(mixed)).max() <= 1


@given(st.floats(0, 1), st.lists(st.floats(0.001, 1), min_size=1, max_size=8))
def test_q15_weights_sum_to_one_and_round_by_less_than_one_unit(skip, parts):
    mixture = tuple(part / sum(parts) for part in parts)
    weights = q15_weights(skip, mixture)
    assert sum(weights) == 32768
    exact = [skip, *((1 - skip) * weight for weight in mixture)]
    assert all(abs(w - 32768 * e) < 1 for w, e in zip(weights, exact, strict=True))


def test_ties_of_the_largest_remainder_go_to_the_smaller_index():
    assert q15_weights(0.0, (1 / 3, 1 / 3, 1 / 3)) == [0, 10923, 10923, 10922]


@settings(max_examples=30, deadline=None)
@given(
    st.integers(1, MAX_WIDTH),
    st.sampled_from([-1, *range(1, MAX_DEPTH + 1)]),
    st.floats(0.1, 10),
    st.floats(0.01, 1000),
    st.sampled_from(["standard", "all"]),
    st.integers(0, 2**62),
)
def test_plans_keep_the_config_for_every_value_of_it(width, depth, aug_severity, alpha, ops, sample_id):
    config = AugMixConfig(width=width, depth=depth, aug_severity=aug_severity, alpha=alpha, ops=ops, views=2)
    ((plan,),) = draw_plans([sample_id], epoch=1, seed=2, config=config, image_size=(24, 40))
    assert len(plan.chains) == len(plan.mixture_weights) == width
    assert all(len(chain) in ((1, 2, 3) if depth == -1 else (depth,)) for chain in plan.chains)
    assert math.isclose(sum(plan.mixture_weights), 1, abs_tol=1e-9)
    assert all(0 <= weight <= 1 for weight in (*plan.mixture_weights, plan.skip_weight))
    augmented_view(natural(1, 24, 40)[0], plan, fill=0)


@pytest.mark.parametrize("alpha", [0.05, 0.3, 1.0, 4.0, 50.0])
def test_weights_follow_dirichlet_and_beta(alpha):
    """Mean and variance of 4,000 draws within five standard errors of the distributions' own."""
    config = AugMixConfig(alpha=alpha, views=2)
    plans = [plan for (plan,) in draw_plans(np.arange(4000), epoch=0, seed=0, config=config, image_size=(8, 8))]
    mixture = np.array([plan.mixture_weights for plan in plans])
    skip = np.array([plan.skip_weight for plan in plans])
    for drawn, share, total in ((mixture, 1 / 3, 3 * alpha), (skip[:, None], 1 / 2, 2 * alpha)):
        variance = share * (1 - share) / (total + 1)
        assert np.abs(drawn.mean(axis=0) - share).max() < 5 * np.sqrt(variance / 4000)
        assert np.abs(drawn.var(axis=0) / variance - 1).max() < 0.15


@pytest.mark.parametrize("alpha", [0.01, 0.3, 2.0, 1000.0])
def test_gamma_variates_follow_their_distribution(alpha):
    """Kolmogorov-Smirnov against SciPy on 5,000 draws."""
    stats = pytest.importorskip("scipy.stats")
    ids = np.arange(5000)

    def draw(blocks):
        drawn = words(ids[:, None], seed=0, purpose=Purpose.PLAN, block=list(blocks))
        return drawn.reshape(len(ids), -1)

    assert stats.kstest(draw_log_gamma(draw, 0, alpha), stats.loggamma(alpha).cdf).pvalue > 0.001


def test_ops_signs_depths_and_levels_are_uniform():
    config = AugMixConfig(views=2, aug_severity=10.0)
    plans = [plan for (plan,) in draw_plans(np.arange(3000), epoch=0, seed=3, config=config, image_size=(900, 900))]
    chains = [chain for plan in plans for chain in plan.chains]
    calls = [call for chain in chains for call in chain]
    depths = np.bincount([len(chain) for chain in chains])[1:] / len(chains)
    assert np.abs(depths - 1 / 3).max() < 0.02
    names, counts = np.unique([call.name for call in calls], return_counts=True)
    assert len(names) == 9
    assert np.abs(counts / len(calls) - 1 / 9).max() < 0.012
    shears = np.array([call.magnitude for call in calls if call.name == "shear_x"])
    assert abs((shears < 0).mean() - 0.5) < 0.05
    assert (
        np.abs(np.quantile(np.abs(shears), [0.1, 0.5, 0.9]) - (0.003 + 0.297 * np.array([0.1, 0.5, 0.9]))).max() < 0.02
    )


def test_the_level_is_drawn_per_op_call():
    """A single draw for all chains was a bug of the released code once (5f44213)."""
    config = AugMixConfig(views=2, width=8, depth=8, aug_severity=10.0)
    ((plan,),) = draw_plans([0], epoch=0, seed=0, config=config, image_size=(32, 32))
    shears = [abs(call.magnitude) for chain in plan.chains for call in chain if call.name.startswith("shear")]
    assert len(set(shears)) == len(shears) > 4


def test_log_and_exp_by_plain_arithmetic_are_accurate():
    values = np.concatenate([10.0 ** np.arange(-300, 300, 7), np.linspace(0.01, 20, 500)])
    assert np.allclose(log(values), np.log(values), rtol=1e-14, atol=1e-15)
    negative = -np.linspace(0, 700, 997)
    assert np.allclose(exp(negative), np.exp(negative), rtol=3e-13, atol=0)


def test_golden_stream():
    """Views of stream version 2, those of 1 too. If this must change, raise STREAM_VERSION and say so in CHANGELOG."""
    import hashlib

    from augmix_core import STREAM_VERSION

    ramp = (np.arange(24 * 40 * 3) % 251).astype(np.uint8).reshape(1, 24, 40, 3)
    digests = [
        hashlib.sha256(augmix(ramp, [5], epoch=2, seed=11, config=AugMixConfig(alpha=alpha)).tobytes()).hexdigest()[:16]
        for alpha in (1.0, 0.5)
    ]
    assert (STREAM_VERSION, digests) == (2, GOLDEN)


GOLDEN = ["f292fb840c858a15", "d7b17f4f0a3efe78"]


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("width", 0),
        ("width", 9),
        ("depth", 0),
        ("depth", 9),
        ("depth", -2),
        ("aug_severity", 0.05),
        ("aug_severity", 10.5),
        ("aug_severity", math.nan),
        ("alpha", 0),
        ("alpha", math.inf),
        ("views", 0),
        ("fill", 256),
        ("ops", "al"),
        ("dialect", "tim"),
    ],
)
def test_a_wrong_config_value_is_refused_by_field_and_value(field, value):
    with pytest.raises(ValueError, match=field) as refusal:
        AugMixConfig(**{field: value})
    assert repr(value) in str(refusal.value)


def test_ids_and_epochs_must_match_the_images(images):
    with pytest.raises(ValueError, match="one id for each of the 5 images"):
        augmix(images, [1, 2])
    with pytest.raises(ValueError, match="epoch has shape"):
        augmix(images, IDS, epoch=[1, 2])
    assert augmix(images[:0], np.zeros(0, int)).shape == (0, 3, 24, 40, 3)
