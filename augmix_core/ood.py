"""Detecting images from another distribution by the confidence: in-distribution images should score higher.

in_scores, out_scores: (N,), (M,) finite floats, mostly the largest softmax probability; neither may be empty.
Source: Hendrycks & Gimpel (2017), "A baseline for detecting misclassified and out-of-distribution examples".
"""

from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray


def auroc(in_scores: ArrayLike, out_scores: ArrayLike) -> float:
    """Return the area under the ROC curve: the probability that an in-distribution image scores higher.

    Ties count half. 0.5 is chance.

    Raises:
        ValueError: Scores that are empty, not finite or not one-dimensional.
    """
    inside, outside = ordered("in_scores", in_scores), ordered("out_scores", out_scores)
    lower = np.searchsorted(outside, inside, side="left").sum()
    not_higher = np.searchsorted(outside, inside, side="right").sum()
    return float((lower + not_higher) / (2 * len(inside) * len(outside)))


def aupr(in_scores: ArrayLike, out_scores: ArrayLike, positive: Literal["in", "out"]) -> float:
    """Return the area under the precision-recall curve, as average precision: sum of precision x gain in recall.

    No interpolation between thresholds; images of equal score are found together. Chance is the positives' share.

    Args:
        positive: which images are to be found: "in" by high scores, "out" by low ones.
    Raises:
        ValueError: Scores that are empty, not finite or not one-dimensional; another positive.
    """
    if positive not in ("in", "out"):
        raise ValueError(f"positive is {positive!r}; choose 'in' or 'out'")
    inside, outside = ordered("in_scores", in_scores), ordered("out_scores", out_scores)
    found, others = (inside, outside) if positive == "in" else (-outside[::-1], -inside[::-1])
    thresholds = np.unique(found)[::-1]
    true = len(found) - np.searchsorted(found, thresholds, side="left")
    false = len(others) - np.searchsorted(others, thresholds, side="left")
    return float((np.diff(true, prepend=0) * true / (true + false)).sum() / len(found))


def fpr_at_tpr(in_scores: ArrayLike, out_scores: ArrayLike, tpr: float = 0.95) -> float:
    """Return the share of out-of-distribution images accepted where a share of tpr of the in-distribution ones is.

    An image is accepted if its score is at least the threshold, which is the largest in-distribution score that accepts
    a share of at least tpr of the in-distribution images. Images that tie with it are accepted.

    Args:
        tpr: share of in-distribution images to keep, 0 < tpr <= 1.
    Raises:
        ValueError: Scores that are empty, not finite or not one-dimensional; tpr outside (0, 1].
    """
    if not 0 < tpr <= 1:
        raise ValueError(f"tpr is {tpr}; it must be above 0 and at most 1")
    inside, outside = ordered("in_scores", in_scores), ordered("out_scores", out_scores)
    shares = np.arange(1, len(inside) + 1) / len(inside)
    threshold = inside[::-1][np.searchsorted(shares, tpr, side="left")]
    return float((outside >= threshold).mean())


def ordered(field: str, scores: ArrayLike) -> NDArray[np.float64]:
    """The scores in ascending order; refuse what cannot be ordered."""
    values = np.asarray(scores, np.float64)
    if values.ndim != 1 or not values.size:
        raise ValueError(f"{field} has shape {values.shape}; it must be one-dimensional and not empty")
    if not np.isfinite(values).all():
        raise ValueError(f"{field} holds {int((~np.isfinite(values)).sum())} values that are not finite")
    return np.sort(values)
