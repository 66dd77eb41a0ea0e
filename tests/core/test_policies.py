"""AutoAugment and its random counterpart against torchvision's, and their laws."""

import collections

import numpy as np
import pytest
from PIL import Image

from augmix_core.ops import OVERLAPPING_OPS
from augmix_core.policies import (
    CIFAR_POLICY,
    POLICY_OPS,
    PUBLISHED_CIFAR_POLICY,
    SIGNED,
    Call,
    apply_calls,
    draw_autoaugment,
    draw_random_autoaugment,
    magnitude_of_bin,
)
from tests.conftest import natural

NAMES = {
    **{"ShearX": "shear_x", "ShearY": "shear_y", "TranslateX": "translate_x", "TranslateY": "translate_y"},
    **{"AutoContrast": "autocontrast"},
}
THEIR_NAMES = {ours: theirs for theirs, ours in NAMES.items()}
SIZE = (24, 40)


@pytest.fixture(scope="module")
def theirs():
    v2 = pytest.importorskip("torchvision.transforms.v2")
    return v2.AutoAugment(v2.AutoAugmentPolicy.CIFAR10, interpolation=v2.InterpolationMode.BILINEAR)


def test_the_published_policy_is_torchvisions(theirs):
    policies = tuple(
        tuple((NAMES.get(name, name.lower()), probability, magnitude or 0) for name, probability, magnitude in pair)
        for pair in theirs._policies
    )
    assert policies == PUBLISHED_CIFAR_POLICY


@pytest.mark.parametrize("name", POLICY_OPS)
@pytest.mark.parametrize("magnitude_bin", [0, 1, 4, 9])
def test_ops_and_magnitudes_are_torchvisions(theirs, name, magnitude_bin):
    """Shears apart, whose matrices torchvision takes about half a pixel beside ours."""
    their_name = THEIR_NAMES.get(name, name.capitalize())
    law, is_signed = theirs._AUGMENTATION_SPACE[their_name]
    values = law(10, *SIZE)
    magnitude = 0.0 if values is None else float(values[magnitude_bin] if values.ndim else values)
    ours = magnitude_of_bin(name, magnitude_bin, SIZE)
    assert is_signed == (name in SIGNED)
    if name.startswith("shear"):
        assert ours == pytest.approx(magnitude)
        return
    if name.startswith("translate"):
        magnitude = -magnitude  # positive moves the content left here, right there
    image = natural(1, *SIZE)[0]
    expected = theirs._apply_image_or_video_transform(
        Image.fromarray(image), their_name, magnitude, theirs.interpolation, theirs._fill
    )
    assert (apply_calls(image[None], [[Call(name, ours)]])[0] == np.asarray(expected)).all()


def test_no_op_overlaps_the_test_corruptions():
    left = [step for steps in CIFAR_POLICY for step in steps]
    assert not {name for name, _, _ in left} & set(OVERLAPPING_OPS) and not set(POLICY_OPS) & set(OVERLAPPING_OPS)
    published = [step for steps in PUBLISHED_CIFAR_POLICY for step in steps]
    assert left == [step for step in published if step[0] not in OVERLAPPING_OPS] and all(CIFAR_POLICY)


@pytest.mark.parametrize("draw", [draw_autoaugment, draw_random_autoaugment])
def test_calls_are_a_function_of_seed_epoch_sample_and_view_alone(draw):
    ids = np.array([3, 9, 4, 0, 7, 2**40])
    key = {"epoch": 3, "seed": 5, "image_size": SIZE}
    together = draw(ids, **key)
    assert draw(ids[[4, 1]], **key) == [together[4], together[1]]
    assert draw(ids, epoch=np.full(6, 3), seed=5, image_size=SIZE) == together
    others = [draw(ids, **key, view=1), draw(ids, **key | {"seed": 6}), draw(ids, **key | {"epoch": 4})]
    assert all(other != together for other in others)


def test_pairs_of_the_policy_come_equally_often_and_ops_by_their_probability():
    calls = draw_autoaugment(np.arange(20_000), epoch=0, seed=0, image_size=(32, 32))
    found = collections.Counter(call.name for steps in calls for call in steps)
    for name in {name for steps in CIFAR_POLICY for name, _, _ in steps}:
        expected = sum(p for steps in CIFAR_POLICY for n, p, _ in steps if n == name) / len(CIFAR_POLICY)
        assert found[name] / len(calls) == pytest.approx(expected, abs=0.012), name
    signs = [call.magnitude > 0 for steps in calls for call in steps if call.name in SIGNED and call.magnitude]
    assert np.mean(signs) == pytest.approx(0.5, abs=0.02)


def test_the_random_policy_draws_two_ops_and_ten_magnitudes_equally_often():
    calls = draw_random_autoaugment(np.arange(20_000), epoch=0, seed=0, image_size=(32, 32))
    assert {len(steps) for steps in calls} == {2}
    found = collections.Counter(call.name for steps in calls for call in steps)
    assert set(found) == set(POLICY_OPS)
    assert all(count / 40_000 == pytest.approx(0.1, abs=0.01) for count in found.values())
    degrees = collections.Counter(abs(c.magnitude) for steps in calls for c in steps if c.name == "rotate")
    assert len(degrees) == 10 and max(degrees.values()) < 1.3 * min(degrees.values())


def test_without_calls_images_stay_and_the_input_is_never_written(images):
    before = images.copy()
    assert (apply_calls(images, [[]] * 5) == images).all()
    apply_calls(images, [[Call("invert", 0)]] * 5)
    assert (images == before).all()
