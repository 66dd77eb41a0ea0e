"""Robustness metrics. Errors and probabilities are fractions; summary scores are in percent.

Errors are mappings by name, never lists: in another order than AlexNet's constants they would give a plausible wrong
score. Source: Hendrycks & Dietterich (2019), "Benchmarking neural network robustness to common corruptions and
perturbations", which defines CE, mCE, relative mCE, FR, mFR and T5D.
"""

import math
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from augmix_core.baselines import (
    ALEXNET_CLEAN_ERROR,
    ALEXNET_ERRORS,
    ALEXNET_EXTRA_ERRORS,
    ALEXNET_EXTRA_FLIP_PROBABILITIES,
    ALEXNET_FLIP_PROBABILITIES,
)
from augmix_core.errors import did_you_mean

Errors = Mapping[str, float | Sequence[float] | NDArray[np.floating]]
"""Corruption -> its mean error over the severities, or its errors at severities 1..5."""

SEVERITIES = 5
TOP = 5


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


def corruption_errors(errors: Errors, *, baseline: Errors = ALEXNET_ERRORS) -> dict[str, float]:
    """Return {name: CE}, in percent of the baseline and in the benchmark's order.

    CE is a ratio of sums over the five severities, not a mean of ratios.

    Args:
        errors: each of the 15 corruptions -> its mean error, or its errors at severities 1..5, as fractions.
        baseline: the same for the network that scores 100.
    Raises:
        ValueError: A name is missing, unknown or too much; an error is no fraction; not 5 severities; a baseline is 0.
    """
    sums, baseline_sums = severity_sums("errors", errors), severity_sums("baseline", baseline)
    check_above(baseline_sums, 0.0)
    return {name: float(100 * sums[name] / baseline_sums[name]) for name in ALEXNET_ERRORS}


def mean_corruption_error(errors: Errors, *, baseline: Errors = ALEXNET_ERRORS) -> float:
    """Return mCE, in percent: the mean over the 15 corruptions of their CE (a mean of ratios, not a ratio of means).

    Args, Raises: as for `corruption_errors`.
    """
    return math.fsum(corruption_errors(errors, baseline=baseline).values()) / len(ALEXNET_ERRORS)


def mean_corruption_errors(
    errors: Mapping[str, NDArray[np.floating]], *, baseline: Errors = ALEXNET_ERRORS
) -> NDArray[np.float64]:
    """Return (R,) mCE of R replicates of a benchmark, in percent.

    Args:
        errors: each of the 15 corruptions -> (5, R) errors at severities 1..5. NaN, an empty replicate, stays NaN.
    Raises:
        ValueError: As for `corruption_errors`.
    """
    sums, baseline_sums = replicated_sums(errors), severity_sums("baseline", baseline)
    check_above(baseline_sums, 0.0)
    return 100 * np.mean([sums[name] / baseline_sums[name] for name in ALEXNET_ERRORS], axis=0)


def relative_mean_corruption_error(
    errors: Errors,
    clean_error: float,
    *,
    baseline: Errors = ALEXNET_ERRORS,
    baseline_clean_error: float = ALEXNET_CLEAN_ERROR,
) -> float:
    """Return relative mCE, in percent: mCE of what a corruption adds to the clean error.

    Args:
        errors, baseline: as for `corruption_errors`.
        clean_error: error of the same network on the clean images, a fraction.
    Raises:
        ValueError: As for `corruption_errors`; or the baseline loses nothing to some corruption.
    """
    for field, value in (("clean_error", clean_error), ("baseline_clean_error", baseline_clean_error)):
        check_fractions(field, np.asarray(value, np.float64))
    sums, baseline_sums = severity_sums("errors", errors), severity_sums("baseline", baseline)
    check_above(baseline_sums, baseline_clean_error)
    ratios = [
        (sums[name] - SEVERITIES * clean_error) / (baseline_sums[name] - SEVERITIES * baseline_clean_error)
        for name in ALEXNET_ERRORS
    ]
    return 100 * math.fsum(ratios) / len(ratios)


def count_flips(predictions: NDArray[np.integer], *, against_first: bool) -> tuple[int, int]:
    """Return (flips, comparisons): how often the prediction changes, and among how many pairs of frames.

    Both add up over shards; flips / comparisons is the flip probability.

    Args, Raises: as for `changes_of_frames`.
    """
    changes = changes_of_frames(predictions, against_first=against_first)
    return int(changes.sum()), changes.size * (predictions.shape[1] - 1)


def flip_probability(predictions: NDArray[np.integer], *, against_first: bool) -> float:
    """Return FP, a fraction: how often the prediction changes between two compared frames.

    Args, Raises: as for `changes_of_frames`; there must be a sequence.
    """
    flips, comparisons = count_flips(predictions, against_first=against_first)
    if not comparisons:
        raise ValueError("predictions holds no sequence; a flip probability needs one at least")
    return flips / comparisons


