"""Metrics of an ordering, from how many of each class hold each score.

Shapes: T distinct scores (or score bins) in descending order; leading axes are free (bootstrap draws, say).
Counts may be fractional or resampled. Where a class is missing the answer is NaN, so that a whole stack of
draws can be computed at once; `fakesound.metrics.clip` raises instead.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fakesound.metrics.errors import MetricError

Floats = NDArray[np.float64]


class ScoreCounts(NamedTuple):
    """How many of each class hold each score, scores descending.

    Attributes:
        positives: (..., T) forged items at each score.
        negatives: (..., T) genuine items at each score.
        scores: (T,) the scores; of a bin, its lowest.
    """

    positives: Floats
    negatives: Floats
    scores: Floats


def checked(labels: ArrayLike, scores: ArrayLike) -> tuple[NDArray[np.bool_], Floats]:
    """Labels as booleans and scores as float64, both (n,).

    Raises:
        MetricError: empty, of different lengths, not one-dimensional, labels not 0/1, or scores not finite.
    """
    label_array, score_array = np.asarray(labels), np.asarray(scores, dtype=np.float64)
    if label_array.ndim != 1 or label_array.shape != score_array.shape:
        raise MetricError(f"labels {label_array.shape} and scores {score_array.shape} must be equal and flat")
    if not label_array.size:
        raise MetricError("nothing to score: no items")
    if not np.isin(label_array, (0, 1)).all():
        raise MetricError("labels must be 0 or 1")
    if not np.isfinite(score_array).all():
        raise MetricError("scores must be finite")
    return label_array.astype(bool), score_array


def score_ranks(scores: Floats, max_bins: int | None = None) -> tuple[NDArray[np.int64], Floats]:
    """The rank of each item's score among the distinct ones, 0 = highest, and the score of each rank.

    With more than `max_bins` distinct scores, ranks are merged into at most `max_bins` bins of about equal
    mass; items in one bin then count as tied. That changes an AUC by at most half the chance that a random
    forged and a random genuine item share a bin, which is below 1 / (2 max_bins (1 - prevalence)) unless
    scores are tied.

    Args:
        scores: (n,).
        max_bins: None keeps every distinct score: exact.

    Returns:
        ranks (n,) and scores (T,), descending.
    """
    negated, inverse, counts = np.unique(-scores, return_inverse=True, return_counts=True)
    if max_bins is None or len(negated) <= max_bins:
        return inverse.astype(np.int64), -negated
    mass_before = np.cumsum(counts) - counts
    _, bin_of_score = np.unique(mass_before * max_bins // len(scores), return_inverse=True)
    last_of_bin = np.append(np.flatnonzero(np.diff(bin_of_score)), len(negated) - 1)
    return bin_of_score[inverse].astype(np.int64), -negated[last_of_bin]


def count_by_score(labels: ArrayLike, scores: ArrayLike) -> ScoreCounts:
    """Exact counts of (n,) labels and scores, one entry a distinct score.

    Raises:
        MetricError: the input is malformed or empty.
    """
    is_forged, values = checked(labels, scores)
    ranks, distinct = score_ranks(values)
    positives, negatives = (
        np.bincount(ranks, weights=weights, minlength=len(distinct)).astype(np.float64)
        for weights in (is_forged, ~is_forged)
    )
    return ScoreCounts(positives, negatives, distinct)


def auc(positives: Floats, negatives: Floats) -> Floats:
    """Area under the ROC curve: P(score of forged > score of genuine) + P(equal) / 2 (Mann-Whitney U / PN).

    Fawcett, "An introduction to ROC analysis", Pattern Recognition Letters 27 (2006). Shape (...,).
    """
    below = negatives.sum(-1, keepdims=True) - np.cumsum(negatives, -1)
    wins = (positives * (below + negatives / 2)).sum(-1)
    return _divide(wins, positives.sum(-1) * negatives.sum(-1))


def error_rates(positives: Floats, negatives: Floats) -> tuple[Floats, Floats]:
    """False-positive and false-negative rate at each threshold, from "none forged" to "all forged".

    Returns:
        two (..., T + 1) arrays; entry 0 is the threshold above every score.
    """
    start = np.zeros((*positives.shape[:-1], 1))
    false_positive = _divide(np.cumsum(negatives, -1), negatives.sum(-1, keepdims=True))
    true_positive = _divide(np.cumsum(positives, -1), positives.sum(-1, keepdims=True))
    return np.concatenate([start, false_positive], -1), 1 - np.concatenate([start, true_positive], -1)


def eer(positives: Floats, negatives: Floats) -> Floats:
    """Equal error rate: where the ROC curve, joined by straight lines, has false positives = false negatives.

    The rate does not fall on a sample in general; between two thresholds it is interpolated linearly, as in
    Brummer and de Villiers, "The BOSARIS toolkit" (2013), without its convex hull. Shape (...,).
    """
    false_positive, false_negative = error_rates(positives, negatives)
    excess = false_positive - false_negative  # rises from -1 to 1
    after = np.argmax(excess >= 0, axis=-1)[..., None]
    before = np.maximum(after - 1, 0)
    low, high = (np.take_along_axis(excess, i, -1) for i in (before, after))
    rate_low, rate_high = (np.take_along_axis(false_positive, i, -1) for i in (before, after))
    return (rate_low - low * _divide(rate_high - rate_low, high - low))[..., 0]


def average_precision(positives: Floats, negatives: Floats) -> Floats:
    """Sum over thresholds of recall gained times precision there: sum_t (R_t - R_{t-1}) P_t.

    Zhu, "Recall, precision and average precision" (2004), not interpolated, as in scikit-learn.
    Shape (...,).
    """
    hits = np.cumsum(positives, -1)
    picked = hits + np.cumsum(negatives, -1)
    precision = np.divide(hits, picked, out=np.zeros_like(hits), where=picked > 0)
    area = _divide((positives * precision).sum(-1), positives.sum(-1))
    return np.where(negatives.sum(-1) > 0, area, np.nan)


def _divide(numerator: Floats, denominator: Floats) -> Floats:
    """The quotient; NaN where the denominator is 0, without a warning."""
    shape = np.broadcast_shapes(np.shape(numerator), np.shape(denominator))
    return np.divide(numerator, denominator, out=np.full(shape, np.nan), where=np.asarray(denominator) != 0)
