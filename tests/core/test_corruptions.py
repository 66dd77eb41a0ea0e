"""Corruptions: laws, and agreement with plain implementations where the definition is deterministic."""

import colorsys
import io

import numpy as np
import pytest
from PIL import Image
from scipy.ndimage import gaussian_filter

from augmix_core import CORRUPTIONS, EXTRA_CORRUPTIONS, corrupt
from augmix_core.corruptions.severity import TABLES
from tests.conftest import natural

ALL = CORRUPTIONS + EXTRA_CORRUPTIONS
IDS = np.array([3, 2**40, 0, 77, 12])


def test_the_search_never_sees_a_test_corruption():
    assert not set(CORRUPTIONS) & set(EXTRA_CORRUPTIONS)
    assert all(set(table) == set(ALL) for table in TABLES.values())


@pytest.mark.parametrize("name", ALL)
def test_pixels_depend_on_seed_id_and_severity_but_not_on_the_batch(name, images):
    whole = corrupt(images, name, severity=3, sample_ids=IDS, seed=5)
    assert whole.shape == images.shape
    assert whole.dtype == np.uint8
    order = [4, 0, 2]
    assert (corrupt(images[order], name, severity=3, sample_ids=IDS[order], seed=5) == whole[order]).all()
    assert (corrupt(images, name, severity=4, sample_ids=IDS, seed=5) != whole).any()


@pytest.mark.parametrize("name", ["gaussian_noise", "shot_noise", "impulse_noise", "speckle_noise"])
def test_noise_changes_with_the_id_and_the_seed(name, image):
    same = np.stack([image, image])
    first, second = corrupt(same, name, severity=3, sample_ids=[1, 2])
    assert (first != second).any()
    assert (corrupt(same, name, severity=3, sample_ids=[1, 2], seed=1)[0] != first).any()


@pytest.mark.parametrize("table", TABLES)
@pytest.mark.parametrize("severity", [1, 3, 5])
def test_deterministic_corruptions_agree_with_plain_implementations(table, severity):
    (image,) = natural(1, 32, 40)
    plain = {
        "contrast": plain_contrast,
        "brightness": plain_brightness,
        "saturate": plain_saturate,
        "pixelate": plain_pixelate,
        "jpeg_compression": plain_jpeg,
        "gaussian_blur": plain_blur,
    }
    for name, implementation in plain.items():
        ours = corrupt(image[None], name, severity=severity, sample_ids=[0], table=table)[0].astype(int)
        wanted = implementation(image, TABLES[table][name][severity - 1]).astype(int)
        assert np.abs(ours - wanted).max() <= 1, name


def truncated(unit):
    return (np.clip(unit, 0, 1) * 255).astype(np.uint8)


def plain_contrast(image, factor):
    unit = image / 255
    mean = unit.mean(axis=(0, 1))
    return truncated((unit - mean) * factor + mean)


def in_hsv(image, change):
    """Pixel by pixel through the standard library's HSV."""
    flat = [colorsys.hsv_to_rgb(*change(*colorsys.rgb_to_hsv(*pixel))) for pixel in (image / 255).reshape(-1, 3)]
    return truncated(np.array(flat).reshape(image.shape))


def plain_brightness(image, shift):
    return in_hsv(image, lambda h, s, v: (h, s, min(1, v + shift)))


def plain_saturate(image, scale_and_shift):
    scale, shift = scale_and_shift
    return in_hsv(image, lambda h, s, v: (h, min(1, max(0, s * scale + shift)), v))


def plain_pixelate(image, share):
    height, width = image.shape[:2]
    small = Image.fromarray(image).resize((int(width * share), int(height * share)), Image.BOX)
    return np.asarray(small.resize((width, height), Image.BOX))


def plain_jpeg(image, quality):
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "JPEG", quality=quality)
    return np.asarray(Image.open(buffer))


def plain_blur(image, sigma):
    return truncated(np.stack([gaussian_filter(image[..., c] / 255, sigma, mode="nearest") for c in range(3)], axis=2))


@pytest.mark.parametrize(
    ("name", "expected"),
    [("gaussian_noise", 0.08 * 255), ("speckle_noise", 0.12 * 127), ("shot_noise", np.sqrt(127 * 2.55))],
)
def test_noise_has_the_strength_of_its_table(name, expected):
    grey = np.full((4, 64, 64, 3), 127, np.uint8)
    noisy = corrupt(grey, name, severity=3, sample_ids=range(4), table="32").astype(float)
    assert noisy.std() == pytest.approx(expected, rel=0.03)


def test_impulse_noise_sets_its_share_to_black_and_white():
    grey = np.full((4, 64, 64, 3), 127, np.uint8)
    noisy = corrupt(grey, "impulse_noise", severity=5, sample_ids=range(4), table="32")
    assert set(np.unique(noisy)) == {0, 127, 255}
    assert (noisy == 0).mean() == pytest.approx(0.035, rel=0.1)
    assert (noisy == 255).mean() == pytest.approx(0.035, rel=0.1)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"name": "gausian_noise"}, "did you mean 'gaussian_noise'"),
        ({"severity": 6}, "severity is 6"),
        ({"severity": 0}, "severity is 0"),
        ({"table": "48"}, "table '48'"),
        ({"sample_ids": [1]}, "one id for each of the 5 images"),
        ({"textures": "/tmp"}, "leave it out"),
    ],
)
def test_wrong_arguments_are_refused(change, message, images):
    arguments = {"name": "contrast", "severity": 1, "sample_ids": IDS} | change
    with pytest.raises(ValueError, match=message):
        corrupt(images, arguments.pop("name"), **arguments)
