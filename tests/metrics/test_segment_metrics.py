import warnings
from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fakesound.core.regions import regions_from_frames
from fakesound.metrics import segments
from fakesound.metrics.errors import MetricError
from fakesound.metrics.segments import Cells

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # sed_eval imports pkg_resources
    import sed_eval

HOP_S = 0.01

clips_of_frames = st.lists(
    st.lists(st.tuples(st.booleans(), st.integers(0, 10)), min_size=1, max_size=25), min_size=1, max_size=5
)


def cells_of(clips):
    return Cells.of_clips(
        [[int(y) for y, _ in clip] for clip in clips], [[s / 10 for _, s in clip] for clip in clips]
    )


def as_events(frames):
    return [
        # Borders a hair inside the frame: sed_eval's floor and ceil of 0.07 / 0.01 would add a frame.
        {"event_label": "forged", "onset": r.onset_s + 1e-6, "offset": r.offset_s - 1e-6, "file": "f"}
        for r in regions_from_frames(frames, HOP_S)
    ]


@pytest.mark.parametrize("resolution_s", [0.01, 0.02, 1.0])
def test_parity_with_sed_eval(resolution_s):
    random = np.random.default_rng(4)
    labels, scores = [], []
    reference = sed_eval.sound_event.SegmentBasedMetrics(["forged"], time_resolution=resolution_s)
    for num_frames in (300, 500, 1000, 250):
        walk = np.cumsum(random.normal(size=num_frames))
        labels.append((walk > np.quantile(walk, 0.8)).astype(int))
        scores.append(np.clip(labels[-1] * 0.4 + random.random(num_frames) * 0.8, 0, 1))
        # Long predicted runs: sed_eval reads events, one for each run.
        scores[-1] = np.repeat(scores[-1][::25], 25)[:num_frames]
        reference.evaluate(
            as_events(labels[-1]), as_events(scores[-1] >= 0.5), evaluated_length_seconds=num_frames / 100
        )
    cells = Cells.of_clips(labels, scores).pooled(segments.frames_per_cell(resolution_s, HOP_S))
    expected = reference.overall
    counts = segments.total_counts(cells, 0.5)
    assert (counts.true_positive, counts.false_positive, counts.false_negative, counts.true_negative) == (
        expected["Ntp"],
        expected["Nfp"],
        expected["Nfn"],
        expected["Ntn"],
    )
    measured = reference.results_overall_metrics()["f_measure"]
    assert segments.precision_recall_f1(cells, 0.5) == pytest.approx(
        (measured["precision"], measured["recall"], measured["f_measure"]), abs=1e-9
    )


@given(clips_of_frames, st.integers(1, 7))
@settings(max_examples=80, deadline=None)
def test_pooling_against_a_slow_loop(clips, frames_per_cell):
    expected = []
    for index, clip in enumerate(clips):
        for start in range(0, len(clip), frames_per_cell):
            cell = clip[start : start + frames_per_cell]
            expected.append((any(y for y, _ in cell), max(s for _, s in cell) / 10, index))
    pooled = cells_of(clips).pooled(frames_per_cell)
    assert list(zip(pooled.labels, pooled.scores, pooled.clip_of_cell, strict=True)) == expected


