"""AlexNet's results on ImageNet-C and ImageNet-P: what corruption errors and flip rates are divided by. Data only.

Fractions throughout, keyed by name: the order in which a folder or a paper lists the corruptions must not matter.
AlexNet's error is not monotone in the severity (snow and elastic_transform are easier at 3 than at 2).
"""

from collections.abc import Mapping

ALEXNET_ERRORS: Mapping[str, float] = {
    "gaussian_noise": 0.886428,
    "shot_noise": 0.894468,
    "impulse_noise": 0.922640,
    "defocus_blur": 0.819880,
    "glass_blur": 0.826268,
    "motion_blur": 0.785948,
    "zoom_blur": 0.798360,
    "snow": 0.866816,
    "frost": 0.826572,
    "fog": 0.819324,
    "brightness": 0.564592,
    "contrast": 0.853204,
    "elastic_transform": 0.646056,
    "pixelate": 0.717840,
    "jpeg_compression": 0.606500,
}
"""Top-1 error on the 15 corruptions of ImageNet-C, mean over severities 1..5, in the benchmark's order.

Source: the released code of AugMix (Hendrycks et al., 2020), `ALEXNET_ERR`."""

ALEXNET_ERRORS_BY_SEVERITY: Mapping[str, tuple[float, ...]] = {
    "gaussian_noise": (0.69528, 0.82542, 0.93554, 0.98138, 0.99452),
    "shot_noise": (0.71224, 0.85108, 0.93574, 0.98182, 0.99146),
    "impulse_noise": (0.78374, 0.89808, 0.94870, 0.98720, 0.99548),
    "defocus_blur": (0.65624, 0.73202, 0.85036, 0.91364, 0.94714),
    "glass_blur": (0.64308, 0.75054, 0.88806, 0.91622, 0.93344),
    "motion_blur": (0.58430, 0.70048, 0.82108, 0.89750, 0.92638),
    "zoom_blur": (0.70008, 0.76992, 0.80784, 0.84198, 0.87198),
    "snow": (0.71726, 0.88392, 0.86468, 0.91870, 0.94952),
    "frost": (0.61390, 0.79734, 0.88790, 0.89942, 0.93430),
    "fog": (0.67474, 0.76050, 0.84378, 0.87260, 0.94500),
    "brightness": (0.45140, 0.48502, 0.54048, 0.62166, 0.72440),
    "contrast": (0.64548, 0.76150, 0.88874, 0.97760, 0.99270),
    "elastic_transform": (0.52596, 0.70116, 0.55686, 0.64076, 0.80554),
    "pixelate": (0.52218, 0.54620, 0.73728, 0.87092, 0.91262),
    "jpeg_compression": (0.51002, 0.54718, 0.57294, 0.65458, 0.74778),
}
"""The same at each of the severities 1..5. Their means are the official constants to 2e-6.

Source: the benchmark's authors, in the discussions of hendrycks/robustness; timm's evaluation code has the same."""

ALEXNET_EXTRA_ERRORS: Mapping[str, float] = {
    "speckle_noise": 0.845388,
    "gaussian_blur": 0.787108,
    "spatter": 0.717512,
    "saturate": 0.658248,
}
"""Top-1 error on the four extra corruptions, mean over severities; mCE leaves them out.

Source: the ImageNet-C evaluation of MambaVision (NVIDIA); assembled-cnn (Clova AI) has the same, rounded."""

ALEXNET_CLEAN_ERROR = 0.4348
"""Top-1 error on the clean ImageNet validation images, of torchvision's AlexNet."""

ALEXNET_FLIP_PROBABILITIES: Mapping[str, float] = {
    "gaussian_noise": 0.23653,
    "shot_noise": 0.30062,
    "motion_blur": 0.09297,
    "zoom_blur": 0.05942,
    "snow": 0.11928,
    "brightness": 0.04889,
    "translate": 0.11007,
    "rotate": 0.13104,
    "tilt": 0.07050,
    "scale": 0.23531,
}
"""Flip probability on the ten perturbations of ImageNet-P, in the benchmark's order.

Snow is one of the ten and spatter is for validation (README of hendrycks/robustness); CIFAR-P has it the other way.
Source of the values: `ALEXNET_FP` of assembled-cnn (Clova AI), which lists all fourteen together."""

ALEXNET_EXTRA_FLIP_PROBABILITIES: Mapping[str, float] = {
    "speckle_noise": 0.18649,
    "gaussian_blur": 0.02775,
    "spatter": 0.05053,
    "shear": 0.10658,
}
"""The same on the four perturbations for validation; mFR leaves them out."""
