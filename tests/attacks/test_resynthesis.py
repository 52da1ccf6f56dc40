"""WORLD, the phase vocoder and the codecs: length, level, pitch and alignment."""

import numpy as np
import pytest
from scipy import signal

from fakesound.attacks.base import AttackContext
from fakesound.attacks.codec import CODECS, draw_round_trip, round_trip
from fakesound.attacks.registry import get_attack
from fakesound.attacks.spectral import Stft
from fakesound.attacks.time_pitch import stretch
from fakesound.attacks.world import _raised, vocode
from fakesound.core.regions import SampleRegion


def vowel(rate, duration_s=1.0, pitch_hz=120.0):
    """A pulse train through two formants."""
    time = np.arange(round(duration_s * rate))
    pulses = np.diff(np.floor(time * pitch_hz / rate), prepend=0.0)
    for formant_hz in (600, 1500):
        pole = 0.97 * np.exp(2j * np.pi * formant_hz / rate)
        pulses = signal.lfilter([1.0], [1, -2 * pole.real, abs(pole) ** 2], pulses)
    return 0.3 * pulses / np.abs(pulses).max()


def pitch_of(samples, rate):
    lags = signal.correlate(samples, samples, "full")[len(samples) - 1 :]
    shortest = rate // 300
    return rate / (shortest + lags[shortest : rate // 60].argmax())


@pytest.mark.parametrize("harvest", [False, True])
def test_world_keeps_length_level_and_pitch(harvest):
    voice = vowel(16_000)
    made = vocode(voice, 16_000, frame_period_ms=5.0, harvest=harvest)
    assert made.shape == voice.shape
    middle = slice(2000, 14_000)
    assert 20 * np.log10(made[middle].std() / voice[middle].std()) == pytest.approx(0, abs=1.5)
    assert pitch_of(made[middle], 16_000) == pytest.approx(120, rel=0.03)


@pytest.mark.parametrize("rate", [8000, 11_025, 22_255, 48_000])
def test_world_takes_every_rate(rate):
    voice = vowel(rate).astype(np.float32)
    region = SampleRegion(round(0.3 * rate), round(0.7 * rate))
    made = get_attack("world").render(AttackContext(voice, region, rate), np.random.default_rng(0))
    assert made.shape == (region.offset - region.onset,)
    original = voice[region.onset : region.offset]
    assert 20 * np.log10(made.std() / original.std()) == pytest.approx(0, abs=2)
    assert pitch_of(made.astype(float), rate) == pytest.approx(120, rel=0.03)


def test_raising_the_rate_keeps_the_band_below_the_old_nyquist():
    samples = np.random.default_rng(0).standard_normal(1000)
    raised = _raised(samples, 2)
    np.testing.assert_allclose(signal.resample(raised, 1000), samples, atol=0.1)
    images = np.abs(np.fft.rfft(raised))
    assert images[550:].mean() == pytest.approx(0.25 * images[:450].mean(), rel=0.2)


@pytest.mark.parametrize("length", [12_000, 16_000, 20_000, 26_000])
def test_stretching_keeps_tones_and_their_levels(length):
    rate = 16_000
    tone = lambda n: np.sin(2 * np.pi * 440.3 * np.arange(n) / rate)  # noqa: E731
    middle = slice(2000, length - 2000)
    made = stretch(tone(16_000), length, Stft(1024))
    assert made.shape == (length,)
    time_s = np.arange(length)[middle] / rate
    basis = np.stack([f(2 * np.pi * 440.3 * time_s) for f in (np.sin, np.cos)], axis=1)
    weights, left_over, *_ = np.linalg.lstsq(basis, made[middle], rcond=None)
    assert np.hypot(*weights) == pytest.approx(1, abs=1e-3)
    assert 10 * np.log10(left_over[0] / (made[middle] ** 2).sum()) < -80


def test_stretching_keeps_the_level_of_noise():
    noise = np.random.default_rng(0).standard_normal(16_000)
    for length in (12_000, 20_000):
        assert 20 * np.log10(stretch(noise, length, Stft(1024)).std()) == pytest.approx(0, abs=1.5)


def test_time_pitch_changes_tempo_or_pitch():
    """A tone comes back at another pitch or, where the tempo alone changed, at its own."""
    rate = 16_000
    samples = np.sin(2 * np.pi * 1000 * np.arange(2 * rate) / rate).astype(np.float32)
    context = AttackContext(samples, SampleRegion(8000, 24_000), rate)
    semitones = []
    for seed in range(12):
        made = get_attack("time_pitch").render(context, np.random.default_rng(seed))
        assert made.shape == (16_000,)
        peak = np.abs(np.fft.rfft(made * np.hanning(16_000))).argmax()
        semitones.append(12 * np.log2(peak / 1000))
    shifted = [abs(s) for s in semitones if abs(s) > 0.1]
    assert min(shifted) > 0.45 and max(shifted) < 4.05 and len(shifted) < 12


@pytest.mark.parametrize("rate", [8000, 11_025, 22_255, 32_000, 48_000])
@pytest.mark.parametrize("codec", CODECS)
def test_codecs_line_up(codec, rate):
    """Clicks on a quiet floor come back where they were, to half a millisecond."""
    samples = 1e-3 * np.random.default_rng(0).standard_normal(rate)
    places = (np.array([0.21, 0.5, 0.83]) * rate).astype(int)
    length = rate // 500
    burst = 0.5 * np.hanning(length) * np.sin(2 * np.pi * 1500 * np.arange(length) / rate)
    for place in places:
        samples[place : place + length] += burst
    samples = samples.astype(np.float32)
    heard = round_trip(samples, rate, codec, 0.5)
    assert heard.shape == samples.shape and heard.dtype == np.float32
    for place in places:
        near = slice(place - rate // 50, place + rate // 50)
        lags = signal.correlate(heard[near], samples[near], "full")
        assert abs(lags.argmax() - (near.stop - near.start - 1)) <= rate / 2000


@pytest.mark.parametrize("rate", [4000, 96_000, 384_000])
def test_codecs_take_every_rate_that_files_have(rate):
    samples = 0.1 * np.random.default_rng(0).standard_normal(rate // 4).astype(np.float32)
    for codec in CODECS:
        assert round_trip(samples, rate, codec, 0.5).shape == samples.shape


def test_codecs_take_what_is_beyond_full_scale_and_silence():
    loud = 3 * np.sin(np.arange(8000) / 9).astype(np.float32)
    for codec in CODECS:
        heard = round_trip(loud, 16_000, codec, 0.5)
        assert np.abs(heard).max() > 2.5
        assert np.abs(round_trip(np.zeros(4000, dtype=np.float32), 16_000, codec, 0.5)).max() < 1e-3


def test_low_quality_costs_something():
    noise = 0.1 * np.random.default_rng(0).standard_normal(22_050).astype(np.float32)
    for seed in range(6):
        heard = draw_round_trip(noise, 22_050, np.random.default_rng(seed))
        assert -25 < 10 * np.log10(((heard - noise) ** 2).mean() / (noise**2).mean()) < 1
