"""WORLD vocoder: the region taken apart into pitch, envelope and aperiodicity, and put together again.

Method: DIO with StoneMask, or Harvest, for the pitch; CheapTrick for the envelope; D4C for the
aperiodicity; synthesis by minimum-phase pulses and noise. Morise, Yokomori & Ozawa, "WORLD: a vocoder-based
high-quality speech synthesis system for real-time applications", IEICE Trans. E99-D(7), 2016. The analysis
sees 0.1 s either side of the region. Below 12 kHz D4C has no band to work on: anything below 16 kHz is
analysed at 16 kHz.

Traces: minimum-phase pulses, envelopes smoothed over pitch periods, noise of the same few bands everywhere,
chords and other inharmonic sounds reduced to one pitch or to noise.
"""

import numpy as np

from fakesound.attacks.base import Attack, AttackContext, FloatArray, Samples
from fakesound.core.audio import resample

_MIN_RATE_HZ = 16_000
_MARGIN_S = 0.1
_FRAME_PERIODS_MS = (3.0, 8.0)
_HARVEST_SHARE = 0.3  # ten times as slow as DIO


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
    return fitted(made, len(samples))


def fitted(samples: Samples, length: int) -> Samples:
    """Cut, or followed by silence, to (length,)."""
    return np.pad(samples[:length], (0, max(0, length - len(samples))))


def _render(context: AttackContext, rng: np.random.Generator) -> FloatArray:
    rate = context.sample_rate_hz
    margin = int(_MARGIN_S * rate)
    padded = context.with_margin(margin).astype(np.float32)
    working = max(rate, _MIN_RATE_HZ)
    analysed = resample(padded, rate, working).astype(np.float64)
    made = vocode(
        analysed,
        working,
        frame_period_ms=rng.uniform(*_FRAME_PERIODS_MS),
        harvest=bool(rng.random() < _HARVEST_SHARE),
    )
    heard = fitted(resample(made.astype(np.float32), working, rate), len(padded))
    return heard[margin : margin + context.length]


WORLD = Attack(
    family="world",
    mechanism="vocoder",
    summary="WORLD: pitch, envelope and aperiodicity, synthesised anew",
    render=_render,
)
