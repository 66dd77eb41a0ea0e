"""The corruptions' compiled kernels: the bits of their NumPy twins, whatever the size; and SciPy's values.

What a processor cannot run is skipped, by name.
"""

import functools
import hashlib

import numpy as np
import pytest
from scipy import ndimage

from augmix_core import CORRUPTIONS, EXTRA_CORRUPTIONS, backends, corrupt
from augmix_core.corruptions import filters
from augmix_core.corruptions.draws import Draws
from augmix_core.corruptions.noise import draw_levels
from augmix_core.corruptions.severity import TABLES
from tests.conftest import BACKENDS, VARIANTS, natural, skip_unless_it_runs

SHAPES = [(24, 40, 3), (33, 17), (9, 50, 1), (1, 1), (1, 30, 3), (2, 3, 5), (49, 48)]
MODES = ["nearest", "reflect", "mirror"]


@pytest.fixture(params=VARIANTS)
def variant(request):
    skip_unless_it_runs(request.param)
    return request.param


@pytest.fixture(params=BACKENDS)
def any_variant(request):
    """A compiled variant, or None for NumPy."""
    skip_unless_it_runs(request.param)
    return backends.variant_of(request.param)


def noise(shape):
    return np.random.default_rng(7).uniform(-50, 200, shape).astype(np.float32)


@functools.cache
def by_numpy(name, size, severity, table):
    return corrupt(natural(2, *size), name, severity=severity, sample_ids=[3, 4], table=table, backend="reference")


@pytest.mark.parametrize("name", CORRUPTIONS + EXTRA_CORRUPTIONS)
@pytest.mark.parametrize("size", [(8, 8), (24, 40), (33, 17)])
def test_every_corruption_has_the_pixels_of_numpy(name, size, variant):
    for table in TABLES:
        for severity in range(1, 6):
            found = corrupt(natural(2, *size), name, severity=severity, sample_ids=[3, 4], table=table, backend=variant)
            assert (found == by_numpy(name, size, severity, table)).all(), (table, severity)


@pytest.mark.parametrize("name", CORRUPTIONS + EXTRA_CORRUPTIONS)
def test_every_corruption_has_the_pixels_of_numpy_at_full_size(name, variant):
    for severity in (1, 2, 5):
        found = corrupt(natural(2, 224, 224), name, severity=severity, sample_ids=[3, 4], backend=variant)
        assert (found == by_numpy(name, (224, 224), severity, "auto")).all(), severity


def test_pixels_are_the_same_on_every_machine(any_variant):
    """Digests made on x86-64. They change with STREAM_VERSION, and never otherwise.

    Pillow's own pixelate and jpeg_compression are left out.
    """
    random = Draws(5).words(37 * 65).view(np.uint8)[: 37 * 65 * 3].reshape(1, 37, 65, 3)
    images = np.concatenate([random, np.sort(random, axis=1)])
    found = {}
    for name in DIGESTS:
        digest = hashlib.sha256()
        for severity in range(1, 6):
            law = {"severity": severity, "sample_ids": [1, 2], "seed": 3, "table": "224"}
            digest.update(corrupt(images, name, **law, backend=any_variant or "reference"))
        found[name] = digest.hexdigest()[:8]
    assert found == DIGESTS


DIGESTS = {
    "gaussian_noise": "32627b89",
    "shot_noise": "0f921335",
    "impulse_noise": "184a719a",
    "defocus_blur": "72932840",
    "glass_blur": "43e9d388",
    "motion_blur": "725bd706",
    "zoom_blur": "dca7eebe",
    "brightness": "58e961cf",
    "contrast": "af1ae4ff",
    "elastic_transform": "152faab1",
    "speckle_noise": "4065bd38",
    "gaussian_blur": "b32e2786",
    "saturate": "a1ddea53",
}


@pytest.mark.parametrize("count", [0, 1, 3, 4, 191, 192, 193, 5000])
def test_words_are_those_of_numpy(count, variant):
    compiled, plain = Draws(2**64 - 5, variant), Draws(2**64 - 5)
    for _ in range(2):
        assert (compiled.words(count) == plain.words(count)).all()
        assert compiled.block == plain.block


