"""What recordings go through after they are made: noise and lossy codecs, the same for both clips of a pair.

Off by default. A detector that is to work on what people send each other must find forgeries through both.
"""

from typing import Annotated, Self

import numpy as np
from pydantic import Field, model_validator

from fakesound.attacks.base import FloatArray
from fakesound.attacks.codec import draw_round_trip
from fakesound.core.config import Config

_NOISE_STREAM, _CODEC_STREAM = 2, 3

Probability = Annotated[float, Field(ge=0, le=1)]


class ChainConfig(Config):
    """What every clip goes through before it is levelled and quantised.

    Attributes:
        noise_probability: of white noise on a pair of clips.
        noise_snr_db: bounds of its signal-to-noise ratio, dB, drawn uniformly.
        codec_probability: of a round trip through MP3, Vorbis or Opus at low quality.
    """

    noise_probability: Probability = 0.0
    noise_snr_db: tuple[float, float] = (10.0, 40.0)
    codec_probability: Probability = 0.0

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        low, high = self.noise_snr_db
        if not -60 <= low <= high <= 120:
            raise ValueError("noise_snr_db must rise, within -60 and 120 dB")
        return self


OFF = ChainConfig()


def degrade(
    samples: FloatArray, reference: FloatArray, sample_rate_hz: int, chain: ChainConfig, seed: int
) -> FloatArray:
    """Samples (n,) with the noise and the codec that the seed draws; as they are where it draws neither.

    Noise depends on the seed, the length and the reference alone, so that what forging changed in the level
    does not change the noise. A codec's decisions depend on all it hears: through one, a pair differs
    everywhere a little.

    Args:
        samples: the clip.
        reference: what both clips of a pair were made from; its mean square is the signal of the ratio.
        sample_rate_hz: of `samples`.
        chain: how often and how much.
        seed: the pair's.
    """
    rng = np.random.default_rng([seed, _NOISE_STREAM])
    if rng.random() < chain.noise_probability:
        signal_rms = np.sqrt(np.mean(reference.astype(np.float64) ** 2))
        noise_rms = signal_rms / 10 ** (rng.uniform(*chain.noise_snr_db) / 20)
        samples = samples + (noise_rms * rng.standard_normal(len(samples))).astype(np.float32)
    rng = np.random.default_rng([seed, _CODEC_STREAM])
    if rng.random() < chain.codec_probability:
        samples = draw_round_trip(samples, sample_rate_hz, rng)
    return samples
