"""AugMix, its consistency loss and the corruption benchmarks, as a library: no Ray, no network, no command line.

NumPy and Pillow are all that `augmix` needs; torch and SciPy are loaded when a name that needs them is first used.
"""

import importlib
from typing import TYPE_CHECKING, Any

from augmix_core.philox import STREAM_VERSION
from augmix_core.views import AugMixConfig, augmix

if TYPE_CHECKING:
    from augmix_core.corruptions import CORRUPTIONS, EXTRA_CORRUPTIONS, corrupt
    from augmix_core.jsd import consistency_loss
    from augmix_core.perturbations import PERTURBATIONS, perturb

__version__ = "0.1.0"
__all__ = [
    "CORRUPTIONS",
    "EXTRA_CORRUPTIONS",
    "PERTURBATIONS",
    "STREAM_VERSION",
    "AugMixConfig",
    "augmix",
    "consistency_loss",
    "corrupt",
    "perturb",
]

LAZY = {
    "consistency_loss": "augmix_core.jsd",
    "corrupt": "augmix_core.corruptions",
    "CORRUPTIONS": "augmix_core.corruptions",
    "EXTRA_CORRUPTIONS": "augmix_core.corruptions",
    "PERTURBATIONS": "augmix_core.perturbations",
    "perturb": "augmix_core.perturbations",
}


def __getattr__(name: str) -> Any:
    if name not in LAZY:
        raise AttributeError(f"module 'augmix_core' has no attribute {name!r}")
    return getattr(importlib.import_module(LAZY[name]), name)