class Given:
    """Words that are not drawn."""

    def __init__(self, words):
        self.words = lambda count: np.array(words, np.uint32)


def test_a_word_below_an_entrys_threshold_names_the_level_and_any_other_the_alias(any_variant):
    table = np.zeros((256, 256), np.uint32)
    table[9, 200] = 1000 << 8 | 77
    drawn = Given([999 << 8 | 200, 1000 << 8 | 200, 2**32 - 1 - 55])
    levels = np.array([[[9, 9, 9]]], np.uint8)
    assert draw_levels(levels, table, drawn, any_variant).tolist() == [[[200, 77, 77]]]


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("mode", MODES)
def test_filters_have_the_bits_of_numpy(shape, mode, variant):
    image = noise(shape)
    rng = np.random.default_rng(7)
    taps = filters.Taps(rng.integers(-60, 60, (11, 2)).astype(np.int32), rng.normal(size=11).astype(np.float32))
    y, x = rng.uniform(-200, 200, (2, *shape[:2])).astype(np.float32)
    for run in (
        lambda by: filters.correlate(image, taps, mode, by),
        lambda by: filters.gaussian(image, 0.7, by, mode=mode),
        lambda by: filters.gaussian(image, 40.0, by, truncate=3.0, mode=mode),
        lambda by: filters.sample(image, y, x, mode, by),
        lambda by: filters.motion(image, 10, 4, 200.0, by),
        lambda by: filters.clipped_zoom(image, 2.5, by),
        lambda by: filters.sum_of_zooms(image, (1.0, 1.01, 1.3), by),
        lambda by: filters.correlate(image[::-1, ::-1], taps, mode, by),
    ):
        assert (run(variant) == run(None)).all()


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("mode", MODES)
def test_filters_are_scipys(shape, mode, any_variant):
    image, across = noise(shape), len(shape) - 2
    wide = image.astype(float)
    for sigma, truncate in ((0.05, 4.0), (0.7, 4.0), (6.0, 4.0), (40.0, 3.0)):
        wanted = ndimage.gaussian_filter(wide, (sigma, sigma, 0)[: 2 + across], mode=mode, truncate=truncate)
        found = filters.gaussian(image, sigma, any_variant, truncate=truncate, mode=mode)
        np.testing.assert_allclose(found, wanted, atol=1e-3)
    y, x = np.random.default_rng(7).uniform(-200, 200, (2, *shape[:2])).astype(np.float32)
    planes = wide.reshape(*shape[:2], -1)
    wanted = [ndimage.map_coordinates(planes[..., c], [y, x], order=1, mode=mode) for c in range(planes.shape[2])]
    found = filters.sample(image, y, x, mode, any_variant)
    np.testing.assert_allclose(found, np.stack(wanted, axis=-1).reshape(shape), atol=1e-2)


@pytest.mark.parametrize("factor", [1, 1.07, 1.25, 3])
def test_the_zoom_is_scipys_of_the_centre(factor, any_variant):
    image = noise((24, 40, 3))
    rows, columns = int(np.ceil(24 / factor)), int(np.ceil(40 / factor))
    top, left = (24 - rows) // 2, (40 - columns) // 2
    crop = image[top : top + rows, left : left + columns].astype(float)
    zoomed = ndimage.zoom(crop, (factor, factor, 1), order=1)
    top, left = (zoomed.shape[0] - 24) // 2, (zoomed.shape[1] - 40) // 2
    found = filters.clipped_zoom(image, factor, any_variant)
    np.testing.assert_allclose(found, zoomed[top : top + 24, left : left + 40], atol=1e-3)


def test_products_of_matrices_are_numpys(any_variant):
    left, right = noise((7, 60)), noise((60, 101))
    np.testing.assert_allclose(filters.multiply(left, right, any_variant), left.astype(float) @ right, rtol=1e-4)


