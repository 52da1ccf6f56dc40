from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
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