def changes_of_frames(predictions: NDArray[np.integer], *, against_first: bool) -> NDArray[np.int64]:
    """Return (N,) how many of the T - 1 compared frames of each sequence are predicted differently.

    Args:
        predictions: (N, T) predicted classes of the T >= 2 frames of N sequences.
        against_first: compare every frame with the first, as for the noise perturbations, whose frames have no order;
            otherwise with the frame before.
    Raises:
        ValueError: Another shape or dtype, or fewer than two frames.
    """
    if predictions.ndim != 2 or predictions.dtype.kind not in "iu":
        raise ValueError(f"predictions must be integers (N, T), got {predictions.dtype} {predictions.shape}")
    reference, compared = compared_frames("predictions", predictions, against_first)
    return (reference != compared).sum(axis=1, dtype=np.int64)


def mean_flip_rate(
    flip_probabilities: Mapping[str, float], *, baseline: Mapping[str, float] = ALEXNET_FLIP_PROBABILITIES
) -> float:
    """Return mFR, in percent: the mean over the ten perturbations of FP / FP of the baseline.

    Raises:
        ValueError: A name is missing, unknown or too much; a probability is no fraction; a baseline is 0.
    """
    for field, given in (("flip_probabilities", flip_probabilities), ("baseline", baseline)):
        check_perturbations(field, given)
        for name, value in given.items():
            check_fractions(f"{field}[{name!r}]", np.asarray(value, np.float64))
    return mean_of_ratios(flip_probabilities, baseline)


def top5_distance(rankings: ArrayLike, next_rankings: ArrayLike) -> NDArray[np.int64]:
    """Return (N,) distances d(tau, tau') of two rankings, 0 to 15: how far the top five classes have moved.

    With sigma(i) the rank in tau' of the class that tau ranks i-th, the definition is the sum over i = 1..5 of the
    number of j with min(i, sigma(i)) < j <= max(i, sigma(i)) and 1 <= j - 1 <= 5. Since i <= 5, the condition on j only
    cuts off what lies beyond 6, so that number is |i - min(sigma(i), 6)|: ranks below the top five all count as 6, and
    the top five of both rankings are all that is needed. The distance is not symmetric: a class that enters at the top
    and pushes the others down costs 5 one way and 9 the other.

    Args:
        rankings: (N, K) classes of the earlier frame, best first; columns after the fifth are not read.
        next_rankings: (N, K) the same for the later frame. With K < 5 both must rank the same classes.
    Raises:
        ValueError: Other shapes; a class twice in a row; fewer than five columns of different classes.
    """
    first, second = (check_rankings(ranked) for ranked in (rankings, next_rankings))
    if first.shape != second.shape:
        raise ValueError(
            f"the rankings have shapes {first.shape} and {second.shape} in their top five; they must agree"
        )
    if first.shape[1] < TOP and (np.sort(first, axis=1) != np.sort(second, axis=1)).any():
        raise ValueError(f"rankings of {first.shape[1]} classes differ in the classes; give at least the top five")
    same = first[:, :, None] == second[:, None, :]
    rank = np.where(same.any(axis=2), same.argmax(axis=2), TOP)
    return np.abs(np.arange(first.shape[1]) - rank).sum(axis=1, dtype=np.int64)


def top5_distances_of_frames(rankings: NDArray[np.integer], *, against_first: bool) -> NDArray[np.float64]:
    """Return (N,) the mean top-5 distance over the T - 1 compared frames of each sequence.

    The unnormalised T5D of a perturbation is the mean of these over its sequences.

    Args:
        rankings: (N, T, K) classes by score, best first, of the T >= 2 frames of N sequences.
        against_first: as for `changes_of_frames`.
    Raises:
        ValueError: As for `top5_distance`, or fewer than two frames.
    """
    if rankings.ndim != 3:
        raise ValueError(f"rankings must be (N, T, K), got {rankings.shape}")
    reference, compared = compared_frames("rankings", rankings[:, :, :TOP], against_first)
    count, frames, classes = compared.shape
    before = np.broadcast_to(reference, compared.shape)
    distance = top5_distance(before.reshape(-1, classes), compared.reshape(-1, classes))
    return distance.reshape(count, frames).mean(axis=1)


def mean_top5_distance(distances: Mapping[str, float], baseline: Mapping[str, float]) -> float:
    """Return mT5D, in percent: the mean over the ten perturbations of T5D / T5D of the baseline.

    Args:
        distances: each of the ten perturbations -> mean top-5 distance over its sequences and frames.
        baseline: the same for AlexNet. Its values were never published as text, so there is no default.
    Raises:
        ValueError: A name is missing, unknown or too much; a distance is not from 0 to 15; a baseline is 0.
    """
    largest = TOP * (TOP + 1) / 2
    for field, given in (("distances", distances), ("baseline", baseline)):
        check_perturbations(field, given)
        for name, value in given.items():
            if not 0 <= value <= largest:
                raise ValueError(f"{field}[{name!r}] is {value}; a top-5 distance is from 0 to {largest:.0f}")
    return mean_of_ratios(distances, baseline)


