"""Every cell against the published generators: statistics of their outputs, and of ours, on the same images.

The generators draw other random numbers, so that pixels cannot be compared. Their statistics, "name/severity" ->
{statistic: [value, standard error]}, lie beside the data, and so do the published frost textures.
"""

import functools
import json
from pathlib import Path

import numpy as np
import pytest

from augmix_core import CORRUPTIONS, EXTRA_CORRUPTIONS, corrupt
from augmix_core.corruptions import blur, digital, spatter, weather
from augmix_core.corruptions.frost_textures import load_textures
from augmix_core.corruptions.severity import SEVERITIES, TABLES
from augmix_core.crop import resize_and_center_crop
from augmix_core.decode import decode_rgb
from tests.conftest import SHARED

SHARE, ERRORS = 0.03, 3
FLOOR = {"mean_abs_diff": 0.1, "mean_diff": 0.1, "rmse": 0.1, "gradient_ratio": 0.02}
EXCEPTIONS: dict[tuple[str, str, int, str], tuple[float, str]] = {}
"""(table, corruption, severity, statistic) -> (greatest difference, its cause)."""


@pytest.fixture
def reference_statistics() -> Path:
    folder = SHARED.parent / "reference"
    if not folder.is_dir():
        pytest.skip("the generators' statistics are not beside this checkout (../shared/reference)")
    return folder


@pytest.fixture
def frost_textures() -> str:
    folder = SHARED / "frost"
    if not folder.is_dir():
        pytest.skip("the published frost textures are not beside this checkout (../shared/data/frost)")
    return str(folder)


@functools.cache
def cifar_images(folder: Path) -> np.ndarray:
    """(400, 32, 32, 3): the first of the test split."""
    parquet = pytest.importorskip("pyarrow.parquet")
    rows = parquet.read_table(folder / "test-00000-of-00001.parquet", columns=["image"]).slice(0, 400)
    return np.stack([decode_rgb(row["bytes"]) for row in rows["image"].to_pylist()])


@functools.cache
def imagenet_images(folder: Path, names: tuple[str, ...]) -> np.ndarray:
    """(24, 224, 224, 3)"""
    return np.stack(
        [resize_and_center_crop(decode_rgb((folder / name).read_bytes()), resize_to=256, size=224) for name in names]
    )


def gradient(images: np.ndarray) -> np.ndarray:
    """(N,): mean absolute difference of neighbours, summed over both axes."""
    return sum(np.abs(np.diff(images, axis=axis)).mean((1, 2, 3)) for axis in (1, 2))


def statistics(clean: np.ndarray, corrupted: np.ndarray) -> dict[str, tuple[float, float]]:
    """Statistic -> (mean over the images, its standard error)."""
    before, after = clean.astype(np.float32), corrupted.astype(np.float32)
    change = after - before
    of_images = {
        "mean_abs_diff": np.abs(change).mean((1, 2, 3)),
        "mean_diff": change.mean((1, 2, 3)),
        "rmse": np.sqrt(np.square(change).mean((1, 2, 3))),
        "gradient_ratio": gradient(after) / gradient(before),
    }
    return {name: (float(v.mean()), float(v.std() / np.sqrt(len(v)))) for name, v in of_images.items()}


def differences(images: np.ndarray, name: str, table: str, reference: dict, textures: str | None) -> list[str]:
    """What lies outside its bound, of one corruption at all severities."""
    found = []
    for severity in SEVERITIES:
        corrupted = corrupt(
            images, name, severity=severity, sample_ids=np.arange(len(images)), table=table, textures=textures
        )
        for statistic, (ours, our_error) in statistics(images, corrupted).items():
            theirs, their_error = reference[f"{name}/{severity}"][statistic]
            bound = max(SHARE * abs(theirs), ERRORS * np.hypot(our_error, their_error), FLOOR[statistic])
            bound, _ = EXCEPTIONS.get((table, name, severity, statistic), (bound, ""))
            if not abs(ours - theirs) <= bound:
                found.append(f"{name} {severity}: {statistic} is {ours:.4f}, theirs {theirs:.4f}, bound {bound:.4f}")
    return found


