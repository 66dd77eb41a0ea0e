"""Snow, frost, fog and spatter: laws, and plain implementations of what they are made of."""

import numpy as np
import pytest
from PIL import Image
from scipy import ndimage

from augmix_core import backends, corrupt
from augmix_core.corruptions import frost_textures
from augmix_core.corruptions.clouds import plasma
from augmix_core.corruptions.draws import Draws
from augmix_core.corruptions.severity import TABLES
from augmix_core.corruptions.spatter import box_sum, distance_to, edges, embossed, equalized
from tests.conftest import natural, skip_unless_it_runs

WEATHER = ("snow", "frost", "fog", "spatter")
LARGEST_AT_TENTHS = 60
"""Side of the textures below at a scale of 0.2."""


@pytest.fixture
def textures(tmp_path) -> str:
    """A folder of five textures of one grey level each: 40, 80, .. 200."""
    for i, name in enumerate(frost_textures.PUBLISHED, 1):
        grey = np.full((300, 300 + 5 * i, 3), 40 * i, np.uint8)
        Image.fromarray(grey).save(tmp_path / name, quality=100)
    return str(tmp_path)


@pytest.mark.parametrize("size", [(8, 8), (9, 31), (130, 8), (33, 64), (1, 1)])
@pytest.mark.parametrize("table", TABLES)
@pytest.mark.parametrize("name", WEATHER)
def test_images_of_any_size_have_weather(name, table, size):
    images = natural(2, *size)
    for severity in (1, 5):
        changed = corrupt(images, name, severity=severity, sample_ids=[1, 2], table=table)
        assert changed.shape == images.shape


def test_snow_never_darkens_and_falls_alike_from_both_ends():
    black = np.zeros((1, 48, 40, 3), np.uint8)
    (snowy,) = corrupt(black, "snow", severity=4, sample_ids=[3], table="32").astype(int)
    assert (snowy == snowy[::-1, ::-1]).all()
    assert snowy.min() >= int(0.15 * 127.5) - 1
    (image,) = natural(1, 48, 40)
    changed = corrupt(image[None], "snow", severity=4, sample_ids=[3], table="32")[0]
    assert (changed.astype(int) >= image.astype(int) - 1).all()


