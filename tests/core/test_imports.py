"""What importing the library loads, and that every public name works afterwards."""

import subprocess
import sys


def run(code):
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout


def test_importing_the_base_loads_neither_ray_nor_torch_nor_scipy():
    loaded = run(
        "import sys, numpy as np, augmix_core\n"
        "augmix_core.augmix(np.zeros((1, 8, 8, 3), np.uint8), [0])\n"
        "print([m for m in ('ray', 'torch', 'scipy', 'pyarrow') if m in sys.modules])"
    )
    assert loaded.strip() == "[]"


def test_without_torch_the_lazy_names_name_the_extra():
    shown = run(
        "import sys\nsys.modules['torch'] = None\nimport augmix_core\n"
        "try:\n    augmix_core.consistency_loss\nexcept ImportError as error:\n    print(error)"
    )
    assert shown.strip() == "torch is not installed; it comes with: pip install 'augmix-ray[score]'"


def test_no_submodule_shadows_a_public_name():
    """Import every module, then use every name."""
    shown = run(
        "import importlib, pkgutil, augmix_core\n"
        "for module in pkgutil.walk_packages(augmix_core.__path__, 'augmix_core.'):\n"
        "    importlib.import_module(module.name)\n"
        "from augmix_core import AugMixConfig, augmix, consistency_loss, corrupt, CORRUPTIONS, EXTRA_CORRUPTIONS\n"
        "from augmix_core.ops import apply_op\nfrom augmix_core.plan import draw_plans\n"
        "print(all(map(callable, (AugMixConfig, augmix, consistency_loss, corrupt, apply_op, draw_plans))))\n"
        "print(all(isinstance(name, str) for name in CORRUPTIONS + EXTRA_CORRUPTIONS))"
    )
    assert shown.split() == ["True", "True"]
