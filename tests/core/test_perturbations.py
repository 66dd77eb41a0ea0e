"""Perturbation sequences: laws, and agreement with plain implementations."""

import numpy as np
import pytest
from PIL import Image
from scipy.ndimage import gaussian_filter, map_coordinates

from augmix_core import PERTURBATIONS, perturb
from augmix_core.metrics import ALEXNET_EXTRA_FLIP_PROBABILITIES, ALEXNET_FLIP_PROBABILITIES
from augmix_core.perturbations import EXTRA_PERTURBATIONS, NOISE_PERTURBATIONS, STEPS, frame_count, run_down
from tests.conftest import VARIANTS, natural, skip_unless_it_runs

ALL = PERTURBATIONS + EXTRA_PERTURBATIONS
IDS = np.array([3, 2**40, 0, 77, 12])
DRAWN = (*NOISE_PERTURBATIONS, "snow", "spatter")
CLEAN = {"brightness": 15, "rotate": 15, "shear": 15, "zoom_blur": 0, **dict.fromkeys(NOISE_PERTURBATIONS, 0)}
CLEAN_BY_TABLE = {
    "32": CLEAN | {"translate": 7, "scale": 15},
    "224": CLEAN | {"translate": 20, "scale": 24},
}


def test_every_perturbation_has_steps_in_both_tables_and_a_constant_of_alexnet():
    assert tuple(ALEXNET_FLIP_PROBABILITIES) == PERTURBATIONS
    assert tuple(ALEXNET_EXTRA_FLIP_PROBABILITIES) == EXTRA_PERTURBATIONS
    assert all(set(steps) == set(ALL) for steps in STEPS.values())


@pytest.mark.parametrize("name", ALL)
def test_frames_depend_on_seed_and_id_but_not_on_the_batch(name, images):
    whole = perturb(images, name, sample_ids=IDS, seed=5)
    assert whole.shape == (5, frame_count(name, "32"), *images.shape[1:])
    assert whole.dtype == np.uint8
    order = [4, 0]
    assert (perturb(images[order], name, sample_ids=IDS[order], seed=5) == whole[order]).all()
    same = np.stack([images[0], images[0]])
    first, second = perturb(same, name, sample_ids=[1, 2])
    assert (first != second).any() == (name in DRAWN)
    assert (perturb(same, name, sample_ids=[1, 2], seed=1)[0] != first).any() == (name in DRAWN)


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("name", ALL)
def test_compiled_frames_are_those_of_numpy(name, variant, images):
    skip_unless_it_runs(variant)
    compiled = perturb(images[:2], name, sample_ids=[3, 4], backend=variant)
    assert (compiled == perturb(images[:2], name, sample_ids=[3, 4], backend="reference")).all()


@pytest.mark.parametrize(
    ("table", "name", "frames"),
    [("32", "motion_blur", 21), ("32", "translate", 16), ("224", "motion_blur", 31), ("224", "translate", 41)],
)
def test_sequences_are_as_long_as_the_published_ones(table, name, frames, images):
    assert perturb(images[:1], name, sample_ids=[0], table=table).shape[1] == frames
    assert perturb(images[:1], "tilt", sample_ids=[0], table=table).shape[1] == 31


@pytest.mark.parametrize("table", STEPS)
def test_one_frame_is_clean_where_the_change_passes_through_none(table, images):
    for name, frame in CLEAN_BY_TABLE[table].items():
        sequence = perturb(images[:1], name, sample_ids=[0], table=table)[0]
        changed = [i for i in range(len(sequence)) if (sequence[i] != images[0]).any()]
        assert sorted({*range(len(sequence))} - {*changed}) == [frame], name


@pytest.mark.parametrize("difficulty", [1, 2, 3])
@pytest.mark.parametrize("table", STEPS)
def test_noise_has_the_strength_of_its_difficulty(table, difficulty):
    grey = np.full((1, 64, 64, 3), 127, np.uint8)
    step = {name: STEPS[table][name][difficulty - 1] for name in NOISE_PERTURBATIONS}
    expected = {
        "gaussian_noise": step["gaussian_noise"] * 255,
        "speckle_noise": step["speckle_noise"] * 127,
        "shot_noise": np.sqrt(127 * 255 / step["shot_noise"]),
    }
    for name, std in expected.items():
        noisy = perturb(grey, name, sample_ids=[1], table=table, difficulty=difficulty)[0, 1:].astype(float)
        assert noisy.std() == pytest.approx(std, rel=0.03), name
        assert (noisy[0] != noisy[1]).any()


