"""LPC vocoder: spectral envelope by linear prediction, excitation by pulses or noise.

Method: every short frame is described by an all-pole envelope, a gain, a voicing decision and a pitch (the
peak of its autocorrelation); a pulse train or white noise is then filtered by the envelopes.
Atal & Hanauer, "Speech analysis and synthesis by linear prediction of the speech wave", JASA 50, 1971.

Traces: buzzy minimum-phase pulses of exact periodicity, hard switches between voiced and unvoiced, spectral
zeros and everything between the formants lost, chords and other inharmonic sounds reduced to one pitch.
"""

import numpy as np
from scipy import fft, ndimage

from fakesound.attacks.base import Attack, AttackContext, FloatArray, Samples
from fakesound.attacks.prediction import levinson
from fakesound.attacks.spectral import Stft

_WINDOW_S = 0.032
_ORDERS_PER_HZ = (1 / 1200, 1 / 700)
_ORDER_BOUNDS = (8, 48)
_PITCH_HZ = (70.0, 420.0)
_VOICED_ABOVE = 0.45  # normalised autocorrelation at the pitch period
_WHITE_NOISE = 1e-7  # of the frame's power: bounds the envelope's dynamic range


def _render(context: AttackContext, rng: np.random.Generator) -> FloatArray:
    rate = context.sample_rate_hz
    stft = Stft.lasting(_WINDOW_S, rate)
    padded = context.with_margin(stft.n_fft)
    order = int(np.clip(rng.uniform(*_ORDERS_PER_HZ) * rate, *_ORDER_BOUNDS))
    power = np.abs(np.asarray(fft.rfft(stft.frames(padded), 2 * stft.n_fft, axis=1))) ** 2
    correlation = np.asarray(fft.irfft(power, axis=1))[:, : stft.n_fft]
    lags = correlation[:, : order + 1].copy()
    lags[:, 0] = lags[:, 0] * (1 + _WHITE_NOISE) + 1e-30
    polynomials = levinson(lags)
    gains = np.sqrt(np.maximum((polynomials * lags).sum(axis=1), 0) / (stft.window**2).sum())
    excitation = stft.analyse(_excitation(correlation, stft, rate, len(padded), rng))
    spectra = excitation * gains[:, None] / np.asarray(fft.rfft(polynomials, stft.n_fft, axis=1))
    return stft.synthesise(spectra, len(padded))[stft.n_fft : stft.n_fft + context.length].astype(np.float32)


def _excitation(
    correlation: Samples, stft: Stft, rate: int, length: int, rng: np.random.Generator
) -> Samples:
    """Unit-power pulses where frames are voiced, unit-power noise elsewhere, (length,)."""
    shortest, longest = int(rate / _PITCH_HZ[1]), min(int(rate / _PITCH_HZ[0]), stft.n_fft // 2)
    # Hann's own autocorrelation falls with the lag: undo it, or long periods never count as voiced.
    shape = np.asarray(fft.irfft(np.abs(np.asarray(fft.rfft(stft.window, 2 * stft.n_fft))) ** 2))[:longest]
    normalised = correlation[:, :longest] / np.maximum(correlation[:, :1], 1e-30) / (shape / shape[0])
    periods = shortest + normalised[:, shortest:].argmax(axis=1)
    voiced = normalised[np.arange(len(periods)), periods] > _VOICED_ABOVE
    smooth = ndimage.median_filter(periods.astype(np.float64), 3)
    centres = (np.arange(len(periods)) - 1) * stft.hop
    period = np.interp(np.arange(length), centres, smooth)
    pulses = np.diff(np.floor(np.cumsum(1 / period) + rng.random()), prepend=0.0) > 0
    is_voiced = np.interp(np.arange(length), centres, voiced.astype(np.float64)) > 0.5
    return np.where(is_voiced, pulses * np.sqrt(period), rng.standard_normal(length))


LPC_VOCODER = Attack(
    family="lpc_vocoder",
    mechanism="vocoder",
    summary="all-pole envelopes driven by pulses or noise",
    render=_render,
)
