"""Time-stretch and pitch-shift: the region itself, faster or slower and higher or lower, in the same time.

Method: a stretch of the recording centred on the region, shorter or longer than it by the tempo, is brought
to the region's length by a phase vocoder; the pitch is shifted by stretching further and resampling back.
Phases advance by what two analysis frames one synthesis hop apart differ by, and within a peak's
neighbourhood turn together. Laroche & Dolson, "Improved phase vocoder time-scale modification of audio",
IEEE TSAP 7(3), 1999 (identity phase locking).

Traces: transients smeared over a window or doubled, reverberant "phasiness", formants moved with the pitch,
a spectrum that ends below Nyquist where the pitch went down.
"""

import numpy as np
from scipy import signal

from fakesound.attacks.base import Attack, AttackContext, FloatArray, Samples
from fakesound.attacks.spectral import Spectrum, Stft

_WINDOWS_S = (0.025, 0.06)
_TEMPO = (1.06, 1.35)  # or their inverses
_PITCH_SEMITONES = (0.5, 4.0)  # up or down
_TEMPO_SHARE, _BOTH_SHARE = 0.35, 0.3
_PEAK_REACH = 2  # bins a peak stands above on either side


def stretch(samples: Samples, length: int, stft: Stft) -> Samples:
    """Samples (n,) slowed down or sped up to (length,) without a change of pitch."""
    ratio = len(samples) / length
    lead = stft.n_fft
    padded = np.pad(samples, (lead + stft.hop, 2 * lead))
    count = -(-(length + stft.n_fft) // stft.hop)
    # Frame t of `Stft.synthesise` is centred on (t - 1) * hop: it comes from there, times the ratio.
    centres = np.rint((np.arange(count) - 1) * stft.hop * ratio).astype(int)
    starts = np.clip(centres - stft.n_fft // 2 + lead + stft.hop, stft.hop, len(padded) - stft.n_fft)
    frames = np.lib.stride_tricks.sliding_window_view(padded, stft.n_fft)
    current = np.fft.rfft(frames[starts] * stft.window, axis=1)
    before = np.fft.rfft(frames[starts - stft.hop] * stft.window, axis=1)
    return stft.synthesise(_advance(current, before), length)


def _advance(current: Spectrum, before: Spectrum) -> Spectrum:
    """Spectra (T, K) whose phases run on from frame to frame as from `before` to `current`."""
    made = current.copy()
    magnitudes = np.abs(current)
    for t in range(1, len(made)):
        turn = made[t - 1] * np.conj(before[t])
        size = np.abs(turn)
        turn = np.where(size > 0, turn / np.maximum(size, 1e-300), 1.0)
        made[t] = current[t] * turn[_nearest_peaks(magnitudes[t])]
    return made


def _nearest_peaks(magnitudes: Samples) -> np.ndarray:
    """For every bin (K,) the nearest bin that no neighbour within two bins exceeds."""
    padded = np.pad(magnitudes, _PEAK_REACH, constant_values=-1.0)
    highest = np.lib.stride_tricks.sliding_window_view(padded, 2 * _PEAK_REACH + 1).max(axis=1)
    peaks = np.flatnonzero(magnitudes >= highest)
    borders = (peaks[1:] + peaks[:-1]) / 2
    return peaks[np.searchsorted(borders, np.arange(len(magnitudes)))]


def _render(context: AttackContext, rng: np.random.Generator) -> FloatArray:
    kind = rng.random()
    tempo = pitch = 1.0
    if kind < _TEMPO_SHARE + _BOTH_SHARE:
        tempo = np.exp(rng.uniform(*np.log(_TEMPO)) * rng.choice((-1, 1)))
    if kind >= _TEMPO_SHARE:
        pitch = 2 ** (rng.uniform(*_PITCH_SEMITONES) * rng.choice((-1, 1)) / 12)
    source = _source(context, tempo)
    stft = Stft.lasting(
        min(rng.uniform(*_WINDOWS_S), len(source) / context.sample_rate_hz), context.sample_rate_hz
    )
    slowed = stretch(source, max(1, round(context.length * pitch)), stft)
    return np.asarray(signal.resample(slowed, context.length)).astype(np.float32)


def _source(context: AttackContext, tempo: float) -> Samples:
    """What lasts as long as the region at this tempo, centred on it as far as the recording goes."""
    wanted = min(len(context.samples), max(1, round(context.length * tempo)))
    centre = (context.region.onset + context.region.offset) // 2
    onset = int(np.clip(centre - wanted // 2, 0, len(context.samples) - wanted))
    return context.samples[onset : onset + wanted].astype(np.float64)


TIME_PITCH = Attack(
    family="time_pitch",
    mechanism="time_scale",
    summary="the region at another tempo or pitch, by a phase vocoder",
    render=_render,
)