@pytest.mark.parametrize("severity", range(1, 6))
def test_fog_never_exceeds_the_brightest_value_and_leaves_black_images_black(severity, images):
    dim = (images // 2).astype(np.uint8)
    foggy = corrupt(dim, "fog", severity=severity, sample_ids=range(5))
    assert (foggy.max(axis=(1, 2, 3)) <= dim.max(axis=(1, 2, 3))).all()
    assert corrupt(np.zeros_like(images), "fog", severity=severity, sample_ids=range(5)).max() == 0


@pytest.mark.parametrize("decay", [1.4, 3])
def test_clouds_go_from_0_to_1_without_a_seam(decay):
    clouds = np.stack([plasma(64, decay, Draws(key)) for key in range(40)])
    assert (clouds.min(axis=(1, 2)) == 0).all()
    assert (clouds.max(axis=(1, 2)) == 1).all()
    steps = np.abs(np.diff(clouds, axis=2)).mean()
    assert np.abs(clouds[:, :, 0] - clouds[:, :, -1]).mean() < 1.3 * steps


def test_clouds_are_finer_the_slower_the_noise_falls():
    roughness = [np.abs(np.diff(plasma(64, decay, Draws(1)))).mean() for decay in (3, 2, 1.4)]
    assert roughness == sorted(roughness)


def test_frost_adds_a_texture_in_the_weights_of_its_severity(textures):
    grey = np.full((60, 32, 48, 3), 100, np.uint8)
    frosty = corrupt(grey, "frost", severity=4, sample_ids=range(60), table="32", textures=textures)
    assert {*np.unique(frosty).tolist()} == {int(85 + 0.4 * level) for level in (40, 80, 120, 160, 200)}
    assert (corrupt(grey + 155, "frost", severity=1, sample_ids=range(60), table="32", textures=textures) == 255).all()


def test_frost_of_our_own_needs_no_folder_and_has_no_end():
    grey = np.full((3, 1100, 12, 3), 20, np.uint8)
    frosty = corrupt(grey, "frost", severity=2, sample_ids=range(3), table="224").astype(int)
    assert frosty.std(axis=(1, 2, 3)).min() > 5
    assert (frosty[:, 1024:] == frosty[:, : 1100 - 1024]).all()


def test_our_frost_is_as_bright_and_as_rough_at_every_scale_as_the_photographs():
    """Means of the five published ones: level 164, deviation 27, gradient 22 at their size and 37 at a fifth of it."""
    tints = frost_textures.own_tints()
    for scale, gradient in ((1, 22), (0.2, 37)):
        levels = tints[:, frost_textures.own_relief(scale)].astype(float)
        steps = sum(np.abs(np.diff(levels, axis=axis)).mean() for axis in (1, 2))
        assert levels.mean() == pytest.approx(164, abs=3)
        assert levels.std(axis=(1, 2)).mean() == pytest.approx(27, abs=2)
        assert steps == pytest.approx(gradient, rel=0.15)


def test_textures_shrink_without_averaging():
    ramp = np.repeat(np.arange(0, 250, 2, dtype=np.uint8)[:, None, None], 3, axis=2) + np.zeros((1, 50, 1), np.uint8)
    assert (frost_textures.resized(ramp, 0.2)[:, 0, 0] == np.arange(4, 250, 10)).all()
    wanted = [2 * ((i + 0.5) / 0.3 - 0.5) for i in range(1, 36)]
    assert np.abs(frost_textures.resized(ramp, 0.3)[1:36, 0, 0] - wanted).max() <= 0.51


def test_textures_that_cannot_serve_are_refused(textures, tmp_path, images):
    large = np.zeros((1, LARGEST_AT_TENTHS + 1, 40, 3), np.uint8)
    frost = {"name": "frost", "severity": 1, "table": "32"}
    corrupt(large[:, :-1], sample_ids=[0], textures=textures, **frost)
    with pytest.raises(ValueError, match="61x40 pixels are larger than the textures, which leave 60x61"):
        corrupt(large, sample_ids=[0], textures=textures, **frost)
    with pytest.raises(ValueError, match=r"gives no frost1.png .* leave it out"):
        corrupt(images, sample_ids=range(5), textures=str(tmp_path / "nothing"), **frost)
    broken = tmp_path / "broken"
    broken.mkdir()
    (broken / "frost1.png").write_bytes(b"no image")
    with pytest.raises(ValueError, match=r"gives no frost1.png \(not a readable JPEG or PNG"):
        corrupt(images, sample_ids=range(5), textures=str(broken), **frost)
    with pytest.raises(ValueError, match="fog uses no textures; leave it out"):
        corrupt(images, "fog", severity=1, sample_ids=range(5), textures=textures)


def test_water_brightens_and_mud_covers(images):
    many = np.full((40, 32, 32, 3), 90, np.uint8)
    wet = corrupt(many, "spatter", severity=3, sample_ids=range(40), table="32").astype(int)
    assert wet.min() == 90
    assert (wet.max(axis=(1, 2, 3)) > 120).mean() > 0.9
    muddy = corrupt(many, "spatter", severity=5, sample_ids=range(40), table="32").astype(int)
    assert muddy.max() == 90
    assert (abs(muddy.min(axis=(0, 1, 2)) - [63, 42, 20]) <= 1).all()


def test_edges_are_the_rims_of_a_disk_and_faint_ones_need_a_strong_neighbour():
    y, x = np.mgrid[:40, :40]
    radius = np.hypot(y - 20, x - 20)
    found = edges(np.where(radius < 10, 180, 0).astype(np.int32))
    assert found.any()
    assert np.abs(radius[found] - 10).max() < 1.6
    assert ndimage.label(found, np.ones((3, 3)))[1] == 1
    step = np.zeros((20, 20), np.int32)
    step[:, 10:] = 30  # Sobel sees 4 times the step: 120, between the thresholds
    assert not edges(step).any()
    step[10:, 10:] = 60
    assert edges(step)[:, 8:12].any(axis=1).all()


def test_distances_are_those_of_a_ball_to_two_percent_and_end_at_20():
    found = np.zeros((60, 50), bool)
    found[5, 7] = found[40, 30] = True
    exact = np.minimum(ndimage.distance_transform_edt(~found), 20)
    assert np.abs(distance_to(found, None) / 1000 - exact).max() <= 0.021 * 20
    assert (distance_to(np.zeros((9, 9), bool), None) == 20_000).all()


@pytest.mark.parametrize("share", [0, 0.002, 0.02, 0.3, 1])
@pytest.mark.parametrize("size", [(1, 1), (1, 40), (40, 1), (2, 3), (33, 50)])
def test_compiled_distances_are_those_of_numpy(size, share):
    skip_unless_it_runs("native")
    found = np.random.default_rng(0).uniform(size=size) < share
    assert (distance_to(found, "portable") == distance_to(found, None)).all()


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({0: np.zeros(19, bool)}, "int32 of that shape"),
        ({1: np.zeros((4, 5), np.int16)}, "int32 of that shape"),
        ({2: 0}, "at least 1"),
        ({4: 0}, "positive and rising"),
        ({5: 9}, "positive and rising"),
        ({7: -1}, "no distance above"),
    ],
)
def test_the_module_itself_refuses_distances_that_do_not_fit(change, complaint):
    skip_unless_it_runs("native")
    arguments = dict(enumerate((np.zeros((4, 5), bool), np.zeros((4, 5), np.int32), 4, 5, 10, 14, 22, 200)))
    with pytest.raises(ValueError, match=complaint):
        backends.NATIVE.measure_distances(*(arguments | change).values())


def test_equalised_levels_spread_by_rank():
    levels = np.repeat([3, 7, 8, 200], 5).reshape(4, 5)
    assert equalized(levels)[:, 0].tolist() == [0, 85, 170, 255]
    flat = np.full((3, 3), 9)
    assert (equalized(flat) == flat).all()


def test_neighbourhoods_of_spatter_are_scipys():
    levels = np.random.default_rng(0).integers(0, 256, (12, 17)).astype(np.int32)
    assert (box_sum(levels) == ndimage.correlate(levels, np.ones((3, 3), int), mode="mirror")).all()
    kernel = [[-2, -1, 0], [-1, 1, 1], [0, 1, 2]]
    assert (embossed(levels) == np.clip(ndimage.correlate(levels, kernel, mode="mirror"), 0, 255)).all()