@pytest.mark.parametrize("relayout", [lambda i: i[:, ::-1, ::2], np.asfortranarray], ids=["strided", "fortran"])
def test_any_memory_layout_of_the_images_works(relayout, images, any_variant):
    given = relayout(images)
    for name in CORRUPTIONS + EXTRA_CORRUPTIONS:
        law = {"name": name, "severity": 3, "sample_ids": range(5), "backend": any_variant or "reference"}
        assert (corrupt(given, **law) == corrupt(given.copy(order="C"), **law)).all(), name


def bad_calls():
    """(method, arguments, what is said), each wrong in one thing."""
    image, target = np.zeros((4, 5, 3), np.float32), np.zeros((4, 5, 3), np.float32)
    levels, small = np.zeros((4, 5, 3), np.uint8), np.zeros(59, np.uint8)
    taps, weights = np.zeros((1, 2), np.int32), np.ones(1, np.float32)
    plane, words = np.zeros((4, 5), np.float32), np.zeros(60, np.uint32)
    table = np.zeros((256, 256), np.uint32)
    rows, columns = np.zeros((1, 4), np.int32), np.zeros((1, 5), np.int32)
    across, down = np.zeros((1, 5), np.float32), np.zeros((1, 4), np.float32)
    return [
        ("draw_words", (np.zeros(5, np.uint8), 0, 0, 0), "uint32"),
        ("draw_words", (words, 0, -1, 0), "first 2"),
        ("draw_words", (words, 0, 2**32 - 5, 0), "first 2"),
        ("draw_levels", (levels, words[1:], table, levels.copy(), 0), "of the same number"),
        ("draw_levels", (levels, words, table[1:], levels.copy(), 0), "256 x 256"),
        ("draw_levels", (levels, words, table, small, 0), "of the same number"),
        ("displace", (levels, words[:5], 4, 5, 1, 1), "one uint32 word"),
        ("displace", (levels, words[:6], 5, 5, 1, 1), "one uint32 word"),
        ("displace", (levels, words[:0], 4, 5, 0, 1), "reach or passes"),
        ("sum_channels", (small, 0), "three channels"),
        ("look_up", (levels, table.view(np.uint8), levels.copy()), "uint8"),
        ("look_up", (levels, np.zeros(768, np.uint8), small), "uint8"),
        ("correlate", (image, target, 4, 4, 3, taps, weights, 0, 0), "channels"),
        ("correlate", (image, plane, 4, 5, 3, taps, weights, 0, 0), "channels"),
        ("correlate", (image, target, 4, 5, 0, taps, weights, 0, 0), "channels"),
        ("correlate", (image, target, 4, 5, 3, taps, weights, 3, 0), "mode"),
        ("correlate", (image, target, 4, 5, 3, taps, weights[:0], 0, 0), "at least 1"),
        ("correlate", (image, target, 4, 5, 3, taps[:, :1].copy(), weights, 0, 0), "at least 1"),
        ("correlate", (image, target, 4, 5, 3, taps + 2**16, weights, 0, 0), "within"),
        ("correlate", (image, target, 4, 5, 3, taps - 2**15, weights, 0, 0), "too far"),
        ("multiply", (plane, plane, plane.copy(), 4, 5, 5, 0), "matrices"),
        ("multiply", (plane, np.zeros((5, 5), np.float32), plane.copy(), 4, 0, 5, 0), "at least 1"),
        ("sum_of_zooms", (image, target, 4, 5, 3, rows + 3, down, columns, across, 0), "before the last"),
        ("sum_of_zooms", (image, target, 4, 5, 3, rows, down, columns - 1, across, 0), "before the last"),
        ("sum_of_zooms", (image, target, 4, 5, 3, rows, across, columns, across, 0), "of that shape"),
        ("sample", (image, target, 4, 5, 3, plane, plane + 2**20, 0), "within"),
        ("sample", (image, target, 4, 5, 3, plane * np.float32("nan"), plane, 0), "within"),
        ("sample", (image, target, 4, 5, 3, plane[:3], plane, 0), "coordinates"),
    ]


@pytest.mark.parametrize(("method", "arguments", "complaint"), bad_calls())
def test_the_module_itself_refuses_what_does_not_fit(method, arguments, complaint):
    skip_unless_it_runs("native")
    with pytest.raises(ValueError, match=complaint):
        getattr(backends.NATIVE, method)(*arguments)
