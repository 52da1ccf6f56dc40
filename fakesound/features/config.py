"""Parameters of the front end. Light: the CLI loads this without torch."""

import math
from typing import Literal, Self

from pydantic import Field, model_validator

from fakesound.core.config import Config

FEATURES_VERSION = 2  # of the computation: raised when the same parameters give other numbers
CONFIG_KEY = b"features_config"  # in the metadata of the files
DIGEST_KEY = b"features_digest"


class FeatureConfig(Config):
    """How a waveform becomes a (frames, mels) image.

    Attributes:
        sample_rate_hz: of the clips; files of another rate are refused, never resampled here.
        n_fft: window length, samples (periodic Hann).
        hop_samples: from frame to frame; 320 at 32 kHz is 10 ms.
        num_mels: bands (HTK scale, Slaney area normalisation, as in the original study, which had 280).
        f_min_hz: lower edge of the first band.
        f_max_hz: upper edge of the last band; None is half the sample rate.
        scale: `log` is ln(mel power + log_floor); `power` is the study's mel power itself.
        log_floor: keeps digital silence finite; about the mel power of 16-bit rounding noise.
    """

    sample_rate_hz: int = Field(default=32_000, gt=0)
    n_fft: int = Field(default=2048, gt=1)
    hop_samples: int = Field(default=320, gt=0)
    num_mels: int = Field(default=128, gt=0, le=1024)
    f_min_hz: float = Field(default=0.0, ge=0)
    f_max_hz: float | None = Field(default=None, gt=0)
    scale: Literal["log", "power"] = "log"
    log_floor: float = Field(default=1e-8, gt=0, le=1)

    @model_validator(mode="after")
    def _windows_and_bands_fit(self) -> Self:
        if self.n_fft < self.hop_samples or (self.n_fft - self.hop_samples) % 2:
            raise ValueError("n_fft must exceed hop_samples by an even number: windows are centred on frames")
        if not self.f_min_hz < self.top_hz <= self.sample_rate_hz / 2:
            raise ValueError("need f_min_hz < f_max_hz <= sample_rate_hz / 2")
        return self

    @property
    def top_hz(self) -> float:
        """Upper edge of the last band."""
        return self.sample_rate_hz / 2 if self.f_max_hz is None else self.f_max_hz

    @property
    def silence(self) -> float:
        """The feature of a band without power."""
        return math.log(self.log_floor) if self.scale == "log" else 0.0

    @property
    def hop_s(self) -> float:
        """Seconds from frame to frame."""
        return self.hop_samples / self.sample_rate_hz

    def num_frames(self, num_samples: int) -> int:
        """Frames of a clip: whole hops, at least one. What is left over at the end has no frame."""
        return max(1, num_samples // self.hop_samples)
