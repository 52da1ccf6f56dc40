from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fakesound.corpora.masks import (
    MIN_GAP_S,
    MIN_REGION_S,
    Mask,
    Placement,
    Regime,
    draw_audible_mask,
    draw_mask,
)


@settings(max_examples=300, deadline=None)
@given(
    seconds=st.floats(0.3, 10.0),
    rate_hz=st.sampled_from([8_000, 11_025, 22_255, 32_000]),
    regime=st.sampled_from(["train", "wide"]),
    turn=st.floats(0, 1, exclude_max=True),
    seed=st.integers(0, 2**32),
)
def test_regions_are_apart_inside_and_long_enough(
    seconds: float, rate_hz: int, regime: Regime, turn: float, seed: int
) -> None:
    num_samples = int(seconds * rate_hz)
    mask = draw_mask(num_samples, rate_hz, regime, turn, np.random.default_rng(seed))
    everything = sorted((*mask.regions, *mask.decoys))
    assert mask.regions
    for onset, offset in everything:
        assert 0 <= onset < offset <= num_samples
        assert offset - onset >= round(MIN_REGION_S * rate_hz)
    for before, after in pairwise(everything):
        assert after.onset - before.offset >= round(MIN_GAP_S * rate_hz) - 1
    forged = sum(offset - onset for onset, offset in mask.regions)
    low, high = (0.1, 0.4) if regime == "train" else (0.0, 0.99)
    assert min(low * num_samples, MIN_REGION_S * rate_hz) - 1 <= forged <= high * num_samples + 1


@pytest.mark.parametrize("regime", ["train", "wide"])
def test_position_says_nothing(regime: Regime) -> None:
    """Coverage by forged and by genuine splices is the same at every place of a clip."""
    num_samples, rng = 4_000, np.random.default_rng(7)
    forged, decoys = np.zeros(num_samples), np.zeros(num_samples)
    draws = 6_000
    for _ in range(draws):
        mask = draw_mask(num_samples, 1_000, regime, rng.random(), rng)
        for onset, offset in mask.regions:
            forged[onset:offset] += 1
        for onset, offset in mask.decoys:
            decoys[onset:offset] += 1
    for coverage in (forged, decoys):
        by_place = coverage.reshape(20, -1).mean(axis=1) / draws
        deviation = 5 * np.sqrt(by_place.mean() / draws)
        assert np.abs(by_place - by_place.mean()).max() < deviation


def test_lengths_follow_their_regime() -> None:
    rng = np.random.default_rng(3)
    masks = [draw_mask(10_000, 1_000, "wide", rng.random(), rng) for _ in range(2_000)]
    lengths = np.asarray([sum(r.offset - r.onset for r in mask.regions) for mask in masks])
    quartiles = np.exp(np.quantile(np.log(lengths), [0.25, 0.5, 0.75]))
    expected = np.exp(np.log(40) + np.asarray([0.25, 0.5, 0.75]) * np.log(9_900 / 40))
    np.testing.assert_allclose(quartiles, expected, rtol=0.15)
    assert 0.1 < np.mean([bool(mask.decoys) for mask in masks]) < 0.9


def test_regions_in_digital_silence_are_drawn_again() -> None:
    samples = np.zeros(16_000, dtype=np.float32)
    assert draw_audible_mask(samples, 8_000, "train", 0.0, np.random.default_rng(0)) is None
    samples[:8_000] = 0.1 * np.random.default_rng(1).standard_normal(8_000)
    for seed in range(20):
        mask = draw_audible_mask(samples, 8_000, "train", 0.3, np.random.default_rng(seed))
        assert mask is None or all(np.ptp(samples[a:b]) > 0 for a, b in (*mask.regions, *mask.decoys))


def test_activity_turns_a_mask_to_where_sounds_set_in() -> None:
    """Three bursts in the second half of a quiet clip."""
    rate_hz, onsets = 8_000, (17_000, 21_000, 26_000)
    samples = (0.001 * np.random.default_rng(0).standard_normal(4 * rate_hz)).astype(np.float32)
    for onset in onsets:
        samples[onset : onset + 800] += 0.3 * np.random.default_rng(onset).standard_normal(800)

    def draw(placement: Placement, seed: int) -> Mask | None:
        rng = np.random.default_rng(seed)
        return draw_audible_mask(samples, rate_hz, "train", seed / 100, rng, placement=placement)

    def num_on_onsets(placement: Placement) -> int:
        masks = [draw(placement, seed) for seed in range(100)]
        return sum(
            any(r.onset <= onset < r.offset for r in mask.regions for onset in onsets)
            for mask in masks
            if mask is not None
        )

    assert num_on_onsets("uniform") < 70
    assert num_on_onsets("activity") >= 95
    for seed in range(5):
        untouched = draw_mask(len(samples), rate_hz, "train", seed / 100, np.random.default_rng(seed))
        assert draw("uniform", seed) == untouched
        assert draw("activity", seed) == draw("activity", seed) is not None
