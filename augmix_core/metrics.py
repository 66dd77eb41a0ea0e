"""Robustness metrics. Errors are fractions; summary scores are in percent."""

from collections.abc import Mapping, Sequence


def unnormalized_corruption_error(errors: Mapping[str, Sequence[float]]) -> float:
    """Return uCE, in percent: the mean over corruptions of the mean error over severities, AlexNet left out.

    Args:
        errors: corruption name -> its errors by severity, in [0, 1].
    Raises:
        ValueError: There is no corruption, one without a severity, or an error outside [0, 1].
    Source: the "mean corruption error" of CIFAR-10-C in AugMix (Hendrycks et al., 2020).
    """
    if not errors or not all(errors.values()):
        raise ValueError(f"errors must hold at least one corruption and a severity of each, got {dict(errors)}")
    for name, by_severity in errors.items():
        for error in by_severity:
            if not 0 <= error <= 1:
                raise ValueError(f"the error of {name} is {error}; errors are fractions from 0 to 1")
    means = [sum(by_severity) / len(by_severity) for by_severity in errors.values()]
    return 100 * sum(means) / len(means)