def mean_of_ratios(scores: Mapping[str, float], baseline: Mapping[str, float]) -> float:
    """In percent; the baseline must be above 0."""
    check_above({name: SEVERITIES * value for name, value in baseline.items()}, 0.0)
    return 100 * math.fsum(scores[name] / baseline[name] for name in ALEXNET_FLIP_PROBABILITIES) / len(baseline)


def severity_sums(field: str, errors: Errors) -> dict[str, float]:
    """The sum over the five severities of each of the 15 corruptions; refuse all else."""
    check_corruptions(field, errors)
    sums = {}
    for name, given in errors.items():
        by_severity = np.asarray(given, np.float64)
        check_fractions(f"{field}[{name!r}]", by_severity)
        if by_severity.shape not in ((), (SEVERITIES,)):
            raise ValueError(
                f"{field}[{name!r}] has shape {by_severity.shape}; give the mean error, or those at severities 1..5"
            )
        sums[name] = float(SEVERITIES * by_severity.mean())
    return sums


def replicated_sums(errors: Mapping[str, NDArray[np.floating]]) -> dict[str, NDArray[np.float64]]:
    """The sums (R,) over the five severities of R replicates."""
    check_corruptions("errors", errors)
    for name, given in errors.items():
        if given.ndim != 2 or len(given) != SEVERITIES:
            raise ValueError(f"errors[{name!r}] has shape {given.shape}; replicates are (5, R)")
        check_fractions(f"errors[{name!r}]", given[~np.isnan(given)])
    if len({given.shape for given in errors.values()}) > 1:
        raise ValueError(f"errors has corruptions of {sorted({g.shape[1] for g in errors.values()})} replicates")
    return {name: SEVERITIES * given.astype(np.float64).mean(axis=0) for name, given in errors.items()}


def check_corruptions(field: str, given: Mapping[str, object]) -> None:
    """Refuse what is not a mapping from exactly the 15 test corruptions."""
    check_names(field, given, ALEXNET_ERRORS, ALEXNET_EXTRA_ERRORS, "test corruptions")


def check_perturbations(field: str, given: Mapping[str, object]) -> None:
    """Refuse what is not a mapping from exactly the ten perturbations."""
    check_names(field, given, ALEXNET_FLIP_PROBABILITIES, ALEXNET_EXTRA_FLIP_PROBABILITIES, "perturbations")


def check_names(
    field: str, given: Mapping[str, object], names: Mapping[str, float], extra: Mapping[str, float], what: str
) -> None:
    """Refuse a name too few, too many or misspelt."""
    if not isinstance(given, Mapping):
        raise ValueError(
            f"{field} is a {type(given).__name__}; it must map the names of the {len(names)} {what} to values"
        )
    for name in given:
        if name in extra:
            raise ValueError(
                f"{field} has {name!r}, one of the extra ones; the score is of the {len(names)} {what}: leave it out"
            )
        if name not in names:
            raise ValueError(
                f"{field} has {name!r}, which is none of the {len(names)} {what}; {did_you_mean(name, names)}"
            )
    missing = [name for name in names if name not in given]
    if missing:
        raise ValueError(f"{field} lacks {', '.join(missing)}; all {len(names)} {what} are needed")


def check_fractions(field: str, values: NDArray[np.floating]) -> None:
    """Refuse values outside [0, 1], and NaN."""
    wrong = values[~((values >= 0) & (values <= 1))]
    if wrong.size:
        raise ValueError(f"{field} is {wrong.flat[0]}; it must be a fraction from 0 to 1")


def check_above(baseline_sums: Mapping[str, float], clean_error: float) -> None:
    """Refuse a baseline that a score cannot be divided by."""
    for name, total in baseline_sums.items():
        if total <= SEVERITIES * clean_error:
            raise ValueError(
                f"baseline[{name!r}] is {total / SEVERITIES:g}; it divides the score and must be above {clean_error:g}"
            )


def check_rankings(ranked: ArrayLike) -> NDArray[np.integer]:
    """The top five, (N, up to 5); refuse other shapes, and a class that is ranked twice."""
    rankings = np.asarray(ranked)
    if rankings.ndim != 2 or rankings.dtype.kind not in "iu":
        raise ValueError(f"rankings must be classes (N, K) as integers, got {rankings.dtype} {rankings.shape}")
    top = rankings[:, :TOP]
    if (np.diff(np.sort(top, axis=1), axis=1) == 0).any():
        raise ValueError("a ranking has one class twice among its top five; give class indices, best first")
    return top


def compared_frames(
    field: str, frames: NDArray[np.integer], against_first: bool
) -> tuple[NDArray[np.integer], NDArray[np.integer]]:
    """(N, T, ...) -> what each later frame is compared with, and the later frames."""
    if frames.shape[1] < 2:
        raise ValueError(f"{field} has {frames.shape[1]} frames a sequence; a comparison needs 2")
    return (frames[:, :1] if against_first else frames[:, :-1]), frames[:, 1:]