@pytest.mark.parametrize(("table", "rest"), [("32", 7), ("224", 20)])
def test_translate_moves_the_content_by_whole_pixels(table, rest, image):
    sequence = perturb(image[None], "translate", sample_ids=[0], table=table)[0]
    for i, frame in enumerate(sequence):
        shift = i - rest
        inside = slice(max(shift, 0), image.shape[1] + min(shift, 0))
        assert (np.roll(image, shift, axis=1)[:, inside] == frame[:, inside]).all()
        assert np.delete(frame, np.r_[inside], axis=1).sum() == 0


def test_rotate_turns_clockwise_as_pillow_does(image):
    sequence = perturb(image[None], "rotate", sample_ids=[0], table="32", backend="reference")[0]
    turned = Image.fromarray(image).rotate(-10, Image.Resampling.BILINEAR)
    assert (sequence[25] == np.asarray(turned)).all()


def sampled(image, way_back):
    """Plain: the value at the place where (x, y) comes from, bilinearly, 0 outside; NaN near the rim."""
    height, width = image.shape[:2]
    y, x = np.mgrid[:height, :width].astype(float)
    from_x, from_y, depth = np.einsum("ij,jyx->iyx", way_back, np.stack([x, y, np.ones_like(x)]))
    place = np.stack([from_y, from_x]) / depth
    values = np.stack([map_coordinates(image[..., c].astype(float), place, order=1) for c in range(3)], axis=2)
    low, high = place, np.array([height - 1, width - 1])[:, None, None] - place
    values[(np.minimum(low, high).min(axis=0) < 0.01) & (np.minimum(low, high).min(axis=0) > -1.01)] = np.nan
    return values


def assert_near(frame, wanted):
    known = np.isfinite(wanted)
    assert known.mean() > 0.7
    assert np.abs(frame[known] + 0.5 - wanted[known]).max() <= 0.51  # Pillow truncates


def around_centre(matrix, image):
    to_centre = np.eye(3)
    to_centre[:2, 2] = -(image.shape[1] - 1) / 2, -(image.shape[0] - 1) / 2
    affine = np.eye(3)
    affine[:2, :2] = matrix
    return np.linalg.inv(to_centre) @ np.linalg.inv(affine) @ to_centre


@pytest.mark.parametrize("i", [0, 4, 22, 30])
def test_scale_and_shear_agree_with_plain_sampling(i, image):
    angle = np.deg2rad(i - 15)
    plain = {
        "scale": np.eye(2) * (2 * i + 70) / 100,
        "shear": np.array([[1, -np.sin(angle)], [0, np.cos(angle)]]),
    }
    for name, matrix in plain.items():
        frame = perturb(image[None], name, sample_ids=[0], table="32")[0, i]
        assert_near(frame, sampled(image, around_centre(matrix, image)))


@pytest.mark.parametrize("i", [0, 15, 24])
@pytest.mark.parametrize(("table", "step"), [("32", 0.75), ("224", 1)])
def test_tilt_agrees_with_a_camera_at_the_distance_of_the_diagonal(table, step, i, image):
    """Points of the image plane, turned about y, then about x, are seen from the distance."""
    height, width = image.shape[:2]
    angle = np.deg2rad(step * (i - 15))
    about_y = np.array([[np.cos(angle), 0, -np.sin(angle)], [0, 1, 0], [np.sin(angle), 0, np.cos(angle)]])
    about_x = np.array([[1, 0, 0], [0, np.cos(angle), -np.sin(angle)], [0, np.sin(angle), np.cos(angle)]])
    distance = np.hypot(height, width)
    corners = np.array([[0, 0], [width, 0], [width, height], [0, height]], float)
    in_space = np.column_stack([corners - [width / 2, height / 2], np.ones(4)]) @ (about_x @ about_y).T
    seen = distance * in_space[:, :2] / (in_space[:, 2:] + distance) + [width / 2, height / 2]
    rows, values = [], []
    for (x, y), (u, v) in zip(seen, corners, strict=True):  # the way back, from four points
        rows += [[x, y, 1, 0, 0, 0, -u * x, -u * y], [0, 0, 0, x, y, 1, -v * x, -v * y]]
        values += [u, v]
    way_back = np.append(np.linalg.solve(rows, values), 1).reshape(3, 3)
    frame = perturb(image[None], "tilt", sample_ids=[0], table=table)[0, i]
    assert_near(frame, sampled(image, way_back))


