import numpy as np
import pytest
import sklearn.metrics as sk

from fakesound.metrics import clip, ranking
from fakesound.metrics.bootstrap import HISTOGRAM_BINS, Resampler, ranked
from fakesound.metrics.errors import MetricError
from fakesound.metrics.ranking import score_ranks


@pytest.fixture
def items():
    random = np.random.default_rng(7)
    labels = random.random(120) < 0.4
    scores = np.round(np.clip(random.random(120) * 0.7 + labels * 0.3, 0, 1), 2)
    sources = np.array([f"s{i:02d}" for i in random.integers(0, 30, 120)])
    return labels, scores, sources


@pytest.mark.parametrize(
    ("metric", "slow"),
    [
        (ranking.auc, sk.roc_auc_score),
        (ranking.average_precision, sk.average_precision_score),
        (ranking.eer, clip.eer),
    ],
)
def test_draws_equal_recomputing_on_repeated_clips(items, metric, slow):
    labels, scores, sources = items
    resampler = Resampler(sources, num_draws=25, seed=1)
    histograms = resampler.score_histograms(labels, scores)
    fast = ranked(metric)(resampler.weights @ histograms)
    for draw, weights in enumerate(resampler.weights.astype(int)):
        repeated = np.repeat(np.arange(len(labels)), weights[resampler.source_of_clip])
        assert fast[draw] == pytest.approx(slow(labels[repeated], scores[repeated]), abs=1e-10)


def test_mean_draws_equal_recomputing(items):
    labels, scores, sources = items
    correct = (scores >= 0.5) == labels
    resampler = Resampler(sources, num_draws=1000, seed=1)
    estimate = resampler.mean(correct)
    slow = [
        np.repeat(correct, weights[resampler.source_of_clip]).mean()
        for weights in resampler.weights.astype(int)
    ]
    assert estimate.value == correct.mean()
    assert (estimate.low, estimate.high) == pytest.approx(tuple(np.quantile(slow, [0.025, 0.975])))
    assert estimate.low < estimate.value < estimate.high


def test_the_unit_is_the_source_not_the_clip():
    values = np.repeat([0.0, 1.0] * 5, 50)
    by_source = Resampler(np.repeat(np.arange(10), 50), num_draws=1000, seed=0).mean(values)
    by_clip = Resampler(np.arange(500), num_draws=1000, seed=0).mean(values)
    assert by_source.high - by_source.low > 4 * (by_clip.high - by_clip.low)


def test_interval_covers_the_truth_about_as_often_as_it_says():
    random = np.random.default_rng(3)
    covered = 0
    for seed in range(200):
        estimate = Resampler(np.arange(60), num_draws=300, seed=seed).mean(random.random(60))
        covered += estimate.low <= 0.5 <= estimate.high
    assert 0.89 <= covered / 200 <= 0.99


def test_same_seed_same_interval(items):
    labels, _, sources = items
    estimates = [Resampler(sources, num_draws=200, seed=5).mean(labels) for _ in range(2)]
    assert estimates[0] == estimates[1]
    assert Resampler(sources, num_draws=200, seed=6).mean(labels) != estimates[0]


def test_binned_frame_scores_stay_within_the_stated_error():
    random = np.random.default_rng(2)
    labels = random.random(30_000) < 0.1
    scores = random.normal(size=30_000) + labels
    ranks, distinct = score_ranks(scores, HISTOGRAM_BINS)
    assert len(distinct) <= HISTOGRAM_BINS and (np.diff(distinct) < 0).all()
    assert all(distinct[rank] <= score for rank, score in zip(ranks[:500], scores[:500], strict=True))
    resampler = Resampler(np.arange(30), num_draws=1, seed=0)
    joined = resampler.score_histograms(labels, scores, np.arange(30_000) % 30).sum(0)
    assert joined.sum() == 30_000 and joined[: len(distinct)].sum() == labels.sum()
    exact = clip.roc_auc(labels, scores)
    assert abs(float(ranked(ranking.auc)(joined)) - exact) < 1 / (2 * HISTOGRAM_BINS * 0.9)


def test_what_has_no_interval_or_no_value():
    alone = Resampler(["only"] * 4, num_draws=100, seed=0).mean([0, 1, 1, 1])
    assert alone.value == 0.75 and np.isnan(alone.low) and np.isnan(alone.high)
    resampler = Resampler(["a", "b"], num_draws=100, seed=0)
    with pytest.raises(MetricError, match="class is missing"):
        resampler.estimate(resampler.score_histograms([1, 1], [0.2, 0.3]), ranked(ranking.auc))
    with pytest.raises(MetricError, match="no clips"):
        Resampler([], num_draws=10, seed=0)


def test_draws_without_a_class_do_not_poison_the_interval():
    labels = np.array([1, 0, 0, 0, 0, 0])
    resampler = Resampler(np.arange(6), num_draws=1000, seed=0)
    estimate = resampler.estimate(
        resampler.score_histograms(labels, [0.9, 0.1, 0.2, 0.3, 0.95, 0.4]), ranked(ranking.auc)
    )
    assert estimate.value == pytest.approx(0.8)
    assert np.isfinite([estimate.low, estimate.high]).all()
