"""Short-time Fourier transforms and smooth frequency bands, as the attacks and the matching need them.

Shapes: n samples, T frames, K bins, B bands.
"""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray
from scipy import fft

from fakesound.attacks.base import Samples

Spectrum = NDArray[np.complexfloating]

_OVERLAP = 4
_MIN_WINDOW = 64


@dataclass(frozen=True)
class Stft:
    """Hann window of `n_fft` samples, hop n_fft/4, weighted overlap-add: exact for unmodified spectra."""

    n_fft: int

    @classmethod
    def lasting(cls, window_s: float, sample_rate_hz: int) -> "Stft":
        """The transform whose window is the power of two nearest to `window_s` (at least 64 samples)."""
        return cls(max(_MIN_WINDOW, 2 ** round(np.log2(window_s * sample_rate_hz))))

    @property
    def hop(self) -> int:
        """Samples from frame to frame."""
        return self.n_fft // _OVERLAP

    @cached_property
    def window(self) -> Samples:
        """Periodic Hann, (n_fft,)."""
        return 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(self.n_fft) / self.n_fft)

    def frames(self, samples: Samples) -> Samples:
        """Windowed frames (T, n_fft); every sample lies in four of them; frame t is centred on (t-1)*hop."""
        lead = self.n_fft - self.hop
        tail = lead + (-len(samples)) % self.hop
        padded = np.pad(samples, (lead, tail))
        return np.lib.stride_tricks.sliding_window_view(padded, self.n_fft)[:: self.hop] * self.window

    def analyse(self, samples: Samples) -> Spectrum:
        """Samples (n,) to spectra (T, K)."""
        return np.asarray(fft.rfft(self.frames(samples), axis=1))

    def synthesise(self, spectra: Spectrum, length: int) -> Samples:
        """Spectra (T, K) to the samples (length,) whose spectra are nearest in the least-squares sense."""
        pieces = np.asarray(fft.irfft(spectra, self.n_fft, axis=1)) * self.window
        count = len(pieces)
        quarters = pieces.reshape(count, _OVERLAP, self.hop)
        total = np.zeros((count + _OVERLAP - 1, self.hop))
        for quarter in range(_OVERLAP):
            total[quarter : quarter + count] += quarters[:, quarter]
        weight = (self.window**2).reshape(_OVERLAP, self.hop).sum(axis=0)
        lead = self.n_fft - self.hop
        return (total / weight).reshape(-1)[lead : lead + length]

    def frequencies(self, sample_rate_hz: int) -> Samples:
        """Bin centres in Hz, (K,)."""
        return np.asarray(fft.rfftfreq(self.n_fft, 1 / sample_rate_hz))


def band_centres(nyquist_hz: float, octave_share: float, min_spacing_hz: float) -> Samples:
    """Centres in Hz from 0 to Nyquist, (B,): `min_spacing_hz` apart below, an octave's share above."""
    ratio = 2**octave_share - 1
    centres = [0.0]
    while centres[-1] < nyquist_hz:
        centres.append(centres[-1] + max(min_spacing_hz, centres[-1] * ratio))
    centres[-1] = nyquist_hz
    return np.array(centres)


def band_weights(centres: Samples, frequencies: Samples) -> Samples:
    """Triangles around the centres that sum to one at every frequency, (B, K)."""
    return np.stack([np.interp(frequencies, centres, row) for row in np.eye(len(centres))])


def random_phases(shape: tuple[int, ...], rng: np.random.Generator) -> Spectrum:
    """Unit phasors, uniform on the circle."""
    return np.exp(2j * np.pi * rng.random(shape))


def fade_in(length: int, equal_power: bool) -> Samples:
    """Rising crossfade weights (length,), strictly between 0 and 1.

    The falling partner is the same reversed: powers sum to one (sine), or amplitudes do (raised cosine).
    """
    phase = (np.arange(length) + 0.5) / max(length, 1) * (np.pi / 2)
    return np.sin(phase) if equal_power else np.sin(phase) ** 2
