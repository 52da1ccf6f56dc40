import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import signal

from fakesound.attacks.base import Attack, AttackContext
from fakesound.attacks.excerpts import elsewhere, from_donor
from fakesound.attacks.forge import control, forge
from fakesound.attacks.registry import ATTACKS, get_attack
from fakesound.core.errors import UserError
from fakesound.core.regions import SampleRegion

MARK = Attack(
    "mark", "mark", "alternating signs: changes every sample", lambda c, rng: rng.standard_normal(c.length)
)


def recording(rate, duration_s, seed=0):
    """Voiced syllables over faint noise: float32."""
    rng = np.random.default_rng(seed)
    time_s = np.arange(round(duration_s * rate)) / rate
    pulses = np.diff(np.floor(np.cumsum(np.full(len(time_s), 130 / rate))), prepend=0)
    voice = signal.lfilter([1.0], [1, -1.7 * np.cos(2 * np.pi * 600 / rate), 0.85**2], pulses)
    voice = voice * (1 + np.sin(2 * np.pi * 3 * time_s)) + 0.01 * rng.standard_normal(len(time_s))
    return (0.5 * voice / np.abs(voice).max()).astype(np.float32)


def run(family, samples, regions, rate, seed=0):
    rng = np.random.default_rng(seed)
    if family == "control":
        return control(samples, regions, sample_rate_hz=rate, rng=rng)
    donor = recording(rate, 0.5, seed=9)
    return forge(samples, regions, get_attack(family), sample_rate_hz=rate, rng=rng, donor=donor)


FAMILIES = [*ATTACKS, "control"]

AWKWARD = {
    "start": (8000, 0.8, [(0.0, 0.3)]),
    "end": (44_100, 0.5, [(0.3, 0.5)]),
    "40 ms": (8000, 0.5, [(0.2, 0.24)]),
    "40 ms at 44.1 kHz": (44_100, 0.4, [(0.3, 0.34)]),
    "whole but 10 ms": (8000, 0.3, [(0.01, 0.29)]),
    "whole": (22_255, 0.3, [(0.0, 0.3)]),
    "a sample from the edges": (11_025, 0.5, [(1 / 11_025, 0.5 - 1 / 11_025)]),
    "three, close together": (16_000, 1.0, [(0.1, 0.2), (0.201, 0.3), (0.3, 0.5)]),
}


@pytest.mark.parametrize("place", AWKWARD)
@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_fills_every_awkward_region(family, place):
    rate, duration_s, spans = AWKWARD[place]
    samples = recording(rate, duration_s)
    regions = [SampleRegion(round(a * rate), round(b * rate)) for a, b in spans]
    forged = run(family, samples, regions, rate)
    assert forged.dtype == np.float32 and forged.shape == samples.shape
    assert np.isfinite(forged).all()
    assert np.abs(forged).max() <= np.abs(samples).max() * 1.42  # equal-power crossfades add up to 3 dB
    for onset, offset in regions:
        before, after = samples[onset:offset].astype(float), forged[onset:offset].astype(float)
        assert (before != after).mean() > 0.9
        assert 20 * np.log10(after.std() / before.std()) == pytest.approx(0, abs=3)


@pytest.mark.parametrize("family", FAMILIES)
def test_silence_is_forged_into_silence(family):
    samples = np.zeros(8000, dtype=np.float32)
    assert not run(family, samples, [SampleRegion(2000, 5000)], 8000).any()
    samples[:2500] = recording(8000, 0.3125)  # sound stops within the region
    forged = run(family, samples, [SampleRegion(2000, 5000)], 8000)
    assert np.isfinite(forged).all() and np.abs(forged[4000:]).max() < 1e-6


