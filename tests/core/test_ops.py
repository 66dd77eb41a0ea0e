"""Ops against Pillow itself, and what they refuse."""

import math
import warnings

import numpy as np
import pytest
from PIL import Image, ImageEnhance, ImageOps

from augmix_core import backends
from augmix_core.ops import ALL_OPS, OVERLAPPING_OPS, STANDARD_OPS, apply_op, magnitude_of
from tests.conftest import needs_exact_pillow

IDENTITIES = {
    "posterize": 8,
    "solarize": 256,
    "rotate": 0,
    "shear_x": 0.0,
    "shear_y": 0.0,
    "translate_x": 0,
    "translate_y": 0,
    "color": 1.0,
    "contrast": 1.0,
    "brightness": 1.0,
    "sharpness": 1.0,
}


@pytest.mark.parametrize("name", IDENTITIES)
def test_identity_magnitudes_return_the_image(name, image):
    assert (apply_op(name, image, IDENTITIES[name]) == image).all()


@needs_exact_pillow
@pytest.mark.parametrize("fill", [0, 128])
def test_every_op_equals_pillow(image, fill):
    pillow, colour = Image.fromarray(image), (fill, fill, fill)

    def affine(*matrix):
        return pillow.transform((40, 24), Image.AFFINE, matrix, resample=Image.BILINEAR, fillcolor=colour)

    expected = {
        ("autocontrast", 0): ImageOps.autocontrast(pillow),
        ("equalize", 0): ImageOps.equalize(pillow),
        ("posterize", 3): ImageOps.posterize(pillow, 3),
        ("solarize", 100): ImageOps.solarize(pillow, 100),
        ("rotate", -7): pillow.rotate(-7, resample=Image.BILINEAR, fillcolor=colour),
        ("shear_x", 0.09): affine(1, 0.09, 0, 0, 1, 0),
        ("shear_y", -0.2): affine(1, 0, 0, -0.2, 1, 0),
        ("translate_x", 5): affine(1, 0, 5, 0, 1, 0),
        ("translate_y", -8): affine(1, 0, 0, 0, 1, -8),
        ("color", 0.3): ImageEnhance.Color(pillow).enhance(0.3),
        ("contrast", 1.7): ImageEnhance.Contrast(pillow).enhance(1.7),
        ("brightness", 0.5): ImageEnhance.Brightness(pillow).enhance(0.5),
        ("sharpness", 1.9): ImageEnhance.Sharpness(pillow).enhance(1.9),
    }
    assert {name for name, _ in expected} == set(ALL_OPS)
    for (name, magnitude), wanted in expected.items():
        assert (apply_op(name, image, magnitude, fill=fill) == np.asarray(wanted)).all(), name


def test_a_positive_translation_moves_the_content_left_and_up(image):
    assert (apply_op("translate_x", image, 5)[:, :-5] == image[:, 5:]).all()
    assert (apply_op("translate_y", image, 3)[:-3] == image[3:]).all()


def test_magnitudes_at_low_levels_are_those_of_the_released_code():
    """At severity 1 levels lie in [0.1, 1): the truncations of int() decide."""
    levels = np.linspace(0.1, 1.0, 200, endpoint=False)
    magnitudes = {name: {magnitude_of(name, level, False, (224, 224)) for level in levels} for name in STANDARD_OPS}
    assert magnitudes["posterize"] == {4}
    assert magnitudes["rotate"] == {0, 1, 2}
    assert (min(magnitudes["solarize"]), max(magnitudes["solarize"])) == (231, 254)
    assert max(magnitudes["translate_x"]) == 7
    assert max(magnitudes["shear_x"]) < 0.03
    assert max(magnitude_of("color", level, False, (32, 32)) for level in levels) < 0.28


def test_translation_bounds_follow_each_side_of_the_image():
    assert magnitude_of("translate_x", 10.0, True, (24, 60)) == -20
    assert magnitude_of("translate_y", 10.0, False, (24, 60)) == 8


@pytest.mark.parametrize(
    ("name", "magnitude"),
    [
        ("posterize", 0),
        ("posterize", 9),
        ("posterize", 2.5),
        ("solarize", -1),
        ("solarize", 257),
        ("translate_x", 14),
        ("translate_y", -8.5),
        ("rotate", math.nan),
        ("shear_x", math.inf),
        *((name, -0.1) for name in OVERLAPPING_OPS),
    ],
)
def test_a_magnitude_out_of_range_is_refused_and_never_clamped(name, magnitude, image):
    with pytest.raises(ValueError, match=f"{name} magnitude is"):
        apply_op(name, image, magnitude)


def test_unknown_names_are_answered_with_the_nearest(image):
    with pytest.raises(ValueError, match="did you mean 'equalize'"):
        apply_op("equalise", image)
    with pytest.raises(ValueError, match="did you mean 'reference'"):
        apply_op("rotate", image, 1, backend="referense")


@pytest.mark.parametrize("backend", ["native", "avx512", "avx2", "portable"])
def test_without_compiled_kernels_their_backends_are_errors_and_no_silent_fallback(backend, image, monkeypatch):
    monkeypatch.setattr(backends, "NATIVE", None)
    monkeypatch.setattr(backends, "WHY_NOT", "they were never built")
    with pytest.raises(RuntimeError, match=r"never built; use 'auto' or 'reference', or install a C compiler"):
        apply_op("rotate", image, 1, backend=backend)


def test_a_variant_that_the_processor_lacks_is_an_error_and_no_silent_fallback(image, monkeypatch):
    monkeypatch.setattr(backends, "NATIVE", object())
    monkeypatch.setattr(backends, "VARIANTS", ("portable",))
    with pytest.raises(RuntimeError, match="use one of 'auto', 'portable', 'reference'"):
        apply_op("rotate", image, 1, backend="avx512")


def test_auto_without_compiled_kernels_warns_once_and_gives_pillows_pixels(image, monkeypatch):
    monkeypatch.setattr(backends, "NATIVE", None)
    monkeypatch.setattr(backends, "WHY_NOT", "they were never built")
    monkeypatch.delenv("AUGMIX_BACKEND", raising=False)
    backends.warn_once.cache_clear()
    with pytest.warns(RuntimeWarning, match=r"20 to 100 times slower .* because they were never built; install a C"):
        first = apply_op("rotate", image, 1)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert (apply_op("rotate", image, 1) == first).all()
    assert (first == apply_op("rotate", image, 1, backend="reference")).all()


def test_the_environment_names_the_backend_of_auto(monkeypatch):
    monkeypatch.setenv("AUGMIX_BACKEND", "reference")
    assert backends.variant_of("auto") is None
    monkeypatch.setenv("AUGMIX_BACKEND", "portabel")
    with pytest.raises(ValueError, match="AUGMIX_BACKEND 'portabel' is unknown; did you mean 'portable'"):
        backends.variant_of("auto")


@pytest.mark.parametrize(
    "wrong",
    [
        np.zeros((4, 4), np.uint8),
        np.zeros((4, 4, 3)),
        np.zeros((4, 4, 4), np.uint8),
        [[0]],
        np.zeros((0, 4, 3), np.uint8),
    ],
)
def test_what_is_no_rgb_image_is_refused(wrong):
    with pytest.raises(ValueError, match=r"shape|RGB"):
        apply_op("equalize", wrong)
