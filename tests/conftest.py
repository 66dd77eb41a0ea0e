"""Fixtures: one Ray start for all tests that kill nothing, and images that are never square."""

import os
import platform
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from augmix_core import backends

os.environ["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"  # jobs start by their first line
os.environ.setdefault("RAY_TRAIN_ENABLE_PRINT_PATCH", "0")
os.environ.setdefault("RAY_metrics_report_interval_ms", "1000")
os.environ.setdefault("AUGMIX_PROGRESS_TIMEOUT_S", "120")
for name, value in (("ACCESS_KEY_ID", "k"), ("SECRET_ACCESS_KEY", "s"), ("EC2_METADATA_DISABLED", "true")):
    os.environ[f"AWS_{name}"] = value  # for the S3 server of the tests, in Ray's workers too
SHARED = Path(__file__).resolve().parents[2] / "shared" / "data"


VARIANTS = ("avx512", "avx2", "portable")
BACKENDS = (*VARIANTS, "reference")


PILLOW_IS_EXACT = platform.machine() in ("x86_64", "AMD64")
needs_exact_pillow = pytest.mark.skipif(
    not PILLOW_IS_EXACT, reason="Pillow's builds for this machine fuse operations and differ from x86-64 in rare values"
)


def skip_unless_it_runs(backend: str) -> None:
    """Skip, saying so, where a backend cannot run."""
    try:
        backends.variant_of(backend)
    except RuntimeError as error:
        pytest.skip(str(error))


@pytest.fixture
def image() -> np.ndarray:
    """(24, 40, 3): natural enough to have structure, and not square."""
    return natural(1, 24, 40)[0]


@pytest.fixture
def images() -> np.ndarray:
    return natural(5, 24, 40)


def natural(count: int, height: int, width: int) -> np.ndarray:
    """Smooth random colours with some noise and edges."""
    rng = np.random.default_rng(7)
    y, x = np.mgrid[0:height, 0:width] / 10
    waves = [np.sin(a * x + b * y + c) for a, b, c in rng.normal(size=(count * 3, 3))]
    smooth = np.stack(waves).reshape(count, 3, height, width).transpose(0, 2, 3, 1)
    return np.clip(127 + 90 * smooth + rng.normal(scale=12, size=smooth.shape), 0, 255).astype(np.uint8)


@pytest.fixture(scope="session")
def ray_local() -> Iterator[None]:
    """Ray on this machine, with four declared CPUs so that nothing waits for a place."""
    import ray

    ray.init(num_cpus=4, log_to_driver=False, include_dashboard=True, dashboard_port=0)
    yield
    ray.shutdown()


@pytest.fixture
def real_cifar10() -> Path:
    folder = SHARED / "cifar10"
    if not folder.is_dir():
        pytest.skip("real CIFAR-10 is not beside this checkout (../shared/data/cifar10)")
    return folder


@pytest.fixture
def real_imagenet() -> Path:
    folder = SHARED / "imagenet-sample"
    if not folder.is_dir():
        pytest.skip("the ImageNet sample is not beside this checkout (../shared/data/imagenet-sample)")
    return folder