def clicks(rate):
    samples = np.zeros(rate // 2, dtype=np.float32)
    samples[:: rate // 20] = 0.9
    return samples


SOUNDS = {
    "DC": (16_000, lambda rate: np.full(rate // 2, 0.3, dtype=np.float32)),
    "clicks": (11_025, clicks),
    "square wave": (48_000, lambda rate: np.sign(np.sin(np.arange(rate // 2) / 40)).astype(np.float32)),
    "one bit of noise": (
        8000,
        lambda rate: np.random.default_rng(1).integers(0, 2, rate // 2).astype(np.float32) / 32_768,
    ),
}


@pytest.mark.parametrize("sound", SOUNDS)
@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_survives_every_sound_and_leaves_the_rest_alone(family, sound):
    rate, make = SOUNDS[sound]
    samples = make(rate)
    for span_s in ((0.2, 0.24), (0.1, 0.4), (0.0, 0.5)):
        region = SampleRegion(round(span_s[0] * rate), round(span_s[1] * rate))
        forged = run(family, samples, [region], rate)
        assert np.isfinite(forged).all() and np.abs(forged).max() <= np.abs(samples).max() * 1.42
        half = (
            region.offset - region.onset
        ) // 8 + 1  # a crossfade lasts a quarter of the region, half outside
        before, after = slice(0, max(0, region.onset - half)), slice(region.offset + half, None)
        for outside in (before, after):
            assert forged[outside].tobytes() == samples[outside].tobytes()


@pytest.mark.parametrize("family", FAMILIES)
def test_same_seed_same_bits_other_seed_other_bits(family):
    samples, regions = recording(8000, 0.6), [SampleRegion(1000, 3000)]
    first = run(family, samples, regions, 8000, seed=1)
    assert first.tobytes() == run(family, samples, regions, 8000, seed=1).tobytes()
    assert first.tobytes() != run(family, samples, regions, 8000, seed=2).tobytes()


@pytest.mark.parametrize(
    "family", ["griffin_lim", "phase_randomisation", "noise_vocoder", "lpc_vocoder", "world", "nmf", "codec"]
)
def test_resynthesis_follows_the_original_in_time(family):
    rate = 16_000
    samples = recording(rate, 1.2)
    rendered = get_attack(family).render(
        AttackContext(samples, SampleRegion(3200, 16_000), rate), np.random.default_rng(0)
    )
    assert rendered.shape == (12_800,) and rendered.dtype == np.float32

    def envelope(x):
        return np.sqrt((x.astype(float).reshape(-1, 400) ** 2).mean(axis=1))

    original = samples[3200:16_000]
    assert np.corrcoef(envelope(original), envelope(rendered))[0, 1] > 0.7
    if "vocoder" in family:
        assert 20 * np.log10(rendered.std() / original.std()) == pytest.approx(0, abs=3)


def test_autoregressive_fill_joins_without_a_step():
    rate = 16_000
    samples = np.sin(2 * np.pi * 200 * np.arange(rate) / rate).astype(np.float32) * 0.3
    samples += 1e-3 * np.random.default_rng(0).standard_normal(rate).astype(np.float32)
    region = SampleRegion(6000, 9000)
    fill = get_attack("autoregressive").render(AttackContext(samples, region, rate), np.random.default_rng(0))
    steps = [fill[0] - samples[region.onset - 1], samples[region.offset] - fill[-1]]
    assert np.abs(steps).max() < 2 * np.abs(np.diff(samples)).max()


@st.composite
def recordings_with_regions(draw):
    rate = draw(st.sampled_from([8000, 22_255, 48_000]))
    borders = draw(st.lists(st.integers(0, 12_000), min_size=2, max_size=8, unique=True).map(sorted))
    regions = [SampleRegion(a, b) for a, b in zip(borders[::2], borders[1::2], strict=False)]
    return rate, regions, draw(st.integers(0, 999))


@settings(max_examples=40, deadline=None)
@given(recordings_with_regions())
def test_crossfades_keep_their_limits_and_all_else_keeps_its_bits(case):
    rate, regions, seed = case
    samples = np.random.default_rng(seed).standard_normal(12_000).astype(np.float32) * 0.1
    forged = forge(samples, regions, MARK, sample_rate_hz=rate, rng=np.random.default_rng(seed))
    allowed = np.zeros(len(samples), dtype=bool)
    for onset, offset in regions:
        half = min((offset - onset) // 4, round(0.05 * rate)) // 2  # the crossfade straddles the border
        allowed[max(0, onset - half) : offset + half] = True
    assert (forged[~allowed] == samples[~allowed]).all()
    assert forged[~allowed].tobytes() == samples[~allowed].tobytes()


def test_border_is_the_crossfades_midpoint():
    samples = 0.1 * np.random.default_rng(0).standard_normal(32_000).astype(np.float32)
    region = SampleRegion(8000, 24_000)
    for seed in range(5):
        forged = forge(samples, [region], MARK, sample_rate_hz=16_000, rng=np.random.default_rng(seed))
        changed = np.flatnonzero(forged != samples)
        before, after = region.onset - changed[0], changed[-1] + 1 - region.offset
        assert 0.0005 * 16_000 - 2 <= before <= 0.025 * 16_000 and 0.0005 * 16_000 - 2 <= after <= 400


def test_no_crossfade_at_the_recordings_own_edges():
    samples = 0.1 * np.ones(8000, dtype=np.float32)
    samples[::2] = -0.1
    forged = forge(samples, [SampleRegion(0, 8000)], MARK, sample_rate_hz=8000, rng=np.random.default_rng(0))
    assert forged[0] != samples[0] and forged[-1] != samples[-1]


@pytest.mark.parametrize(
    "bad", [[(0, 9000)], [(5, 5)], [(9, 2)], [(-1, 5)], [(100, 200), (150, 300)], [(50, 60), (1, 9)]]
)
def test_regions_that_make_no_sense_are_refused(bad):
    samples = np.ones(8000, dtype=np.float32)
    with pytest.raises(UserError, match="region"):
        control(samples, [SampleRegion(*r) for r in bad], sample_rate_hz=8000, rng=np.random.default_rng(0))


def test_control_takes_what_was_recorded_elsewhere():
    samples = np.arange(8000, dtype=float)
    for seed in range(20):
        found = elsewhere(
            samples, 3000, 1000, sample_rate_hz=8000, min_shift_s=0.1, rng=np.random.default_rng(seed)
        )
        assert (np.diff(found) == 1).all() and abs(found[0] - 3000) >= 800


def test_control_of_nearly_the_whole_recording_comes_from_the_ring():
    samples = np.sin(np.arange(2400) / 7.0)
    found = elsewhere(samples, 80, 2240, sample_rate_hz=8000, min_shift_s=0.1, rng=np.random.default_rng(0))
    assert len(found) == 2240 and not np.allclose(found, samples[80:2320])
    assert np.abs(np.diff(found)).max() < 0.5  # no click where the ring is closed


def test_short_donor_is_repeated_without_clicks():
    donor = np.sin(np.arange(900) / 9.0)
    stretch = from_donor(donor, np.ones(5000), 8000, np.random.default_rng(0))
    assert len(stretch) == 5000 and np.abs(np.diff(stretch)).max() < 0.3


def test_splice_without_a_donor_says_so():
    with pytest.raises(UserError, match="donor"):
        forge(
            recording(8000, 0.5),
            [SampleRegion(500, 2500)],
            get_attack("splice"),
            sample_rate_hz=8000,
            rng=np.random.default_rng(0),
        )
