"""Calibration: how far confidences are from the share of correct predictions, and proper scores.

confidence: (N,) the largest softmax probability. correct: (N,) bool. logits: (N, C) float32 or float64, finite.
Everything is computed in float64; logarithms are natural, so losses are in nats.
"""

from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

BIN_SIZE = 100
"""Images in a bin of the RMS calibration error, as in the released code."""
TEMPERATURE_BOUNDS = (0.01, 100.0)
"""Where the search for a temperature ends when the likelihood has no maximum between."""
CHUNK = 256
"""Rows of logits that are in float64 at a time; few enough for the cache at 1000 classes."""


def rms_calibration_error(
    confidence: ArrayLike, correct: ArrayLike, *, binning: Literal["fixed", "official"] = "fixed"
) -> float:
    """Return the RMS calibration error, a fraction: sqrt of the mean over images of their bin's squared gap.

    The gap of a bin is its mean confidence less its share of correct images. Bins are adaptive: images sorted by
    confidence (equal ones stay in the given order) are cut every 100; the last N mod 100 images join the last full
    bin, which so has 100 to 199. Fewer than 100 images are one bin.

    Args:
        confidence: (N,) in [0, 1].
        correct: (N,) bool.
        binning: "fixed" counts every bin. "official" is the released code: its loop ends one bin early, so the most
            confident 100 to 199 images add nothing to the sum, while the division is still by N. 100 to 199 images
            give 0 that way; with fewer the released code fails, and so does this.
    Raises:
        ValueError: No images, other shapes or values; an unknown binning; "official" with fewer than 100 images.
    Source: Hendrycks et al. (2019), "Deep anomaly detection with outlier exposure"; its released `calib_err`, which
        AugMix (Hendrycks et al., 2020) uses too.
    """
    confidence, correct = check_confidence(confidence, correct)
    if binning not in ("fixed", "official"):
        raise ValueError(f"binning is {binning!r}; choose 'fixed' or 'official'")
    count = len(confidence)
    if binning == "official" and count < BIN_SIZE:
        raise ValueError(f"binning 'official' needs at least {BIN_SIZE} images, got {count}; choose 'fixed'")
    order = np.argsort(confidence, kind="stable")
    starts = BIN_SIZE * np.arange(max(1, count // BIN_SIZE))
    sizes = np.diff(starts, append=count)
    gaps = np.add.reduceat(confidence[order] - correct[order], starts) / sizes
    if binning == "official":
        sizes, gaps = sizes[:-1], gaps[:-1]
    return float(np.sqrt((sizes * gaps**2).sum() / count))


def expected_calibration_error(confidence: ArrayLike, correct: ArrayLike, *, bins: int = 15) -> float:
    """Return ECE, a fraction: the mean over images of the absolute gap of their bin.

    Bins are equally wide, k / bins <= confidence < (k + 1) / bins, and the last one includes 1. (torchmetrics 1.9 gives
    a confidence of exactly 1 a bin of its own.)

    Args:
        confidence: (N,) in [0, 1].
        correct: (N,) bool.
        bins: >= 1.
    Raises:
        ValueError: No images, other shapes or values; bins below 1.
    Source: Guo et al. (2017), "On calibration of modern neural networks", eq. 3 (whose bins are open on the left).
    """
    confidence, correct = check_confidence(confidence, correct)
    if bins < 1:
        raise ValueError(f"bins is {bins}; it must be at least 1")
    inner_edges = np.linspace(0, 1, bins + 1)[1:-1]
    place = np.searchsorted(inner_edges, confidence, side="right")
    gap_sums = np.bincount(place, weights=confidence - correct, minlength=bins)
    return float(np.abs(gap_sums).sum() / len(confidence))


def brier_score(probabilities: ArrayLike, labels: ArrayLike) -> float:
    """Return the mean over images of the sum over classes of (p - onehot)^2: 0 is best, 2 is worst.

    The same as the mean of the `brier` of `per_image_scores`.

    Args:
        probabilities: (N, C), rows that add up to 1.
        labels: (N,) int.
    Raises:
        ValueError: No images, other shapes, values outside [0, 1], rows that do not add up to 1, labels not below C.
    Source: Brier (1950).
    """
    p, labels = check_probabilities(probabilities, labels)
    p[np.arange(len(p)), labels] -= 1
    return float(np.square(p).sum(axis=1).mean())


def negative_log_likelihood(probabilities: ArrayLike, labels: ArrayLike) -> float:
    """Return the mean of -log(probability of the label), in nats; infinite where a label has probability 0.

    The mean of the `nll` of `per_image_scores` is the same, and finite where a probability underflows.

    Args, Raises: as for `brier_score`.
    """
    p, labels = check_probabilities(probabilities, labels)
    with np.errstate(divide="ignore"):
        return float(-np.log(p[np.arange(len(p)), labels]).mean())


def per_image_scores(logits: NDArray[np.floating], labels: NDArray[np.integer]) -> dict[str, NDArray]:
    """Return what is kept of each image's logits; all scores of a network are means or sorts of these columns.

    Args:
        logits: (N, C) finite floats; N may be 0.
        labels: (N,) int.
    Returns:
        predicted: (N,) int64, the class of the largest logit, the first of equal ones.
        confidence: (N,) float64, its softmax probability.
        nll: (N,) float64, -log(probability of the label), in nats.
        brier: (N,) float64, sum over classes of (p - onehot)^2.
        label_rank: (N,) int64, classes that come before the label: 0 is right, below 5 is right in the top five. Of
            equal logits the lower class comes first.
    Raises:
        ValueError: Other shapes or dtypes, logits that are not finite, labels not below C.
    """
    check_logits(logits, labels)
    rows = np.arange(len(logits))
    z = logits.astype(np.float64)
    label_z = z[rows, labels][:, None]
    before = (z > label_z) | ((z == label_z) & (np.arange(z.shape[1]) < labels[:, None]))
    predicted = z.argmax(axis=1)
    z -= z.max(axis=1, keepdims=True)
    p = np.exp(z)
    totals = p.sum(axis=1)
    p /= totals[:, None]
    confidence = p.max(axis=1)
    p[rows, labels] -= 1
    return {
        "predicted": predicted.astype(np.int64),
        "confidence": confidence,
        "nll": np.log(totals) - z[rows, labels],
        "brier": np.square(p).sum(axis=1),
        "label_rank": before.sum(axis=1, dtype=np.int64),
    }


def fit_temperature(logits: NDArray[np.floating], labels: NDArray[np.integer]) -> float:
    """Return the T > 0 for which softmax(logits / T) has the smallest negative log-likelihood.

    The loss is convex in b = 1 / T: its slope, mean(E_p[z] - z_label) with p = softmax(b z), never falls. Its root is
    found by Newton steps kept inside a bracket that shrinks, to a relative 1e-9. Where the slope has no root in the
    TEMPERATURE_BOUNDS the nearer bound is returned: 0.01 if every label has the largest logit, 100 for logits that are
    worse than no answer; 1 where all logits of every image are equal and T changes nothing.

    Args:
        logits: (N, C) finite floats of images that the network was not trained on.
        labels: (N,) int.
    Raises:
        ValueError: No images, other shapes or dtypes, logits that are not finite, labels not below C.
    Source: Guo et al. (2017), "On calibration of modern neural networks", section 4.2.
    """
    check_logits(logits, labels)
    if not len(logits):
        raise ValueError("logits holds no image; a temperature is fitted on at least one")
    if (logits == logits[:, :1]).all():
        return 1.0
    coldest, hottest = TEMPERATURE_BOUNDS
    low, high = 1 / hottest, 1 / coldest
    if slope_and_curvature(logits, labels, high)[0] <= 0:
        return coldest
    if slope_and_curvature(logits, labels, low)[0] >= 0:
        return hottest
    b = 1.0
    while high / low > 1 + 1e-9:
        slope, curvature = slope_and_curvature(logits, labels, b)
        if slope == 0:
            break
        low, high = (b, high) if slope < 0 else (low, b)
        newton = b - slope / curvature if curvature > 0 else 0.0
        if abs(newton - b) <= 1e-9 * b:
            break
        b = newton if low < newton < high else float(np.sqrt(low * high))
    return 1 / b


def slope_and_curvature(logits: NDArray[np.floating], labels: NDArray[np.integer], b: float) -> tuple[float, float]:
    """The first two derivatives by b of the mean negative log-likelihood of softmax(b x logits)."""
    slope = curvature = 0.0
    for at in range(0, len(logits), CHUNK):
        z = logits[at : at + CHUNK].astype(np.float64)
        z -= z.max(axis=1, keepdims=True)
        p = np.exp(b * z)
        p /= p.sum(axis=1, keepdims=True)
        mean = (p * z).sum(axis=1)
        slope += float((mean - z[np.arange(len(z)), labels[at : at + CHUNK]]).sum())
        curvature += float((p * np.square(z - mean[:, None])).sum())
    return slope / len(logits), curvature / len(logits)


def check_confidence(confidence: ArrayLike, correct: ArrayLike) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Both as float64; refuse anything but fractions and truth values of the same images."""
    confidence, correct = np.asarray(confidence, np.float64), np.asarray(correct, np.float64)
    if confidence.ndim != 1 or confidence.shape != correct.shape or not confidence.size:
        raise ValueError(
            f"confidence and correct must both be (N,) with N >= 1, got {confidence.shape} and {correct.shape}"
        )
    if not ((confidence >= 0) & (confidence <= 1)).all():
        raise ValueError(f"confidence goes from {confidence.min()} to {confidence.max()}; it must be in [0, 1]")
    if not np.isin(correct, (0, 1)).all():
        raise ValueError("correct must hold truth values: whether each prediction is right")
    return confidence, correct


def check_logits(logits: NDArray[np.floating], labels: NDArray[np.integer]) -> None:
    """Refuse anything but finite (N, C) floats and (N,) labels."""
    if logits.ndim != 2 or logits.shape[1] == 0 or logits.dtype.kind != "f":
        raise ValueError(f"logits must be floats (N, C), got {logits.dtype} {logits.shape}")
    check_labels(labels, logits.shape)
    finite = np.isfinite(logits).all(axis=1)
    if not finite.all():
        raise ValueError(f"logits[{int(finite.argmin())}] are not finite; the network has diverged or its input is bad")


def check_labels(labels: NDArray[np.integer], shape: tuple[int, ...]) -> None:
    """Refuse labels that do not go with (N, C)."""
    if labels.shape != shape[:1] or labels.dtype.kind not in "iu":
        raise ValueError(f"labels must be integers ({shape[0]},), got {labels.dtype} {labels.shape}")
    if labels.size and (labels.min() < 0 or labels.max() >= shape[1]):
        raise ValueError(
            f"labels go from {labels.min()} to {labels.max()}; there are {shape[1]} classes, 0..{shape[1] - 1}"
        )


def check_probabilities(probabilities: ArrayLike, labels: ArrayLike) -> tuple[NDArray[np.float64], NDArray[np.integer]]:
    """A float64 copy of the probabilities, and the labels; refuse what is none."""
    p, labels = np.array(probabilities, np.float64), np.asarray(labels)
    if p.ndim != 2 or not p.size:
        raise ValueError(f"probabilities must be (N, C) with N >= 1, got {p.shape}")
    check_labels(labels, p.shape)
    if not ((p >= 0) & (p <= 1)).all() or np.abs(p.sum(axis=1) - 1).max() > 1e-3:
        raise ValueError("probabilities must be in [0, 1] and add up to 1 in each row; softmax the logits first")
    return p, labels
