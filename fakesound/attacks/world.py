"""WORLD vocoder: the region taken apart into pitch, envelope and aperiodicity, and put together again.

Method: DIO with StoneMask, or Harvest, for the pitch; CheapTrick for the envelope; D4C for the
aperiodicity; synthesis by minimum-phase pulses and noise. Morise, Yokomori & Ozawa, "WORLD: a vocoder-based
high-quality speech synthesis system for real-time applications", IEICE Trans. E99-D(7), 2016. The analysis
sees 0.1 s either side of the region. D4C decides on voicing by what it finds below 7.9 kHz, so lower rates
than 16 kHz are multiplied until they reach it, and the result is brought back.

Traces: minimum-phase pulses, envelopes smoothed over pitch periods, noise of the same few bands everywhere,
chords and other inharmonic sounds reduced to one pitch or to noise.
"""

import numpy as np
from scipy import signal

from fakesound.attacks.base import Attack, AttackContext, FloatArray, Samples

_MIN_RATE_HZ = 16_000
_MARGIN_S = 0.1
_FRAME_PERIODS_MS = (3.0, 8.0)
_HARVEST_SHARE = 0.3  # ten times as slow as DIO
_IMAGE = 0.25  # amplitude


def vocode(samples: Samples, sample_rate_hz: int, *, frame_period_ms: float, harvest: bool) -> Samples:
    """WORLD's analysis and synthesis of samples (n,) at 16 kHz or more, (n,)."""
    import pyworld

    track = pyworld.harvest if harvest else pyworld.dio
    pitch, times_s = track(samples, sample_rate_hz, frame_period=frame_period_ms)
    if not harvest:
        pitch = pyworld.stonemask(samples, pitch, times_s, sample_rate_hz)
    envelope = pyworld.cheaptrick(samples, pitch, times_s, sample_rate_hz)
    aperiodicity = pyworld.d4c(samples, pitch, times_s, sample_rate_hz)
    made = pyworld.synthesize(pitch, envelope, aperiodicity, sample_rate_hz, frame_period_ms)
    return np.pad(made[: len(samples)], (0, max(0, len(samples) - len(made))))


def _render(context: AttackContext, rng: np.random.Generator) -> FloatArray:
    margin = int(_MARGIN_S * context.sample_rate_hz)
    padded = context.with_margin(margin)
    factor = -(-_MIN_RATE_HZ // context.sample_rate_hz)
    made = vocode(
        _raised(padded, factor),
        factor * context.sample_rate_hz,
        frame_period_ms=rng.uniform(*_FRAME_PERIODS_MS),
        harvest=bool(rng.random() < _HARVEST_SHARE),
    )
    heard = np.asarray(signal.resample(made, len(padded)))
    return heard[margin : margin + context.length].astype(np.float32)


def _raised(samples: Samples, factor: int) -> Samples:
    """Samples (n,) at `factor` times the rate, (factor * n,).

    A faint mirror image is left above the old Nyquist frequency: the envelope, smoothed over the pitch, would
    otherwise fall away below it.
    """
    if factor == 1:
        return samples
    raised = np.asarray(signal.resample(samples, factor * len(samples)))
    with_images = np.zeros_like(raised)
    with_images[::factor] = factor * samples
    return raised + _IMAGE * (with_images - raised)


WORLD = Attack(
    family="world",
    mechanism="vocoder",
    summary="WORLD: pitch, envelope and aperiodicity, synthesised anew",
    render=_render,
)
