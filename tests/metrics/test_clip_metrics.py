import numpy as np
import pytest
import sklearn.metrics as sk
from hypothesis import given, settings
from hypothesis import strategies as st

from fakesound.metrics import clip
from fakesound.metrics.errors import MetricError


@st.composite
def scored_items(draw, max_size=40):
    """Labels with both classes, and probabilities on a coarse grid so that ties are common."""
    size = draw(st.integers(2, max_size))
    labels = draw(st.lists(st.booleans(), min_size=size, max_size=size).filter(lambda v: 0 < sum(v) < size))
    scores = draw(st.lists(st.integers(0, 20), min_size=size, max_size=size))
    return np.array(labels), np.array(scores) / 20


@given(scored_items())
@settings(max_examples=60, deadline=None)
def test_parity_with_scikit_learn(items):
    labels, scores = items
    assert clip.roc_auc(labels, scores) == pytest.approx(sk.roc_auc_score(labels, scores), abs=1e-12)
    assert clip.average_precision(labels, scores) == pytest.approx(
        sk.average_precision_score(labels, scores), abs=1e-12
    )
    assert clip.brier(labels, scores) == pytest.approx(sk.brier_score_loss(labels, scores), abs=1e-12)
    held = np.clip(scores, 1e-6, 1 - 1e-6)
    assert clip.log_loss(labels, held) == pytest.approx(sk.log_loss(labels, held), abs=1e-9)
    assert clip.accuracy(labels, scores, 0.5) == sk.accuracy_score(labels, scores >= 0.5)
    assert clip.balanced_accuracy(labels, scores, 0.5) == pytest.approx(
        sk.balanced_accuracy_score(labels, scores >= 0.5)
    )
    expected = sk.roc_curve(labels, scores, drop_intermediate=False)
    found = clip.roc_curve(labels, scores)
    np.testing.assert_allclose(found.x, expected[0], atol=1e-12)
    np.testing.assert_allclose(found.y, expected[1], atol=1e-12)


def eer_by_bisection(labels, scores):
    """Slow reference: bisect the piecewise linear ROC of scikit-learn for FPR = 1 - TPR."""
    fpr, tpr, _ = sk.roc_curve(labels, scores, drop_intermediate=False)
    position = np.arange(len(fpr), dtype=float)
    low, high = 0.0, position[-1]
    for _ in range(80):
        middle = (low + high) / 2
        if np.interp(middle, position, fpr) < 1 - np.interp(middle, position, tpr):
            low = middle
        else:
            high = middle
    return np.interp(high, position, fpr)


@given(scored_items())
@settings(max_examples=60, deadline=None)
def test_eer_is_the_crossing_of_the_roc(items):
    assert clip.eer(*items) == pytest.approx(eer_by_bisection(*items), abs=1e-9)


@given(scored_items(), st.randoms(use_true_random=False))
@settings(max_examples=40, deadline=None)
def test_order_of_clips_and_monotone_maps_change_nothing(items, random):
    labels, scores = items
    order = list(range(len(labels)))
    random.shuffle(order)
    for metric in (clip.roc_auc, clip.eer, clip.average_precision):
        value = metric(labels, scores)
        assert metric(labels[order], scores[order]) == pytest.approx(value, abs=1e-12)
        assert metric(labels, np.exp(3 * scores) - 7) == pytest.approx(value, abs=1e-12)
    assert clip.roc_auc(~labels, -scores) == pytest.approx(clip.roc_auc(labels, scores), abs=1e-12)


def test_hand_worked():
    labels, scores = [1, 0, 1, 0], [0.9, 0.8, 0.7, 0.1]
    assert clip.roc_auc(labels, scores) == 0.75  # 3 of 4 pairs in order
    assert clip.eer(labels, scores) == 0.5  # ROC corner (0.5, 0.5)
    assert clip.average_precision(labels, scores) == pytest.approx(0.5 * 1 + 0.5 * 2 / 3)
    assert clip.brier([1, 0], [0.8, 0.4]) == pytest.approx((0.04 + 0.16) / 2)
    assert clip.log_loss([1, 0], [0.5, 0.5]) == pytest.approx(np.log(2))
    # Bins [0.2, 0.3) and [0.7, 0.8): |0 - 0.2| and |1 - 0.7| a quarter and three quarters of the time.
    assert clip.ece([0, 1, 1, 1], [0.2, 0.7, 0.7, 0.7]) == pytest.approx(0.25 * 0.2 + 0.75 * 0.3)
    assert clip.ece([1, 0], [1.0, 0.0]) == 0.0
    assert clip.roc_auc([0, 1], [0.5, 0.5]) == clip.eer([0, 1], [0.5, 0.5]) == 0.5


def test_precision_recall_curve_is_scikit_learns_backwards():
    labels, scores = [1, 0, 1, 0, 1], [0.9, 0.8, 0.7, 0.1, 0.1]
    precision, recall, _ = sk.precision_recall_curve(labels, scores)
    found = clip.precision_recall_curve(labels, scores)
    np.testing.assert_allclose(found.x, recall[::-1])
    np.testing.assert_allclose(found.y, precision[::-1])


@given(scored_items())
@settings(max_examples=60, deadline=None)
def test_best_threshold_beats_every_other(items):
    labels, scores = items
    best = clip.balanced_accuracy(labels, scores, clip.best_balanced_accuracy_threshold(labels, scores))
    assert best >= max(clip.balanced_accuracy(labels, scores, t) for t in [*scores, 2.0]) - 1e-12


def test_threshold_lies_between_the_scores_it_separates():
    assert clip.best_balanced_accuracy_threshold([0, 1], [0.2, 0.6]) == pytest.approx(0.4)
    assert clip.best_balanced_accuracy_threshold([1, 0], [0.2, 0.6]) > 0.6  # useless scores: call nothing


@pytest.mark.parametrize(
    ("labels", "scores", "message"),
    [
        ([], [], "no items"),
        ([1, 1], [0.1, 0.2], "only one class"),
        ([0, 0], [0.1, 0.2], "only one class"),
        ([0, 1], [0.1], "equal and flat"),
        ([0, 2], [0.1, 0.2], "0 or 1"),
        ([0, 1], [0.1, np.nan], "finite"),
    ],
)
def test_undefined_input_is_named(labels, scores, message):
    for metric in (clip.roc_auc, clip.eer, clip.average_precision, clip.best_balanced_accuracy_threshold):
        with pytest.raises(MetricError, match=message):
            metric(labels, scores)


def test_calibration_refuses_what_is_not_a_probability():
    for metric in (clip.brier, clip.log_loss, clip.ece):
        with pytest.raises(MetricError, match="probabilities"):
            metric([0, 1], [0.2, 1.5])