@given(clips_of_frames, st.integers(1, 5), st.randoms(use_true_random=False))
@settings(max_examples=40, deadline=None)
def test_order_of_clips_changes_no_count(clips, frames_per_cell, random):
    before = segments.total_counts(cells_of(clips).pooled(frames_per_cell), 0.5)
    shuffled = random.sample(clips, len(clips))
    assert segments.total_counts(cells_of(shuffled).pooled(frames_per_cell), 0.5) == before
    assert sum(before) == sum(-(-len(clip) // frames_per_cell) for clip in clips)


def test_counts_by_clip_and_selection():
    cells = Cells.of_clips([[1, 1, 0], [0, 0]], [[0.9, 0.1, 0.9], [0.1, 0.9]])
    counts = segments.counts_by_clip(cells, cells.scores >= 0.5)
    np.testing.assert_array_equal(counts, [[1, 1, 1, 0], [0, 1, 0, 1]])
    second = cells.select(np.array([False, True]))
    np.testing.assert_array_equal(segments.counts_by_clip(second, second.scores >= 0.5), counts[1:])
    assert segments.precision_recall_f1(cells, 0.5) == (1 / 3, 1 / 2, 0.4)


def test_hand_worked_pooling_at_two_resolutions():
    cells = Cells.of_clips([[0, 0, 1, 0, 0]], [[0, 0, 0, 1, 1]])
    assert segments.f1(cells, 0.5) == 0.0
    assert segments.precision_recall_f1(cells.pooled(2), 0.5) == (0.5, 1.0, pytest.approx(2 / 3))
    assert segments.f1(cells.pooled(5), 0.5) == 1.0


@given(clips_of_frames)
@settings(max_examples=40, deadline=None)
def test_all_fake_floor_is_what_calling_everything_forged_scores(clips):
    cells = cells_of(clips)
    if not cells.labels.any():
        return
    assert segments.f1(cells, -1.0) == pytest.approx(segments.all_fake_f1(float(cells.labels.mean())))


def test_excess_f1():
    assert segments.excess_f1(0.2, 0.2) == 0.0
    assert segments.excess_f1(1.0, 0.2) == 1.0
    assert segments.excess_f1(0.0, 0.2) == pytest.approx(-0.25)
    assert np.isnan(segments.excess_f1(1.0, 1.0))
    counts = np.array([[1.0, 1, 1, 7], [0, 0, 0, 5]])
    expected = (0.5 - segments.all_fake_f1(0.2)) / (1 - segments.all_fake_f1(0.2))
    np.testing.assert_allclose(segments.excess_f1_of_counts(counts), [expected, np.nan])


@given(clips_of_frames)
@settings(max_examples=60, deadline=None)
def test_best_f1_threshold_beats_every_other(clips):
    cells = cells_of(clips)
    if not cells.labels.any():
        return
    best = segments.f1(cells, segments.best_f1_threshold(cells))
    assert best >= max(segments.f1(cells, t) for t in np.unique(cells.scores)) - 1e-12


def oracle_by_exhaustion(labels, patch, cell):
    """Try every prediction that is constant within each run."""
    runs = -(-len(labels) // patch)
    truth = Cells.of_clips([labels], [labels]).pooled(cell)
    best = 0.0
    for choice in product([0, 1], repeat=runs):
        called = np.repeat(choice, patch)[: len(labels)]
        counts = segments.counts_by_clip(truth, Cells.of_clips([called], [called]).pooled(cell).labels)
        best = max(best, float(segments.f1_of_counts(counts)[0]))
    return best


@given(
    st.lists(st.integers(0, 1), min_size=1, max_size=24).filter(any),
    st.sampled_from([(4, 1), (4, 2), (3, 1), (3, 6), (4, 4), (5, 10)]),
)
@settings(max_examples=60, deadline=None)
def test_oracle_at_step_is_the_ceiling_where_patches_and_cells_nest(labels, lengths):
    patch, cell = lengths
    frames = Cells.of_clips([labels], [np.zeros(len(labels))])
    value, called = segments.oracle_at_step(frames, patch, cell)
    assert value == pytest.approx(oracle_by_exhaustion(labels, patch, cell), abs=1e-12)
    counts = segments.counts_by_clip(frames.pooled(cell), called)
    assert segments.f1_of_counts(counts)[0] == pytest.approx(value)


@given(st.lists(st.integers(0, 1), min_size=1, max_size=20).filter(any))
@settings(max_examples=30, deadline=None)
def test_oracle_elsewhere_is_reachable(labels):
    value, _ = segments.oracle_at_step(Cells.of_clips([labels], [np.zeros(len(labels))]), 3, 2)
    assert 0 < value <= oracle_by_exhaustion(labels, 3, 2) + 1e-12


def test_oracle_with_short_patches_is_perfect():
    frames = Cells.of_clips([[0, 1, 0, 0, 1, 1], [0, 0, 1]], [np.zeros(6), np.zeros(3)])
    assert segments.oracle_at_step(frames, 1, 1)[0] == 1.0
    assert segments.oracle_at_step(frames, 20, 1)[0] == pytest.approx(2 * 4 / (9 + 4))


def test_undefined_input_is_named():
    genuine = Cells.of_clips([[0, 0]], [[0.1, 0.9]])
    for undefined in (
        lambda: segments.f1(genuine, 0.5),
        lambda: segments.best_f1_threshold(genuine),
        lambda: segments.oracle_at_step(genuine, 1, 1),
        lambda: Cells.of_clips([], []),
        lambda: Cells.of_clips([[1]], [[0.1, 0.2]]),
        lambda: genuine.select(np.array([False])),
        lambda: genuine.pooled(0),
        lambda: segments.frames_per_cell(0.015, 0.01),
        lambda: segments.frames_per_cell(0.001, 0.01),
    ):
        with pytest.raises(MetricError):
            undefined()
