"""Corruptions: laws, and agreement with plain implementations where the definition is deterministic."""

import colorsys
import io

import numpy as np
import pytest
from PIL import Image
from scipy import ndimage

from augmix_core import CORRUPTIONS, EXTRA_CORRUPTIONS, corrupt
from augmix_core.corruptions import STREAM
from augmix_core.corruptions.blur import displaced, motion_blur
from augmix_core.corruptions.digital import elastic_transform, reencoded
from augmix_core.corruptions.draws import Draws
from augmix_core.corruptions.noise import alias_table, gaussian_law, impulse_law, shot_law, speckle_law
from augmix_core.corruptions.severity import TABLES
from tests.conftest import natural

ALL = CORRUPTIONS + EXTRA_CORRUPTIONS
IDS = np.array([3, 2**40, 0, 77, 12])


def test_the_search_never_sees_a_test_corruption():
    assert not set(CORRUPTIONS) & set(EXTRA_CORRUPTIONS)
    assert all(set(table) == set(ALL) for table in TABLES.values())


def test_the_15_and_the_4_stand_in_the_benchmarks_order():
    assert tuple(STREAM) == ALL
    assert len(CORRUPTIONS) == 15
    assert all(tuple(table) == ALL for table in TABLES.values())


@pytest.mark.parametrize("name", ALL)
def test_pixels_depend_on_seed_id_and_severity_but_not_on_the_batch(name, images):
    whole = corrupt(images, name, severity=3, sample_ids=IDS, seed=5)
    assert whole.shape == images.shape
    assert whole.dtype == np.uint8
    order = [4, 0, 2]
    assert (corrupt(images[order], name, severity=3, sample_ids=IDS[order], seed=5) == whole[order]).all()
    assert (corrupt(images, name, severity=4, sample_ids=IDS, seed=5) != whole).any()


DETERMINISTIC = ("defocus_blur", "zoom_blur", "brightness", "contrast", "pixelate", "jpeg_compression")
DETERMINISTIC += ("gaussian_blur", "saturate")


@pytest.mark.parametrize("name", sorted(set(ALL) - set(DETERMINISTIC)))
def test_what_is_drawn_changes_with_the_id_and_the_seed(name, image):
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
        "defocus_blur": plain_defocus,
        "zoom_blur": plain_zoom,
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


def by_channel(image, change):
    """Truncated float64 results for each channel of the image in [0, 1]."""
    return truncated(np.stack([change(image[..., c] / 255) for c in range(3)], axis=2))


def plain_blur(image, sigma):
    return by_channel(image, lambda plane: ndimage.gaussian_filter(plane, sigma, mode="nearest"))


def plain_defocus(image, radius_and_alias):
    radius, alias = radius_and_alias
    far = max(radius, 8)
    y, x = np.mgrid[-far : far + 1, -far : far + 1]
    disk = (x**2 + y**2 <= radius**2).astype(float)
    disk = ndimage.gaussian_filter(disk / disk.sum(), alias, mode="mirror", radius=1 if radius <= 8 else 2)
    return by_channel(image, lambda plane: ndimage.correlate(plane, disk, mode="mirror"))


def plain_zoom(image, stop_and_step):
    height, width = image.shape[:2]

    def blurred(plane):
        total = plane.copy()
        factors = np.arange(1, *stop_and_step)
        for factor in factors:
            rows, columns = (int(np.ceil(side / factor)) for side in (height, width))
            top, left = (height - rows) // 2, (width - columns) // 2
            zoomed = ndimage.zoom(plane[top : top + rows, left : left + columns], factor, order=1)
            top, left = (zoomed.shape[0] - height) // 2, (zoomed.shape[1] - width) // 2
            total += zoomed[top : top + height, left : left + width]
        return total / (len(factors) + 1)

    return by_channel(image, blurred)


@pytest.mark.parametrize("table", TABLES)
@pytest.mark.parametrize("severity", range(1, 6))
def test_motion_blur_is_half_a_gaussian_along_a_drawn_angle(table, severity):
    (image,) = natural(1, 32, 40)
    radius, sigma = TABLES[table]["motion_blur"][severity - 1]
    angle = np.deg2rad(Draws(5).uniform(1, low=-45, high=45)[0])
    far = 2 * int(np.ceil(radius))
    kernel = np.zeros((2 * far + 1, 2 * far + 1))
    for step in range(far + 1):
        down, right = np.ceil(step * np.sin(angle) - 0.5), np.ceil(step * np.cos(angle) - 0.5)
        kernel[far + int(down), far + int(right)] += np.exp(-(step**2) / (2 * sigma**2))
    kernel /= kernel.sum()
    wanted = by_channel(image, lambda plane: ndimage.correlate(plane, kernel, mode="nearest")).astype(int)
    assert np.abs(motion_blur(image, (radius, sigma), Draws(5), None) - wanted).max() <= 1


