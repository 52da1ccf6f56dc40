import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fakesound.attacks.griffin_lim import reconstruct
from fakesound.attacks.nmf import activations
from fakesound.attacks.spectral import Stft, band_centres, band_weights, fade_in


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 3000), st.sampled_from([64, 256, 1024]), st.integers(0, 99))
def test_stft_round_trip_is_exact_at_every_length(length, n_fft, seed):
    samples = np.random.default_rng(seed).standard_normal(length)
    stft = Stft(n_fft)
    np.testing.assert_allclose(stft.synthesise(stft.analyse(samples), length), samples, atol=1e-12)


def test_frame_t_is_centred_on_t_minus_one_hops():
    stft, samples = Stft(64), np.zeros(640)
    samples[160] = 1.0
    energies = (np.abs(stft.analyse(samples)) ** 2).sum(axis=1)
    assert (energies.argmax() - 1) * stft.hop == 160


@given(st.floats(2000, 24_000), st.floats(0.05, 1.0), st.floats(20, 500))
def test_bands_cover_every_frequency_once(nyquist_hz, share, spacing_hz):
    centres = band_centres(nyquist_hz, share, spacing_hz)
    assert centres[0] == 0 and centres[-1] == nyquist_hz and (np.diff(centres) > 0).all()
    frequencies = np.linspace(0, nyquist_hz, 201)
    np.testing.assert_allclose(band_weights(centres, frequencies).sum(axis=0), 1)


@given(st.integers(0, 500))
def test_crossfades_keep_power_or_amplitude(length):
    sine, cosine = fade_in(length, equal_power=True), fade_in(length, equal_power=False)
    np.testing.assert_allclose(sine**2 + sine[::-1] ** 2, 1)
    np.testing.assert_allclose(cosine + cosine[::-1], 1)
    assert ((sine > 0) & (sine < 1)).all()


def test_griffin_lim_approaches_consistency():
    rate = 16_000
    time_s = np.arange(rate // 2) / rate
    speechlike = np.sin(2 * np.pi * (200 * time_s + 300 * time_s**2)) * (1 + np.sin(2 * np.pi * 5 * time_s))
    stft = Stft(512)
    wanted = np.abs(stft.analyse(speechlike))

    def inconsistency_db(iterations):
        rebuilt = reconstruct(wanted, stft, len(speechlike), iterations, np.random.default_rng(0))
        error = np.linalg.norm(np.abs(stft.analyse(rebuilt)) - wanted) / np.linalg.norm(wanted)
        return 20 * np.log10(error)

    one, eight, forty = inconsistency_db(1), inconsistency_db(8), inconsistency_db(40)
    assert forty < eight < one
    assert forty < -20


def test_nmf_updates_never_raise_the_divergence():
    rng = np.random.default_rng(0)
    wanted, templates = rng.random((12, 20)) + 0.01, rng.random((5, 20)) + 0.01

    def divergence(updates):
        model = activations(wanted, templates, updates) @ templates
        return (wanted * np.log(wanted / model) - wanted + model).sum()

    values = [divergence(n) for n in (0, 1, 2, 5, 20, 100)]
    assert values == sorted(values, reverse=True)


def test_nmf_finds_an_exact_mixture():
    rng = np.random.default_rng(1)
    templates, truth = rng.random((4, 30)), rng.random((9, 4))
    mixed = activations(truth @ templates, templates, 3000)
    np.testing.assert_allclose(mixed @ templates, truth @ templates, rtol=1e-2)


@pytest.mark.parametrize(
    ("window_s", "rate", "n_fft"), [(0.032, 32_000, 1024), (0.032, 22_255, 512), (0.001, 8000, 64)]
)
def test_window_is_the_nearest_power_of_two(window_s, rate, n_fft):
    assert Stft.lasting(window_s, rate).n_fft == n_fft
