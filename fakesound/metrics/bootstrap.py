"""Percentile bootstrap over sources: whole sources are drawn with replacement, with all their clips.

Clips of one recording resemble each other, so clips are not the unit: connected components of sources are
(the cluster bootstrap; Davison and Hinkley, "Bootstrap Methods and their Application", 1997, section 3.8).

Every metric here is a function of sums over clips (confusion counts, score histograms, calibration bins), so
a draw is a weighted sum over sources: all draws are one matrix product.

Shapes: S sources, D draws, K summed quantities.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fakesound.metrics.errors import MetricError
from fakesound.metrics.ranking import Floats, checked, score_ranks

HISTOGRAM_BINS = 1024
MIN_DEFINED_SHARE = 0.5  # below this, the draws that have a value no longer stand for the rest


class Estimate(NamedTuple):
    """A figure with its interval; the interval is NaN where it cannot be had (fewer than two sources)."""

    value: float
    low: float
    high: float


class Resampler:
    """Bootstrap weights of the sources of a set of clips, shared by every metric of that set.

    Args:
        sources: (n,) the source component of each clip.
        num_draws: D.
        seed: of the draws.
        level: of the interval, 0.95 for 95%.

    Raises:
        MetricError: no clips.
    """

    def __init__(self, sources: ArrayLike, *, num_draws: int, seed: int, level: float = 0.95) -> None:
        names, self.source_of_clip = np.unique(np.asarray(sources), return_inverse=True)
        if not len(names):
            raise MetricError("nothing to resample: no clips")
        self.num_sources = len(names)
        generator = np.random.default_rng(seed)
        shares = np.full(self.num_sources, 1 / self.num_sources)
        self.weights = generator.multinomial(self.num_sources, shares, size=num_draws).astype(np.float64)
        self._tails = ((1 - level) / 2, (1 + level) / 2)

    def estimate(
        self, sums_by_source: Floats, metric: Callable[[Floats], Floats], *, value: float | None = None
    ) -> Estimate:
        """The metric of all sources and its interval.

        Args:
            sums_by_source: (S, K).
            metric: maps (..., K) sums to (...,) values, NaN where it has none.
            value: the exact value, where `metric` of binned sums is only close to it.

        Raises:
            MetricError: the metric has no value on all sources.
        """
        if value is None:
            value = float(metric(sums_by_source.sum(0)))
        if not np.isfinite(value):
            raise MetricError("the metric has no value here: a class is missing")
        return Estimate(value, *self._interval(metric(self.weights @ sums_by_source)))

    def _interval(self, draws: Floats) -> tuple[float, float]:
        """Percentiles over the draws that have a value (a draw may miss a class)."""
        defined = draws[np.isfinite(draws)]
        if self.num_sources < 2 or len(defined) < MIN_DEFINED_SHARE * len(draws):
            return float("nan"), float("nan")
        low, high = np.quantile(defined, self._tails)
        return float(low), float(high)

    def sums_by_source(self, by_clip: ArrayLike) -> Floats:
        """(n, K) or (n,) quantities of clips summed within each source: (S, K)."""
        values = np.asarray(by_clip, dtype=np.float64).reshape(len(self.source_of_clip), -1)
        sums = np.zeros((self.num_sources, values.shape[1]))
        np.add.at(sums, self.source_of_clip, values)
        return sums

    def mean(self, by_clip: ArrayLike) -> Estimate:
        """The mean over clips of one quantity (n,): accuracy, Brier score, log-loss."""
        ones = np.ones(len(self.source_of_clip))
        sums = self.sums_by_source(np.column_stack([np.asarray(by_clip, dtype=np.float64), ones]))
        return self.estimate(sums, lambda total: total[..., 0] / total[..., 1])

    def score_histograms(
        self, labels: ArrayLike, scores: ArrayLike, clip_of_item: NDArray[np.int64] | None = None
    ) -> Floats:
        """Positives then negatives at each score, scores descending: (S, 2T), for `ranking` metrics.

        Exact up to HISTOGRAM_BINS distinct scores (any number of clips that we meet); beyond that (frames)
        scores are binned by rank, which moves an AUC by less than 1 / (2 HISTOGRAM_BINS (1 - prevalence)):
        see `ranking.score_ranks`. Only the interval carries that error; the value itself is computed without
        bins.

        Args:
            labels: (m,) of items.
            scores: (m,).
            clip_of_item: (m,) index of the clip that the item lies in; None when items are the clips.

        Raises:
            MetricError: malformed or empty input.
        """
        is_forged, values = checked(labels, scores)
        ranks, distinct = score_ranks(values, HISTOGRAM_BINS)
        source = self.source_of_clip if clip_of_item is None else self.source_of_clip[clip_of_item]
        width = len(distinct)
        cell = (source * 2 + ~is_forged) * width + ranks
        counts = np.bincount(cell, minlength=self.num_sources * 2 * width)
        return counts.reshape(self.num_sources, 2 * width).astype(np.float64)


def ranked(metric: Callable[[Floats, Floats], Floats]) -> Callable[[Floats], Floats]:
    """A metric of (positives, negatives), as a metric of the joined (..., 2T) of `score_histograms`."""

    def of_histograms(joined: Floats) -> Floats:
        width = joined.shape[-1] // 2
        return metric(joined[..., :width], joined[..., width:])

    return of_histograms
