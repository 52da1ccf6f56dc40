"""Real content from elsewhere: for the splice family and for the genuine controls."""

import numpy as np

from fakesound.attacks.base import Samples
from fakesound.attacks.spectral import fade_in

_SEAM_S = 0.01
_ENVELOPE_POINTS = 32
_CANDIDATES = 12
_FLOOR = 1e-12


def elsewhere(
    samples: Samples,
    onset: int,
    length: int,
    *,
    sample_rate_hz: int,
    min_shift_s: float,
    rng: np.random.Generator,
) -> Samples:
    """Content of the same recording from a place other than `onset`, (length,).

    The place is shifted by at least `min_shift_s` or a quarter of the recording, whichever is less. Of a
    dozen random places the one whose level runs most like the original's is taken: less gain to apply.
    Where no uncut stretch of that length lies elsewhere, the recording is closed to a ring.
    """
    count = len(samples)
    min_shift = min(round(min_shift_s * sample_rate_hz), count // 4)
    places = np.arange(max(0, count - length + 1))
    places = places[np.abs(places - onset) >= min_shift]
    wanted = samples[onset : onset + length]
    if len(places):
        starts = rng.choice(places, _CANDIDATES)
        return _closest([samples[start : start + length] for start in starts], wanted)
    closed = ring(samples, sample_rate_hz)
    shifts = rng.integers(min_shift, max(min_shift + 1, len(closed) - min_shift), _CANDIDATES)
    return _closest([np.take(closed, onset + s + np.arange(length), mode="wrap") for s in shifts], wanted)


def from_donor(donor: Samples, wanted: Samples, sample_rate_hz: int, rng: np.random.Generator) -> Samples:
    """A stretch of another recording as long as `wanted`, its level running much like `wanted`'s."""
    length = len(wanted)
    if len(donor) >= length:
        starts = rng.integers(0, len(donor) - length + 1, _CANDIDATES)
        return _closest([donor[start : start + length] for start in starts], wanted)
    closed = ring(donor, sample_rate_hz)
    starts = rng.integers(0, len(closed), _CANDIDATES)
    return _closest([np.take(closed, start + np.arange(length), mode="wrap") for start in starts], wanted)


def ring(samples: Samples, sample_rate_hz: int) -> Samples:
    """The recording closed by a crossfade of its end into its start: repeats without a click."""
    seam = min(round(_SEAM_S * sample_rate_hz), len(samples) // 4)
    rise = fade_in(seam, equal_power=True)
    joined = rise * samples[:seam] + rise[::-1] * samples[len(samples) - seam :]
    return np.concatenate([joined, samples[seam : len(samples) - seam]])


def _closest(candidates: list[Samples], wanted: Samples) -> Samples:
    target = _log_envelope(wanted)
    distances = [float(np.abs(_log_envelope(candidate) - target).mean()) for candidate in candidates]
    return candidates[int(np.argmin(distances))]


def _log_envelope(samples: Samples) -> Samples:
    edges = np.linspace(0, len(samples), min(_ENVELOPE_POINTS, len(samples)) + 1).astype(int)
    sums = np.diff(np.concatenate([[0.0], np.cumsum(samples**2)])[edges])
    return np.log(sums / np.diff(edges) + _FLOOR)
