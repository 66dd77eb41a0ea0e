"""The C code under the address and the undefined-behaviour sanitizer: fuzzed, and with its own tests."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
FLAGS = "-fsanitize=address,undefined -fno-sanitize-recover=undefined -fno-omit-frame-pointer -g"

FUZZ = """
import sys
sys.path.insert(0, sys.argv[1])
import _augmix_native
assert _augmix_native.__file__.startswith(sys.argv[1])
import numpy as np
from augmix_core import CORRUPTIONS, EXTRA_CORRUPTIONS, AugMixConfig, augmix, backends, corrupt
from augmix_core.crop import resize
from augmix_core.ops import ALL_OPS
from tests.core.compare_pixels import magnitudes

rng = np.random.default_rng(int(sys.argv[3]))
for i in range(int(sys.argv[2])):
    height, width = (int(2 ** rng.uniform(0, 7.5)) for _ in range(2))
    config = AugMixConfig(
        width=int(rng.integers(1, 9)), depth=int(rng.choice([-1, 1, 4, 8])), aug_severity=float(rng.uniform(0.1, 10)),
        alpha=float(rng.choice([1.0, 10 ** rng.uniform(-2, 3)])), views=int(rng.integers(1, 5)),
        fill=int(rng.integers(256)), ops=str(rng.choice(["standard", "all"])),
    )
    images = rng.integers(0, 256, (int(rng.integers(0, 4)), height, width, 3), np.uint8)[:, :: rng.choice([-1, 1])]
    name, out = ALL_OPS[rng.integers(len(ALL_OPS))], (int(rng.integers(1, 120)), int(rng.integers(1, 120)))
    left, top = int(rng.integers(width)), int(rng.integers(height))
    box = (left, top, int(rng.integers(left, width)) + 1, int(rng.integers(top, height)) + 1)
    normalize = None if i % 3 else ((0.5,) * 3, (0.2,) * 3)
    for backend in backends.VARIANTS:
        augmix(images, range(len(images)), seed=i, config=config, backend=backend,
               layout="CHW" if i % 2 else "HWC", normalize=normalize)
        for image in images[:1]:
            resize(image, out, box=box, mirrored=bool(i % 2), backend=backend)
            for magnitude in magnitudes(rng, name, height, width):
                backends.native_op(image, ALL_OPS.index(name), magnitude, config.fill, backend)
    if min(height, width) >= 8:
        name, table = rng.choice(CORRUPTIONS + EXTRA_CORRUPTIONS), str(rng.choice(["32", "64", "224"]))
        for backend in backends.VARIANTS:
            corrupt(images, str(name), severity=1 + i % 5, sample_ids=range(len(images)), table=table, backend=backend)
print("clean")
"""
TESTS = """
import sys
sys.path.insert(0, sys.argv[1])
import _augmix_native, pytest
assert _augmix_native.__file__.startswith(sys.argv[1])
sys.exit(pytest.main(["-q", "-x", "-p", "no:cacheprovider", "tests/core/test_native.py", "tests/core/test_ops.py",
    "tests/core/test_corruption_kernels.py"]))
"""


@pytest.fixture(scope="module")
def sanitized(tmp_path_factory):
    """A folder with a build of the kernels that stops at the first bad access or undefined operation."""
    library = asan_library()
    if library is None:
        pytest.skip("no gcc with the address sanitizer's library (libasan) is installed")
    folder = tmp_path_factory.mktemp("sanitized")
    subprocess.run(
        [sys.executable, "setup.py", "-q", "build_ext", "--build-lib", folder, "--build-temp", folder / "objects"],
        cwd=ROOT,
        env=os.environ | {"CC": "gcc", "CFLAGS": FLAGS, "LDFLAGS": FLAGS},
        check=True,
        capture_output=True,
    )
    assert list(folder.glob("_augmix_native*")), "the sanitized build failed"
    return folder, library


def asan_library():
    if shutil.which("gcc") is None:
        return None
    found = subprocess.run(["gcc", "-print-file-name=libasan.so"], capture_output=True, text=True, check=True).stdout
    return found.strip() if Path(found.strip()).is_absolute() else None


def run(sanitized, code, *arguments):
    folder, library = sanitized
    # Python itself allocates what it never frees, and its allocator would hide where buffers end
    environment = {"LD_PRELOAD": library, "ASAN_OPTIONS": "detect_leaks=0", "PYTHONMALLOC": "malloc"}
    return subprocess.run(
        [sys.executable, "-c", code, folder, *map(str, arguments)],
        cwd=ROOT,
        env=os.environ | environment,
        capture_output=True,
        text=True,
    )


def test_fuzzed_sizes_plans_and_layouts_touch_no_foreign_memory(sanitized):
    done = run(sanitized, FUZZ, 60, 0)
    assert done.stdout.strip() == "clean", done.stderr[-4000:]


@pytest.mark.slow
def test_a_long_fuzz_run_touches_no_foreign_memory(sanitized):
    for seed in range(1, 6):
        done = run(sanitized, FUZZ, 1000, seed)
        assert done.stdout.strip() == "clean", done.stderr[-4000:]


@pytest.mark.slow
def test_the_kernels_own_tests_pass_under_the_sanitizers(sanitized):
    done = run(sanitized, TESTS)
    assert done.returncode == 0, (done.stdout + done.stderr)[-4000:]
