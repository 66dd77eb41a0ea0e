"""Other people's AugMix: what a dialect draws is what they draw."""

import math

import numpy as np
import pytest

from augmix_core import AugMixConfig, augmix
from augmix_core.ops import ALL_OPS, OVERLAPPING_OPS, magnitude_of
from augmix_core.plan import draw_plans

SIZE = (224, 300)


def plans_of(count=2000, **config):
    plans = draw_plans(
        np.arange(count), epoch=0, seed=0, config=AugMixConfig(views=2, ops="all", **config), image_size=SIZE
    )
    return [call for (plan,) in plans for chain in plan.chains for call in chain]


def test_torchvision_magnitudes_are_those_of_its_own_tables():
    v2 = pytest.importorskip("torchvision.transforms.v2")
    theirs = v2.AugMix._AUGMENTATION_SPACE
    for name in ALL_OPS:
        magnitudes_of, signed = theirs["AutoContrast" if name == "autocontrast" else name.title().replace("_", "")]
        magnitudes = magnitudes_of(10, *SIZE)
        for level in range(10 if magnitudes is not None else 0):
            wanted = float(magnitudes[level])
            for negative in (False, True):
                ours = magnitude_of(name, level, negative, SIZE, "torchvision")
                signed_wanted = -wanted if signed and negative else wanted
                if name == "solarize":  # they compare levels with a float32 fraction of 255, we with a whole number
                    assert -1e-4 < ours - 255 * wanted < 1
                elif name == "posterize":
                    assert ours == max(1, wanted)
                elif name in ("translate_x", "translate_y"):
                    assert ours == int(signed_wanted)
                else:
                    assert math.isclose(ours, signed_wanted + (name in OVERLAPPING_OPS), rel_tol=1e-6, abs_tol=1e-6)


def test_torchvision_levels_are_the_first_bins():
    """At severity 1 that is bin 0, where geometric ops do nothing."""
    calls = plans_of(dialect="torchvision", aug_severity=1)
    assert all(c.magnitude == 0 for c in calls if c.name.startswith(("rotate", "shear", "translate")))
    shears = {
        round(abs(c.magnitude) / 0.3 * 9)
        for c in plans_of(dialect="torchvision", aug_severity=3)
        if c.name == "shear_x"
    }
    assert shears == {0, 1, 2}


@pytest.mark.parametrize("severity", [0.5, 2.5, 11])
def test_torchvision_severities_count_bins(severity):
    with pytest.raises(ValueError, match=r"augmix.aug_severity is"):
        AugMixConfig(dialect="torchvision", aug_severity=severity)


def test_timm_magnitudes_are_fractional_and_reach_30_percent_of_the_side():
    """timm 1.0.31, _rotate_level_to_arg and its neighbours, by hand."""
    assert magnitude_of("rotate", 2.5, True, SIZE, "timm") == -7.5
    assert magnitude_of("translate_x", 10, False, SIZE, "timm") == pytest.approx(90)
    assert magnitude_of("translate_y", 5, True, SIZE, "timm") == pytest.approx(-33.6)
    assert magnitude_of("posterize", 5, False, SIZE, "timm") == 2
    assert magnitude_of("solarize", 5, False, SIZE, "timm") == 128
    assert magnitude_of("color", 10, True, SIZE, "timm") == pytest.approx(0.1)
    assert magnitude_of("sharpness", 5, False, SIZE, "timm") == pytest.approx(1.45)


def test_timm_levels_start_at_zero_and_official_ones_at_a_tenth():
    def lowest(dialect):
        return min(abs(c.magnitude) for c in plans_of(dialect=dialect) if c.name == "shear_x") / 0.3 * 10

    assert lowest("timm") < 0.05
    assert 0.1 <= lowest("official") < 0.15


def test_the_released_dialect_is_the_official_one_filled_with_128(images):
    config = AugMixConfig(dialect="released", aug_severity=10)
    assert (
        augmix(images, range(5), config=config)
        == augmix(images, range(5), config=AugMixConfig(fill=128, aug_severity=10))
    ).all()
    with pytest.raises(ValueError, match="the dialect 'released' fills with 128"):
        AugMixConfig(dialect="released", fill=7)
