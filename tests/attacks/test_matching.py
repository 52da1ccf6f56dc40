import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import signal

from fakesound.attacks.matching import BandLevels, match, mean_log_flux
from fakesound.attacks.spectral import Stft
from fakesound.core.regions import SampleRegion

RATE = 16_000
SPAN = SampleRegion(RATE // 2, RATE * 3 // 2)


def level_db(samples):
    return 10 * np.log10(np.mean(samples**2))


def octave_levels_db(samples, rate):
    frequencies, power = signal.welch(samples, rate, nperseg=1024)
    edges = 125 * 2.0 ** np.arange(7)
    return [
        10 * np.log10(power[(frequencies >= low) & (frequencies < high)].sum())
        for low, high in itertools.pairwise(edges)
        if high <= rate / 2
    ]


@pytest.fixture(scope="module")
def recording():
    """Two seconds of band-limited, modulated noise over a tone, at most 5 kHz of 8 kHz used."""
    rng = np.random.default_rng(0)
    low = signal.butter(8, 3000, fs=RATE, output="sos")
    time_s = np.arange(2 * RATE) / RATE
    noise = signal.sosfilt(low, rng.standard_normal(2 * RATE)) * (1.2 + np.sin(2 * np.pi * 2 * time_s))
    mixed = 0.1 * noise + 0.05 * np.sin(2 * np.pi * 440 * time_s)
    spectrum = np.fft.rfft(mixed)
    spectrum[np.fft.rfftfreq(2 * RATE, 1 / RATE) > 5000] = 0
    return np.fft.irfft(spectrum)


@pytest.fixture(scope="module")
def matched(recording):
    white = 3.0 * np.random.default_rng(1).standard_normal(SPAN.offset - SPAN.onset)
    return match(white, recording, SPAN, RATE)


def test_band_levels_agree_within_1_db(recording, matched):
    wanted = octave_levels_db(recording[slice(*SPAN)], RATE)
    np.testing.assert_allclose(octave_levels_db(matched, RATE), wanted, atol=1.0)


def test_level_over_50_ms_agrees_within_2_db(recording, matched):
    block = RATE // 20
    pairs = zip(recording[slice(*SPAN)].reshape(-1, block), matched.reshape(-1, block), strict=True)
    assert max(abs(level_db(a) - level_db(b)) for a, b in pairs) < 2


def test_a_steady_noise_floor_stays_steady_under_a_voice_that_comes_and_goes() -> None:
    rng = np.random.default_rng(3)
    time_s = np.arange(2 * RATE) / RATE
    voice = np.sin(2 * np.pi * 300 * time_s) * (np.sin(2 * np.pi * 3 * time_s) > 0)
    floor = signal.sosfilt(
        signal.butter(8, 4000, "high", fs=RATE, output="sos"), rng.standard_normal(2 * RATE)
    )
    speech = 0.3 * voice + 0.003 * floor
    elsewhere = np.roll(speech, RATE // 7)[slice(*SPAN)]  # the voice comes at other moments there
    matched = match(elsewhere, speech, SPAN, RATE)
    high = signal.butter(8, 5000, "high", fs=RATE, output="sos")
    levels = [
        level_db(block) for block in signal.sosfiltfilt(high, matched)[800:-800].reshape(-1, RATE // 20)[1:-1]
    ]
    assert max(levels) - min(levels) < 4  # with one gain for all bands: 7.5


def test_nothing_above_the_recordings_bandwidth(matched):
    frequencies, power = signal.welch(matched, RATE, nperseg=2048)
    above = power[frequencies > 5300].max()
    assert 10 * np.log10(above / power.max()) < -70


def test_flux_of_noise_in_place_of_a_tone_comes_within_a_factor_of_two():
    time_s = np.arange(2 * RATE) / RATE
    tone = sum(np.sin(2 * np.pi * 220 * k * time_s) for k in range(1, 9)) * 0.05
    tone = tone * (1 + 0.3 * np.sin(2 * np.pi * 4 * time_s))
    tone = tone + 1e-3 * np.random.default_rng(2).standard_normal(len(tone))
    noise = np.random.default_rng(3).standard_normal(RATE)
    stft = Stft.lasting(0.032, RATE)

    def flux(inner):
        whole = tone.copy()
        whole[slice(*SPAN)] = inner
        return np.exp(mean_log_flux(np.abs(stft.analyse(whole))[70:180]))

    wanted = flux(tone[slice(*SPAN)])
    assert flux(noise * 0.1) > 4 * wanted
    assert flux(match(noise, tone, SPAN, RATE)) < 2 * wanted


def test_flux_is_zero_for_equal_and_one_for_disjoint_spectra():
    assert mean_log_flux(np.array([[1.0, 0.0], [0.0, 1.0]])) == pytest.approx(0.0)
    assert mean_log_flux(np.ones((3, 4))) < -30


def test_silence_stays_silence(recording):
    noise = np.random.default_rng(4).standard_normal(SPAN.offset - SPAN.onset)
    assert not match(noise, np.zeros_like(recording), SPAN, RATE).any()
    half = recording.copy()
    half[RATE:] = 0.0
    matched = match(noise, half, SPAN, RATE)
    assert np.abs(matched[-RATE // 4 :]).max() < 1e-6
    assert level_db(matched[: RATE // 4]) == pytest.approx(level_db(half[SPAN.onset :][: RATE // 4]), abs=1)


def test_silent_replacement_gives_no_nan(recording):
    matched = match(np.zeros(SPAN.offset - SPAN.onset), recording, SPAN, RATE)
    assert np.isfinite(matched).all()


def test_offset_is_the_originals(recording):
    shifted = recording + 0.2
    matched = match(np.random.default_rng(5).standard_normal(RATE), shifted, SPAN, RATE)
    assert matched.mean() == pytest.approx(shifted[slice(*SPAN)].mean(), abs=2e-3)


@settings(max_examples=15, deadline=None)
@given(st.integers(20, 2000), st.integers(0, 1000), st.floats(1e-4, 1e3), st.integers(0, 99))
def test_peaks_never_exceed_the_recordings_own(length, onset, scale, seed):
    rng = np.random.default_rng(seed)
    samples = rng.standard_normal(4000) * 0.1
    spiky = rng.standard_t(2, length) * scale
    matched = match(spiky, samples, SampleRegion(onset, onset + length), 8000)
    assert np.isfinite(matched).all() and len(matched) == length
    assert np.abs(matched).max() <= np.abs(samples).max() * (1 + 1e-9)


def test_level_gain_is_limited_upwards():
    faint = 1e-6 * np.random.default_rng(6).standard_normal(4000)
    loud = np.random.default_rng(7).standard_normal(4000)
    gained = level_db(BandLevels(loud, 8000).match(faint)) - level_db(faint)
    assert 20 < gained < 28
