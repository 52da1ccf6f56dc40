"""Griffin-Lim resynthesis: magnitudes kept on a coarse frequency grid, phases invented.

Method: the region's STFT magnitudes are averaged in mel-like bands (as in every mel-spectrogram generator),
spread back over the bins, and given phases by the fast Griffin-Lim iteration from a random start.
Griffin & Lim, "Signal estimation from modified short-time Fourier transform", IEEE TASSP 32(2), 1984;
Perraudin, Balazs & Søndergaard, "A fast Griffin-Lim algorithm", WASPAA 2013 (the momentum term).

Traces: harmonics blurred to band width, transients smeared over one window, phases that agree only locally
("phasiness"), residual inconsistency between overlapping frames.
"""

import numpy as np

from fakesound.attacks.base import Attack, AttackContext, FloatArray, Samples
from fakesound.attacks.spectral import Stft, band_centres, band_weights, random_phases

_WINDOWS_S = (0.024, 0.048)
_BAND_OCTAVES = (1 / 12, 1 / 5)
_BAND_MIN_HZ = 40.0
_ITERATIONS = (8, 20)
_MOMENTUM = 0.99


def reconstruct(
    magnitudes: Samples, stft: Stft, length: int, iterations: int, rng: np.random.Generator
) -> Samples:
    """Samples (length,) whose STFT magnitudes approach `magnitudes` (T, K), from random phases."""
    spectra = magnitudes * random_phases(magnitudes.shape, rng)
    previous = np.zeros_like(spectra)
    for _ in range(iterations):
        consistent = stft.analyse(stft.synthesise(spectra, length))
        accelerated = consistent + _MOMENTUM * (consistent - previous)
        spectra = magnitudes * accelerated / np.maximum(np.abs(accelerated), 1e-300)
        previous = consistent
    return stft.synthesise(spectra, length)


def _render(context: AttackContext, rng: np.random.Generator) -> FloatArray:
    rate = context.sample_rate_hz
    stft = Stft.lasting(rng.uniform(*_WINDOWS_S), rate)
    padded = context.with_margin(stft.n_fft)
    frequencies = stft.frequencies(rate)
    spacing = max(_BAND_MIN_HZ, rate / stft.n_fft)
    weights = band_weights(band_centres(rate / 2, rng.uniform(*_BAND_OCTAVES), spacing), frequencies)
    bands = np.abs(stft.analyse(padded)) @ (weights / weights.sum(axis=1, keepdims=True)).T
    filled = reconstruct(bands @ weights, stft, len(padded), int(rng.integers(*_ITERATIONS)), rng)
    return filled[stft.n_fft : stft.n_fft + context.length].astype(np.float32)


GRIFFIN_LIM = Attack(
    family="griffin_lim",
    mechanism="phase_reconstruction",
    summary="band magnitudes kept, phases by Griffin-Lim",
    render=_render,
)
