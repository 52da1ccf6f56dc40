from fractions import Fraction
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from fakesound.core.errors import UserError
from fakesound.core.regions import Region, frame_labels, regions_from_frames, to_samples


def slow_frame_labels(regions, num_frames, hop_samples, sample_rate_hz):
    """Sample by sample, the rule as it is written: at least half of the frame's samples are forged."""
    forged = set()
    for onset, offset in to_samples(regions, sample_rate_hz):
        forged.update(range(onset, min(offset, num_frames * hop_samples)))
    counts = [sum(k * hop_samples + i in forged for i in range(hop_samples)) for k in range(num_frames)]
    return [int(Fraction(count, hop_samples) >= Fraction(1, 2)) for count in counts]


def test_float_floor_division_would_lose_a_frame():
    assert 8.28 // 0.01 == 827  # the study's defect
    assert frame_labels([Region(8.28, 9.96)], 1000, 320, 32_000).nonzero()[0].tolist() == list(
        range(828, 996)
    )


@given(
    st.lists(st.tuples(st.integers(0, 3000), st.integers(1, 900)), max_size=5),
    st.integers(0, 12),
    st.integers(1, 40),
    st.sampled_from([100, 8000, 22_255]),
)
def test_agrees_with_the_rule_sample_by_sample(spans, num_frames, hop_samples, sample_rate_hz):
    regions = [Region(onset / sample_rate_hz, (onset + length) / sample_rate_hz) for onset, length in spans]
    fast = frame_labels(regions, num_frames, hop_samples, sample_rate_hz)
    assert fast.tolist() == slow_frame_labels(regions, num_frames, hop_samples, sample_rate_hz)


@given(st.lists(st.integers(0, 1), max_size=60))
def test_regions_from_frames_inverts_frame_labels(labels):
    regions = regions_from_frames(labels, 0.01)
    assert frame_labels(regions, len(labels), 320, 32_000).tolist() == labels


@pytest.mark.parametrize("bad", [(1.0, 1.0), (2.0, 1.0), (-0.1, 1.0), (np.nan, 1.0), (0.0, np.inf)])
def test_what_is_not_a_stretch_of_time_is_refused(bad):
    with pytest.raises(UserError, match="not a stretch of time"):
        to_samples([Region(*bad)], 32_000)


times_s = st.one_of(
    st.integers(0, 100_000).map(lambda hundredths: f"{hundredths / 100:.2f}"),  # as label files write them
    st.floats(0, 1e300).map(repr),
)


@given(
    st.lists(st.tuples(times_s, times_s), max_size=4),
    st.integers(0, 300),
    st.integers(1, 8000),
    st.sampled_from([8000, 11_025, 16_000, 22_050, 22_255, 32_000, 44_100]),
)
@example([("8.28", "9.96")], 1000, 320, 32_000)
@example([("0.05", "0.15")], 4, 10, 22_050)  # half a sample
@example([("0", "1e300")], 3, 320, 32_000)
def test_borders_are_those_of_the_decimals_in_the_file(spans, num_frames, hop_samples, sample_rate_hz):
    spans = [(onset, offset) for onset, offset in spans if float(onset) < float(offset)]
    regions = [Region(float(onset), float(offset)) for onset, offset in spans]
    exact = [tuple(round(Fraction(text) * sample_rate_hz) for text in span) for span in spans]
    assert to_samples(regions, sample_rate_hz) == exact
    labels = frame_labels(regions, num_frames, hop_samples, sample_rate_hz)
    for frame in range(num_frames):
        first, last = frame * hop_samples, (frame + 1) * hop_samples
        borders = sorted({first, last, *(min(max(b, first), last) for span in exact for b in span)})
        inside = sum(b - a for a, b in pairwise(borders) if any(s <= a and b <= e for s, e in exact))
        assert labels[frame] == (2 * inside >= hop_samples)


@given(st.integers(0, 999), st.integers(1, 999), st.sampled_from([(80, 8000), (320, 32_000), (441, 44_100)]))
def test_regions_in_whole_hundredths_become_exactly_those_frames(first, length, hop_and_rate):
    hop_samples, sample_rate_hz = hop_and_rate
    region = Region(first / 100, (first + length) / 100)
    labels = frame_labels([region], 2000, hop_samples, sample_rate_hz)
    assert labels.nonzero()[0].tolist() == list(range(first, first + length))
