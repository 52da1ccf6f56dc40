"""Noise vocoder: the region's band envelopes imposed on noise.

Method: band envelopes on a short-time grid modulate white noise that passes through the same bands.
Shannon et al., "Speech recognition with primarily temporal cues", Science 270, 1995; bands of 1/8 to 1/3
octave here, by STFT filtering instead of a bank of Butterworth filters.

Traces: no harmonics, no fine structure within a band, envelopes limited to the window's bandwidth, Rayleigh
fluctuations where the original was steady.
"""

import numpy as np

from fakesound.attacks.base import Attack, AttackContext, FloatArray
from fakesound.attacks.spectral import Stft, band_centres, band_weights

_WINDOWS_S = (0.016, 0.032)
_BAND_OCTAVES = (1 / 8, 1 / 3)
_BAND_MIN_HZ = 60.0
_FLOOR = 1e-20


def _render(context: AttackContext, rng: np.random.Generator) -> FloatArray:
    rate = context.sample_rate_hz
    stft = Stft.lasting(rng.uniform(*_WINDOWS_S), rate)
    padded = context.with_margin(stft.n_fft)
    spacing = max(_BAND_MIN_HZ, rate / stft.n_fft)
    centres = band_centres(rate / 2, rng.uniform(*_BAND_OCTAVES), spacing)
    weights = band_weights(centres, stft.frequencies(rate))
    noise = stft.analyse(rng.standard_normal(len(padded)))
    average = (weights / weights.sum(axis=1, keepdims=True)).T
    wanted = np.abs(stft.analyse(padded)) ** 2 @ average
    gains = np.sqrt(wanted / (stft.window**2).sum() + _FLOOR) @ weights
    return stft.synthesise(noise * gains, len(padded))[stft.n_fft : stft.n_fft + context.length].astype(
        np.float32
    )


NOISE_VOCODER = Attack(
    family="noise_vocoder",
    mechanism="vocoder",
    summary="band envelopes on a noise carrier",
    render=_render,
)
