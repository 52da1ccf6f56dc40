"""Make a replacement as loud, as coloured and as restless as what it replaces.

A detector must find how the sound was made, not that it is louder, darker or noisier than its surroundings.
Forgeries and genuine controls pass through the same five steps, so the steps' own traces say nothing either:

1. steadiness: where the original is tonal and the replacement is noise, the noise is narrowed to the
   original's long-term spectrum, no finer than its flux demands;
2. short time, three window lengths: level per octave-wide band over 100 ms, and the flux of the region, by
   raising or lowering each bin's fluctuation about its running mean;
3. long term, fine bands: level per sixth of an octave over the whole region; above the original's bandwidth
   the original's own fine spectrum is a ceiling, so nothing appears where the recording is empty;
4. short time, octave-wide bands: level over 20 ms; silence stays silence;
5. peaks: held below the recording's own.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from scipy import fft, ndimage, signal

from fakesound.attacks.base import Samples
from fakesound.attacks.spectral import Spectrum, Stft, band_centres, band_weights
from fakesound.core.regions import SampleRegion

_WINDOWS_S = (0.032, 0.012, 0.02)  # flux matched over one length of window is not over another
_FLUX_PASSES = 4
_FLUX_TOLERANCE = 1.0
_STEADYING_BANDS = ((1 / 24, 20.0), (1 / 96, 4.0))  # share of an octave, Hz at least
_FLUX_EXPONENTS = (0.1, 2.0)  # of one pass
_RUNNING_MEAN_FRAMES = 25
_COARSE_OCTAVES, _COARSE_MIN_HZ, _COARSE_S = 1.0, 500.0, 0.1
_COLOUR_PASSES = 2
_LEVEL_S = 0.02
_LEVEL_PASSES = 3
_MAX_GAIN_DB = 24.0  # upwards; downwards there is no limit
_FLOOR = 1e-18
_SILENCE = 1e-12  # mean square; far below one 16-bit step
_BANDWIDTH_DB = -70.0  # below the strongest band: nothing of the recording is up there
_CEILING_HZ = 100.0
_TAPER = 0.25
_LIMITER_S = 0.005


@dataclass(frozen=True)
class _Scene:
    """The original around a span, and how a replacement sounds there.

    Attributes:
        around: the span and a window's length either side, as far as the recording goes.
        inside: the span within `around`.
    """

    stft: Stft
    around: Samples
    inside: slice
    sample_rate_hz: int

    @classmethod
    def at(cls, samples: Samples, span: SampleRegion, sample_rate_hz: int, window_s: float) -> "_Scene":
        stft = Stft.lasting(window_s, sample_rate_hz)
        first, last = max(0, span.onset - stft.n_fft), min(len(samples), span.offset + stft.n_fft)
        return cls(stft, samples[first:last], slice(span.onset - first, span.offset - first), sample_rate_hz)

    def spectra(self, replacement: Samples) -> Spectrum:
        """Short-time spectra (T, K) of the scene with the replacement in place."""
        replaced = self.around.copy()
        replaced[self.inside] = replacement
        return self.stft.analyse(replaced)

    def span_of(self, spectra: Spectrum) -> Samples:
        """The span's samples out of the scene's spectra."""
        return self.stft.synthesise(spectra, len(self.around))[self.inside]

    def flux(self, magnitudes: Samples) -> float:
        """`mean_log_flux` of the frames centred in the span."""
        hop = self.stft.hop
        return mean_log_flux(magnitudes[1 + self.inside.start // hop : 2 + self.inside.stop // hop])


def match(replacement: Samples, samples: Samples, span: SampleRegion, sample_rate_hz: int) -> Samples:
    """The replacement (span's length,) with the level, colour and flux of samples[span].

    Args:
        replacement: what an attack rendered.
        samples: the whole recording (n,), original.
        span: where the replacement goes, crossfades included.
        sample_rate_hz: of both.
    """
    original = samples[span.onset : span.offset]
    if original.var() < _SILENCE:
        return original.copy()
    offset = float(np.median(samples))  # robust: the mean of a half silent stretch is not its zero
    wanted, matched = original - offset, replacement - replacement.mean()
    scenes = [_Scene.at(samples - offset, span, sample_rate_hz, window_s) for window_s in _WINDOWS_S]
    matched = _steady(matched, wanted, scenes[0])
    for scene in scenes:
        matched = _match_short_time(matched, scene)
    matched = match_colour(matched, wanted, sample_rate_hz)
    peak = float(np.abs(samples).max())
    levels = BandLevels(wanted, sample_rate_hz)
    for _ in range(_LEVEL_PASSES):  # limiting costs level, raising the level makes peaks
        matched = levels.match(matched)
        matched = _limit_peaks(matched + offset, peak, sample_rate_hz) - offset
    return matched + offset


def _steady(replacement: Samples, wanted: Samples, scene: _Scene) -> Samples:
    """Step 1: long-term colour at the coarsest resolution that makes the replacement steady enough.

    Noise can only be as steady as a tone where its spectrum is as narrow; a replacement that is no more
    restless than the original comes back as it is.
    """
    limit = scene.flux(np.abs(scene.spectra(wanted))) + np.log(_FLUX_TOLERANCE)
    options = [replacement]
    fluxes = [scene.flux(np.abs(scene.spectra(replacement)))]
    for octaves, min_hz in _STEADYING_BANDS:
        if fluxes[-1] <= limit:
            break
        options.append(
            match_colour(replacement, wanted, scene.sample_rate_hz, octaves=octaves, min_hz=min_hz)
        )
        fluxes.append(scene.flux(np.abs(scene.spectra(options[-1]))))
    return options[int(np.argmin(fluxes))]


def _match_short_time(replacement: Samples, scene: _Scene) -> Samples:
    """Step 2, by passes that scale the STFT and keep its phases: each comes nearer to a consistent one."""
    stft, rate = scene.stft, scene.sample_rate_hz
    wanted = np.abs(stft.analyse(scene.around))
    weights = band_weights(band_centres(rate / 2, _COARSE_OCTAVES, _COARSE_MIN_HZ), stft.frequencies(rate))
    spread = max(3, round(_COARSE_S * rate / stft.hop))

    def bands_of(magnitudes: Samples) -> Samples:
        return ndimage.uniform_filter1d(magnitudes**2 @ weights.T, spread, axis=0, mode="nearest")

    wanted_bands, wanted_flux = bands_of(wanted), scene.flux(wanted)
    for _ in range(_FLUX_PASSES):
        spectra = scene.spectra(replacement)
        magnitudes = np.abs(spectra)
        exponent = np.clip(np.exp(wanted_flux - scene.flux(magnitudes)), *_FLUX_EXPONENTS)
        scale = np.exp((exponent - 1) * _fluctuation(magnitudes))
        scale *= np.exp(_log_gain(wanted_bands, bands_of(magnitudes * scale)) @ weights)
        replacement = scene.span_of(spectra * scale)
    return replacement


def _fluctuation(magnitudes: Samples) -> Samples:
    """Log magnitudes (T, K) about their running mean over time."""
    logs = np.log(magnitudes + 1e-6 * magnitudes.max() + _FLOOR)
    return logs - ndimage.uniform_filter1d(logs, _RUNNING_MEAN_FRAMES, axis=0, mode="nearest")


def mean_log_flux(magnitudes: Samples) -> float:
    """Mean over frames of the log of the normalised spectral flux, for magnitudes (T, K).

    Of two frames: sum_k |M_t - M_{t-1}| / sum_k (M_t + M_{t-1}), 0 for equal spectra, 1 for disjoint ones.
    """
    if len(magnitudes) < 2:
        return 0.0
    change = np.abs(np.diff(magnitudes, axis=0)).sum(axis=1)
    total = magnitudes.sum(axis=1)
    pairs = total[1:] + total[:-1]
    return float(np.log((change + _FLOOR) / (pairs + _FLOOR)).mean())


def match_colour(
    replacement: Samples,
    original: Samples,
    sample_rate_hz: int,
    *,
    octaves: float = 1 / 6,
    min_hz: float = 30.0,
) -> Samples:
    """Step 3: zero-phase filter; every band (`octaves`, at least `min_hz`) gets the original's power."""
    size = fft.next_fast_len(len(original) + sample_rate_hz // 20, real=True)
    frequencies = np.asarray(fft.rfftfreq(size, 1 / sample_rate_hz))
    taper = np.asarray(signal.get_window(("tukey", _TAPER), len(original)))  # or edges leak into empty bands
    wanted = np.abs(np.asarray(fft.rfft(original * taper, size))) ** 2
    found = np.abs(np.asarray(fft.rfft(replacement * taper, size))) ** 2
    spectrum = np.asarray(fft.rfft(replacement, size))
    spacing = max(min_hz, 2 * sample_rate_hz / len(original))
    centres = band_centres(sample_rate_hz / 2, octaves, spacing)
    wanted_bands = _band_powers(wanted, centres, frequencies)
    for _ in range(_COLOUR_PASSES):  # neighbouring triangles overlap
        log_gain = _log_gain(wanted_bands, _band_powers(found, centres, frequencies))
        gain = np.exp(np.interp(frequencies, centres, log_gain))
        gain *= _ceiling(wanted, found * gain**2, frequencies)
        found = found * gain**2
        spectrum *= gain
    return np.asarray(fft.irfft(spectrum, size))[: len(original)]


class BandLevels:
    """Step 4: an original's mean square over 20 ms in octave-wide bands, given to others by smooth gains.

    Band by band, since one gain for all would let a recording's noise floor rise and fall with its voice.

    Args:
        original: (n,).
        sample_rate_hz: of it and of the replacements.
    """

    def __init__(self, original: Samples, sample_rate_hz: int) -> None:
        self._original = original
        self._width = max(1, min(round(_LEVEL_S * sample_rate_hz), len(original) // 2))
        self._size = fft.next_fast_len(len(original) + sample_rate_hz // 20, real=True)
        frequencies = np.asarray(fft.rfftfreq(self._size, 1 / sample_rate_hz))
        centres = band_centres(sample_rate_hz / 2, _COARSE_OCTAVES, _COARSE_MIN_HZ)
        self._weights = band_weights(centres, frequencies)
        self._wanted = [_running_power(band, self._width) for band in self._bands(original)]
        self._is_heard = _running_power(original, self._width) >= _SILENCE

    def match(self, replacement: Samples) -> Samples:
        """The replacement (n,) at these levels; 0 where the original is silent."""
        levelled = np.zeros(len(replacement))
        for wanted, band in zip(self._wanted, self._bands(replacement), strict=True):
            levelled += band * np.exp(_log_gain(wanted, _running_power(band, self._width)))
        levelled *= self._is_heard
        overall = np.mean(self._original**2) / max(np.mean(levelled**2), _FLOOR)
        return levelled * np.sqrt(np.clip(overall, 0.5, 2.0))

    def _bands(self, samples: Samples) -> Iterator[Samples]:
        """Bands (n,) that add up to the samples."""
        spectrum = np.asarray(fft.rfft(samples, self._size))
        for weight in self._weights:
            yield np.asarray(fft.irfft(spectrum * weight, self._size))[: len(samples)]


def _ceiling(wanted: Samples, found: Samples, frequencies: Samples) -> Samples:
    """Gain (K,) of at most 1 that keeps `found` under `wanted` wherever the original is empty."""
    width = max(1, round(_CEILING_HZ / frequencies[1]))
    wanted = ndimage.uniform_filter1d(wanted, width, mode="nearest")
    found = ndimage.uniform_filter1d(found, width, mode="nearest")
    occupied = np.flatnonzero(wanted > wanted.max() * 10 ** (_BANDWIDTH_DB / 10))
    gain = np.sqrt(np.clip((wanted + _FLOOR) / (found + _FLOOR), 0, 1))
    gain[: occupied[-1] + 1] = 1.0
    return gain


def _band_powers(power: Samples, centres: Samples, frequencies: Samples) -> Samples:
    """Power (K,) summed under triangles around the centres, (B,), without the (B, K) matrix of weights."""
    position = np.interp(frequencies, centres, np.arange(len(centres)))
    lower = np.minimum(position.astype(int), len(centres) - 2)
    share = position - lower
    count = len(centres)
    below = np.bincount(lower, power * (1 - share), count).astype(np.float64)
    return below + np.bincount(lower + 1, power * share, count)


def _log_gain(wanted: Samples, found: Samples) -> Samples:
    """Log amplitude gain from mean squares, limited upwards."""
    gain = 0.5 * np.log((np.maximum(wanted, 0) + _FLOOR) / (np.maximum(found, 0) + _FLOOR))
    return np.minimum(gain, _MAX_GAIN_DB / 20 * np.log(10))


def _running_power(samples: Samples, width: int) -> Samples:
    """Mean square under a triangle about two widths long: smooth enough to divide by."""
    once = ndimage.uniform_filter1d(samples**2, width, mode="nearest")
    return ndimage.uniform_filter1d(once, width, mode="nearest")


def _limit_peaks(samples: Samples, ceiling: float, sample_rate_hz: int) -> Samples:
    """Step 5: smooth gain of at most 1 that keeps every |sample| at or below `ceiling`."""
    needed = np.minimum(1.0, ceiling / np.maximum(np.abs(samples), 1e-300))
    if needed.min() >= 1.0:
        return samples
    width = 2 * max(1, round(_LIMITER_S * sample_rate_hz)) + 1
    lowest = ndimage.minimum_filter1d(needed, width, mode="nearest")
    return samples * np.minimum(needed, ndimage.uniform_filter1d(lowest, width, mode="nearest"))
