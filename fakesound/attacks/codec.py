"""Codec round trip: the region through a lossy codec at low quality, in place.

Method: the region and half a second either side are encoded and decoded in memory by libsndfile: MP3
(LAME), Vorbis or Opus. All three containers say how much the encoder delayed and padded, and the decoder
takes that away, so what comes back lines up. A rate that a codec cannot take is resampled to the next that
it can.

Traces: a low-pass, holes in the short-time spectrum, quantisation noise shaped by masking, pre-echo before
onsets; waveform and phases otherwise those of the original.
"""

import io
from typing import Literal, NamedTuple

import numpy as np
import soundfile
from scipy import signal

from fakesound.attacks.base import Attack, AttackContext, FloatArray

Codec = Literal["mp3", "vorbis", "opus"]


class _Coding(NamedTuple):
    """How libsndfile is asked for a codec.

    Attributes:
        container: its name of the format.
        subtype: its name of the codec.
        rates_hz: what the codec takes; none named: any, up to 96 kHz.
        compression: bounds of libsndfile's compression level, at the low end of quality.
    """

    container: str
    subtype: str
    rates_hz: tuple[int, ...]
    compression: tuple[float, float]


_MP3_RATES_HZ = (8000, 11_025, 12_000, 16_000, 22_050, 24_000, 32_000, 44_100, 48_000)
_OPUS_RATES_HZ = (8000, 12_000, 16_000, 24_000, 48_000)
_HIGHEST_RATE_HZ = 96_000  # libvorbis crashes the process above 200 kHz
_CODINGS: dict[Codec, _Coding] = {
    "mp3": _Coding("MP3", "MPEG_LAYER_III", _MP3_RATES_HZ, (0.4, 0.85)),
    "vorbis": _Coding("OGG", "VORBIS", (), (0.8, 1.0)),
    "opus": _Coding("OGG", "OPUS", _OPUS_RATES_HZ, (0.88, 0.96)),
}
CODECS: tuple[Codec, ...] = tuple(_CODINGS)
_MARGIN_S = 0.5
_PEAK = 0.9  # codecs clip beyond full scale


def draw_round_trip(samples: FloatArray, sample_rate_hz: int, rng: np.random.Generator) -> FloatArray:
    """Samples (n,) through a codec and a quality drawn at random, (n,)."""
    codec = CODECS[rng.integers(len(CODECS))]
    return round_trip(samples, sample_rate_hz, codec, rng.uniform(*_CODINGS[codec].compression))


def round_trip(samples: FloatArray, sample_rate_hz: int, codec: Codec, compression: float) -> FloatArray:
    """Samples (n,) encoded and decoded, (n,), in line with what went in.

    Args:
        samples: at any level.
        sample_rate_hz: theirs.
        codec: mp3, vorbis or opus.
        compression: libsndfile's compression level, 0 (best) to 1.
    """
    coding = _CODINGS[codec]
    working = _rate_for(coding, sample_rate_hz)
    scale = _PEAK / max(float(np.abs(samples).max(initial=0.0)), _PEAK)
    length = round(len(samples) * working / sample_rate_hz)
    stream = io.BytesIO()
    soundfile.write(
        stream,
        _stretched(np.float32(scale) * samples, length),
        working,
        format=coding.container,
        subtype=coding.subtype,
        compression_level=compression,
    )
    stream.seek(0)
    decoded = np.asarray(soundfile.read(stream, dtype="float32")[0], dtype=np.float32) / np.float32(scale)
    decoded = np.pad(decoded[:length], (0, max(0, length - len(decoded))))
    return _stretched(decoded, len(samples))


def _stretched(samples: FloatArray, length: int) -> FloatArray:
    """Resampled to (length,) by one FFT: a filter's slope below Nyquist would look like a codec's."""
    return samples if length == len(samples) else np.asarray(signal.resample(samples, length), np.float32)


def _rate_for(coding: _Coding, sample_rate_hz: int) -> int:
    if not coding.rates_hz:
        return min(sample_rate_hz, _HIGHEST_RATE_HZ)
    return min((rate for rate in coding.rates_hz if rate >= sample_rate_hz), default=coding.rates_hz[-1])


def _render(context: AttackContext, rng: np.random.Generator) -> FloatArray:
    margin = int(_MARGIN_S * context.sample_rate_hz)
    padded = context.with_margin(margin).astype(np.float32)
    heard = draw_round_trip(padded, context.sample_rate_hz, rng)
    return heard[margin : margin + context.length]


CODEC = Attack(
    family="codec",
    mechanism="codec",
    summary="the region through MP3, Vorbis or Opus at low quality",
    render=_render,
)