@pytest.mark.parametrize("table", TABLES)
@pytest.mark.parametrize("severity", range(1, 6))
def test_elastic_transform_is_a_drawn_plane_and_a_drawn_field(table, severity):
    (image,) = natural(1, 32, 40)
    scale, sigma, reach = TABLES[table]["elastic_transform"][severity - 1]
    draws = Draws(5)
    points = np.array([[20 + 10, 16 + 10], [20 + 10, 16 - 10], [20 - 10, 16 - 10]])
    moved = points + draws.uniform(3, 2, low=-reach, high=reach)
    matrix = np.linalg.solve(np.column_stack([moved, np.ones(3)]), points)  # rows: x, y, 1
    y, x = np.mgrid[0:32, 0:40]
    plane_x, plane_y = np.moveaxis(np.stack([x, y, np.ones_like(x)], axis=-1) @ matrix, -1, 0)
    field_x, field_y = (
        scale * (ndimage.gaussian_filter(noise, sigma, mode="reflect", truncate=3) if sigma else noise)
        for noise in draws.words(2 * 32 * 40).view(np.int32).reshape(2, 32, 40) / 2**31
    )

    def deformed(plane):
        warped = ndimage.map_coordinates(plane, [plane_y, plane_x], order=1, mode="mirror")
        return ndimage.map_coordinates(warped, [y + field_y, x + field_x], order=1, mode="reflect")

    wanted = by_channel(image, deformed).astype(int)
    assert np.abs(elastic_transform(image, (scale, sigma, reach), Draws(5), None) - wanted).max() <= 1


def test_elastic_transform_that_moves_nothing_is_the_identity(image):
    assert (elastic_transform(image, (0, 0, 0), Draws(5), None) == image).all()


@pytest.mark.parametrize(("reach", "passes"), [(1, 1), (1, 2), (2, 3), (4, 2)])
def test_glass_swaps_views_of_pixels_one_after_the_other(reach, passes, image):
    """Swapping two views of one array, as the published generator does, copies the second to the first."""
    found = displaced(image, reach, passes, Draws(5), None)
    words = iter(Draws(5).words(passes * (24 - 2 * reach) * (40 - 2 * reach)).tolist())
    for _ in range(passes):
        for y in range(24 - reach, reach, -1):
            for x in range(40 - reach, reach, -1):
                word = next(words)
                dx, dy = ((half * 2 * reach >> 16) - reach for half in (word & 0xFFFF, word >> 16))
                image[y, x], image[y + dy, x + dx] = image[y + dy, x + dx], image[y, x]
    assert next(words, None) is None
    assert (found == image).all()


def test_glass_leaves_an_image_alone_that_is_all_margin():
    (image,) = natural(1, 8, 40)
    assert (displaced(image, 4, 2, Draws(5), None) == image).all()


LAWS = {
    "gaussian_noise": (gaussian_law, lambda unit, sigma, rng: unit + rng.normal(scale=sigma, size=unit.shape)),
    "shot_noise": (shot_law, lambda unit, photons, rng: rng.poisson(unit * photons) / photons),
    "impulse_noise": (
        impulse_law,
        lambda unit, share, rng: np.where(rng.random(unit.shape) < share, rng.random(unit.shape) < 0.5, unit),
    ),
    "speckle_noise": (speckle_law, lambda unit, sigma, rng: unit + unit * rng.normal(scale=sigma, size=unit.shape)),
}


@pytest.mark.parametrize("name", LAWS)
@pytest.mark.parametrize("severity", [1, 5])
def test_noise_has_the_law_of_the_published_generator(name, severity):
    law, generate = LAWS[name]
    strength = TABLES["224"][name][severity - 1]
    levels = np.array([0, 1, 40, 127, 200, 255])
    unit = np.broadcast_to(levels[:, None] / 255, (6, 100_000))
    drawn = truncated(generate(unit, strength, np.random.default_rng(5)))
    empirical = np.stack([np.bincount(row, minlength=256).cumsum() / unit.shape[1] for row in drawn])
    assert np.abs(law(strength)[levels] - empirical).max() < 0.006  # the 0.1 % point of Kolmogorov's statistic


@pytest.mark.parametrize("name", LAWS)
@pytest.mark.parametrize("table", TABLES)
def test_the_tables_that_noise_is_drawn_from_hold_its_law(name, table):
    law = LAWS[name][0]
    for strength in TABLES[table][name]:
        entries = alias_table(law, strength).astype(np.int64)
        own, alias = entries >> 8, entries & 255
        own[alias == np.arange(256)] = 2**24
        chances = own.astype(float)
        np.add.at(chances, (np.arange(256)[:, None], alias), 2**24 - own)
        assert np.abs(chances.cumsum(axis=1) / 2**32 - law(strength)).max() <= 2**-24


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


def test_drawn_normals_are_standard():
    drawn = Draws(5).normal(400, 500, mean=3, std=2)
    assert drawn.mean() == pytest.approx(3, abs=0.02)
    assert drawn.std() == pytest.approx(2, rel=0.01)
    assert np.abs((drawn - 3) / 2).max() < 4.5


def test_reencoding_is_a_jpeg_of_quality_85(images):
    again = reencoded(images)
    for image, found in zip(images, again, strict=True):
        buffer = io.BytesIO()
        Image.fromarray(image).save(buffer, "JPEG", quality=85, optimize=True)
        assert (np.asarray(Image.open(buffer)) == found).all()
    assert again.shape == images.shape
    assert (again != images).any()
    assert reencoded(images[:0]).shape == (0, 24, 40, 3)


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
