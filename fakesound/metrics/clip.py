"""Metrics of one decision an item (a clip, or a frame taken as an item): ordering, decision, calibration.

Every function takes labels (n,) of 0/1 (1 = forged) and scores (n,), and raises MetricError where the formula
has no value (no items, one class only).
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fakesound.metrics import ranking
from fakesound.metrics.errors import MetricError
from fakesound.metrics.ranking import Floats, ScoreCounts, checked, count_by_score

CALIBRATION_BINS = 10
_LOG_LOSS_CLIP = 1e-15


class Curve(NamedTuple):
    """Points of a curve, one a threshold, from the threshold above every score downwards.

    Attributes:
        x: false-positive rate (ROC) or recall (precision-recall), (T + 1,).
        y: true-positive rate (ROC) or precision (precision-recall), (T + 1,).
    """

    x: Floats
    y: Floats


class CalibrationBins(NamedTuple):
    """Items sorted into equal-width bins of probability.

    Attributes:
        counts: (num_bins,) items.
        score_sums: (num_bins,) sum of probabilities.
        label_sums: (num_bins,) forged items.
    """

    counts: Floats
    score_sums: Floats
    label_sums: Floats


def accuracy(labels: ArrayLike, scores: ArrayLike, threshold: float) -> float:
    """Share of items on the right side of `threshold`.

    Raises:
        MetricError: malformed or empty input.
    """
    is_forged, values = checked(labels, scores)
    return float(np.mean((values >= threshold) == is_forged))


def balanced_accuracy(labels: ArrayLike, scores: ArrayLike, threshold: float) -> float:
    """Mean of the true-positive and the true-negative rate (Brodersen et al., ICPR 2010).

    Raises:
        MetricError: malformed, empty or one-class input.
    """
    is_forged, values = _both_classes(labels, scores)
    called = values >= threshold
    return float((np.mean(called[is_forged]) + np.mean(~called[~is_forged])) / 2)


def roc_auc(labels: ArrayLike, scores: ArrayLike) -> float:
    """Area under the ROC curve, ties counted half (see `ranking.auc`).

    Raises:
        MetricError: malformed, empty or one-class input.
    """
    return float(ranking.auc(*_class_counts(labels, scores)[:2]))


def eer(labels: ArrayLike, scores: ArrayLike) -> float:
    """Equal error rate, interpolated on the ROC curve (see `ranking.eer`).

    Raises:
        MetricError: malformed, empty or one-class input.
    """
    return float(ranking.eer(*_class_counts(labels, scores)[:2]))


def average_precision(labels: ArrayLike, scores: ArrayLike) -> float:
    """Average precision (see `ranking.average_precision`).

    Raises:
        MetricError: malformed, empty or one-class input.
    """
    return float(ranking.average_precision(*_class_counts(labels, scores)[:2]))


def roc_curve(labels: ArrayLike, scores: ArrayLike) -> Curve:
    """True- against false-positive rate at every distinct score.

    Raises:
        MetricError: malformed, empty or one-class input.
    """
    false_positive, false_negative = ranking.error_rates(*_class_counts(labels, scores)[:2])
    return Curve(false_positive, 1 - false_negative)


def precision_recall_curve(labels: ArrayLike, scores: ArrayLike) -> Curve:
    """Precision against recall at every distinct score; it starts at recall 0, precision 1 by convention.

    Raises:
        MetricError: malformed, empty or one-class input.
    """
    positives, negatives, _ = _class_counts(labels, scores)
    hits = np.cumsum(positives)
    precision = hits / (hits + np.cumsum(negatives))
    return Curve(np.append(0.0, hits / hits[-1]), np.append(1.0, precision))


def brier_terms(labels: ArrayLike, scores: ArrayLike) -> Floats:
    """(p - y)^2 of each item, (n,); their mean is the Brier score.

    Raises:
        MetricError: malformed or empty input, or scores outside [0, 1].
    """
    is_forged, probabilities = _probabilities(labels, scores)
    return (probabilities - is_forged) ** 2


def brier(labels: ArrayLike, scores: ArrayLike) -> float:
    """Mean squared error of the probability (Brier, Monthly Weather Review 78, 1950).

    Raises:
        MetricError: malformed or empty input, or scores outside [0, 1].
    """
    return float(brier_terms(labels, scores).mean())


def log_loss_terms(labels: ArrayLike, scores: ArrayLike) -> Floats:
    """-ln of the probability given to each item's true class, (n,), probabilities held in [1e-15, 1 - 1e-15].

    Raises:
        MetricError: malformed or empty input, or scores outside [0, 1].
    """
    is_forged, probabilities = _probabilities(labels, scores)
    held = np.clip(probabilities, _LOG_LOSS_CLIP, 1 - _LOG_LOSS_CLIP)
    return -np.log(np.where(is_forged, held, 1 - held))


def log_loss(labels: ArrayLike, scores: ArrayLike) -> float:
    """Mean negative log-likelihood in nats.

    Raises:
        MetricError: malformed or empty input, or scores outside [0, 1].
    """
    return float(log_loss_terms(labels, scores).mean())


def calibration_bin_index(scores: Floats, num_bins: int = CALIBRATION_BINS) -> NDArray[np.int64]:
    """Which of `num_bins` equal-width bins of [0, 1] each probability falls in; 1.0 is in the last."""
    return np.minimum((scores * num_bins).astype(np.int64), num_bins - 1)


def calibration_bins(
    labels: ArrayLike, scores: ArrayLike, num_bins: int = CALIBRATION_BINS
) -> CalibrationBins:
    """Counts and sums of each equal-width bin: what a reliability diagram shows.

    Raises:
        MetricError: malformed or empty input, or scores outside [0, 1].
    """
    is_forged, probabilities = _probabilities(labels, scores)
    index = calibration_bin_index(probabilities, num_bins)
    counts, score_sums, label_sums = (
        np.bincount(index, weights=weights, minlength=num_bins).astype(np.float64)
        for weights in (np.ones_like(probabilities), probabilities, is_forged.astype(np.float64))
    )
    return CalibrationBins(counts, score_sums, label_sums)


def ece_of_bins(counts: Floats, score_sums: Floats, label_sums: Floats) -> Floats:
    """Expected calibration error: sum_b |forged_b - sum of probabilities_b| / n, over the last axis."""
    return np.abs(label_sums - score_sums).sum(-1) / counts.sum(-1)


def ece(labels: ArrayLike, scores: ArrayLike, num_bins: int = CALIBRATION_BINS) -> float:
    """Expected calibration error of the forged probability over equal-width bins (Naeini et al., AAAI 2015).

    Raises:
        MetricError: malformed or empty input, or scores outside [0, 1].
    """
    return float(ece_of_bins(*calibration_bins(labels, scores, num_bins)))


def best_balanced_accuracy_threshold(labels: ArrayLike, scores: ArrayLike) -> float:
    """The threshold of highest balanced accuracy; of equals, the highest (fewest false alarms).

    It lies halfway between the two neighbouring scores that it separates.

    Raises:
        MetricError: malformed, empty or one-class input.
    """
    counts = _class_counts(labels, scores)
    false_positive, false_negative = ranking.error_rates(counts.positives, counts.negatives)
    best = int(np.argmin(false_positive + false_negative))
    return threshold_after(counts.scores, best)


def threshold_after(scores: Floats, num_called: int) -> float:
    """The threshold that calls the first `num_called` of the distinct descending `scores` forged.

    Halfway to the next score; just above the highest for none, the lowest itself for all.
    """
    if num_called == 0:
        return float(np.nextafter(scores[0], np.inf))
    if num_called == len(scores):
        return float(scores[-1])
    return float((scores[num_called - 1] + scores[num_called]) / 2)


def _class_counts(labels: ArrayLike, scores: ArrayLike) -> ScoreCounts:
    counts = count_by_score(labels, scores)
    if not counts.positives.sum() or not counts.negatives.sum():
        raise MetricError("needs both forged and genuine items; only one class is here")
    return counts


def _both_classes(labels: ArrayLike, scores: ArrayLike) -> tuple[NDArray[np.bool_], Floats]:
    is_forged, values = checked(labels, scores)
    if is_forged.all() or not is_forged.any():
        raise MetricError("needs both forged and genuine items; only one class is here")
    return is_forged, values


def _probabilities(labels: ArrayLike, scores: ArrayLike) -> tuple[NDArray[np.bool_], Floats]:
    is_forged, values = checked(labels, scores)
    if values.min() < 0 or values.max() > 1:
        raise MetricError("scores must be probabilities in [0, 1]")
    return is_forged, values