def test_zoom_blur_is_the_running_mean_of_enlargements(image):
    sequence = perturb(image[None], "zoom_blur", sample_ids=[0], table="32")[0]
    enlargements = [sampled(image, around_centre(np.eye(2) * (1 + 0.004 * i), image)) for i in range(31)]
    for i in (1, 9, 30):
        mean = np.mean(enlargements[: i + 1], axis=0)
        known = np.isfinite(mean)
        assert known.mean() > 0.7
        assert np.abs(sequence[i][known] + 1 - mean[known]).max() <= 1.01  # truncated twice


@pytest.mark.parametrize(("table", "sigma", "truncate"), [("32", 0.3 + 0.015 * 30, 7), ("224", 0.25 + 0.035 * 30, 6)])
def test_gaussian_blur_widens_to_its_last_sigma(table, sigma, truncate, image):
    last = perturb(image[None], "gaussian_blur", sample_ids=[0], table=table)[0, 30].astype(int)
    wanted = gaussian_filter(image.astype(float), (sigma, sigma, 0), mode="nearest", truncate=truncate)
    assert np.abs(last - np.trunc(wanted)).max() <= 1


def test_motion_blur_ends_along_the_rows(image):
    striped = np.repeat(image[:, :1], 40, axis=1)
    sequence = perturb(striped[None], "motion_blur", sample_ids=[0], table="32")[0].astype(int)
    assert np.abs(sequence[20] - striped).max() <= 1
    assert np.abs(sequence[10] - striped).max() > 5


def test_snow_never_darkens_and_one_fall_of_it_turns_slowly():
    (image,) = natural(1, 64, 48)
    sequence = perturb(image[None], "snow", sample_ids=[0])[0].astype(int)
    assert (sequence >= image.astype(int) - 1).all()
    steps = np.abs(np.diff(sequence, axis=0)).mean(axis=(1, 2, 3))
    other = perturb(image[None], "snow", sample_ids=[1])[0].astype(int)
    assert 0 < steps.max() < np.abs(sequence - other).mean()


@pytest.mark.parametrize("runs", [(0.2, 0.8), (0.05, 0.1, 0.15, 0.7)])
def test_water_runs_down_the_columns(runs):
    liquid = np.random.default_rng(0).uniform(size=(9, 5)).astype(np.float32)
    wanted = np.apply_along_axis(lambda column: np.convolve(column, runs, mode="same"), 0, liquid)
    assert np.allclose(run_down(liquid, runs), wanted, atol=1e-6)


@pytest.mark.parametrize("name", ALL)
def test_a_crop_shows_the_middle_of_what_moves_and_bounds_the_rest(name):
    (image,) = natural(1, 40, 46)
    cropped = perturb(image[None], name, sample_ids=[5], crop_to=32)
    middle = np.s_[..., 4:36, 7:39, :]
    if name in ("zoom_blur", "translate", "rotate", "tilt", "scale", "shear"):
        assert (cropped == perturb(image[None], name, sample_ids=[5])[middle]).all()
    else:
        assert (cropped == perturb(image[None][middle], name, sample_ids=[5])).all()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"name": "snw"}, "did you mean 'snow'"),
        ({"difficulty": 4}, "difficulty is 4; choose 1, 2 or 3"),
        ({"difficulty": 2}, "rotate has only 1"),
        ({"table": "64"}, "table '64'"),
        ({"crop_to": 25}, "from 1 to the short side, 24"),
        ({"sample_ids": [1]}, "one id for each of the 5 images"),
        ({"sample_ids": [-1, 0, 1, 2, 3]}, "sample ids"),
        ({"images": np.zeros((5, 4, 4), np.uint8)}, "images must be RGB"),
    ],
)
def test_wrong_arguments_are_refused(change, message, images):
    arguments = {"images": images, "name": "rotate", "sample_ids": IDS} | change
    with pytest.raises(ValueError, match=message):
        perturb(arguments.pop("images"), arguments.pop("name"), **arguments)