@pytest.mark.parametrize("name", CORRUPTIONS + EXTRA_CORRUPTIONS)
def test_cifar_cells_have_the_statistics_of_the_published_generator(
    name, real_cifar10, reference_statistics, frost_textures
):
    reference = json.loads((reference_statistics / "corruption_stats_cifar32.json").read_text())
    textures = frost_textures if name == "frost" else None
    assert not differences(cifar_images(real_cifar10), name, "32", reference, textures)


@pytest.mark.parametrize("name", CORRUPTIONS + EXTRA_CORRUPTIONS)
def test_imagenet_cells_have_the_statistics_of_the_published_generator(
    name, real_imagenet, reference_statistics, frost_textures
):
    reference = json.loads((reference_statistics / "corruption_stats_imagenet224.json").read_text())
    names = json.loads((reference_statistics / "imagenet_images.json").read_text())["images"]
    textures = frost_textures if name == "frost" else None
    assert not differences(imagenet_images(real_imagenet, tuple(names)), name, "224", reference, textures)


@pytest.mark.parametrize("name", ["contrast", "pixelate"])
def test_where_nothing_is_drawn_the_statistics_are_the_published_ones(name, real_cifar10, reference_statistics):
    images = cifar_images(real_cifar10)
    reference = json.loads((reference_statistics / "corruption_stats_cifar32.json").read_text())
    for severity in SEVERITIES:
        corrupted = corrupt(images, name, severity=severity, sample_ids=np.arange(len(images)), table="32")
        for statistic, (ours, error) in statistics(images, corrupted).items():
            assert (ours, error) == pytest.approx(reference[f"{name}/{severity}"][statistic], abs=2e-3), statistic


class LegacyDraws:
    """The random numbers that the statistics were drawn with: numpy.random.seed(0) before each cell."""

    def __init__(self):
        self.state = np.random.RandomState(0)

    def normal(self, *shape, mean, std):
        return self.state.normal(mean, std, shape).astype(np.float32)

    def uniform(self, *shape, low, high):
        return self.state.uniform(low, high, shape)

    def signed(self, *shape):
        return self.uniform(*shape, low=-1, high=1).astype(np.float32)

    def below(self, bound, *shape):
        return self.state.randint(0, bound, shape)


@pytest.mark.parametrize("severity", SEVERITIES)
@pytest.mark.parametrize(
    "corruption",
    [blur.motion_blur, weather.snow, weather.frost, weather.fog, digital.elastic_transform, spatter.spatter],
    ids=lambda corruption: corruption.__name__,
)
def test_with_the_generators_own_random_numbers_its_statistics_come_out(
    corruption, severity, real_cifar10, reference_statistics, frost_textures
):
    """So near that a definition is told from its neighbours, such as rounding where the generator truncates."""
    images, name = cifar_images(real_cifar10), corruption.__name__
    strength, draws = TABLES["32"][name][severity - 1], LegacyDraws()
    options = {"textures": load_textures(frost_textures, strength[2])} if name == "frost" else {}
    corrupted = np.stack([corruption(image, strength, draws, None, **options) for image in images])
    reference = json.loads((reference_statistics / "corruption_stats_cifar32.json").read_text())
    for statistic, (ours, _) in statistics(images, corrupted).items():
        assert ours == pytest.approx(reference[f"{name}/{severity}"][statistic][0], abs=8e-3), statistic


def test_our_own_frost_is_about_as_strong_as_the_published(real_cifar10, reference_statistics):
    images = cifar_images(real_cifar10)
    reference = json.loads((reference_statistics / "corruption_stats_cifar32.json").read_text())
    for severity in SEVERITIES:
        corrupted = corrupt(images, "frost", severity=severity, sample_ids=np.arange(len(images)), table="32")
        for statistic, (ours, _) in statistics(images, corrupted).items():
            assert ours == pytest.approx(reference[f"frost/{severity}"][statistic][0], rel=0.1), (severity, statistic)
