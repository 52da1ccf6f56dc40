"""Sounds that clips are made of: where they lie, and how they are read at the rate that they fill."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from fakesound.core.audio import AudioError, FloatArray, read_mono, read_span, resample
from fakesound.core.store import Place
from fakesound.corpora.ingest import Recording, Stretch

TARGET_RATE_HZ = 32_000
_MIN_WORKING_RATE_HZ = 8_000
_BAND_MARGIN = 2.2  # working rate over bandwidth: Nyquist with room for a filter's slope
_WORTH_RESAMPLING = 0.85


@dataclass(frozen=True)
class Sound:
    """A stretch of a recording, to be read at the rate that its content fills.

    Attributes:
        source_id: of the recording.
        heard: every recording heard in it; see `Recording`.
        path: where to read it.
        stretch: samples, at the native rate.
        native_rate_hz: of the file.
        working_rate_hz: see `working_rate_hz`.
    """

    source_id: str
    heard: tuple[str, ...]
    path: Path
    stretch: Stretch
    native_rate_hz: int
    working_rate_hz: int

    @classmethod
    def of(cls, recording: Recording, stretch: Stretch) -> "Sound":
        """One stretch of a recording."""
        rate_hz = working_rate_hz(recording.sample_rate_hz, recording.bandwidth_hz)
        return cls(
            recording.source_id, recording.heard, recording.path, stretch, recording.sample_rate_hz, rate_hz
        )

    def read(self) -> FloatArray:
        """The stretch (n,) at its working rate, its peak within full scale.

        Raises:
            AudioError: the file cannot be read any more.
        """
        samples, _ = read_span(self.path, self.stretch.onset, self.stretch.offset)
        samples = resample(
            samples / max(1.0, float(np.abs(samples).max())), self.native_rate_hz, self.working_rate_hz
        )
        return np.ascontiguousarray(samples, dtype=np.float32)

    def read_at(self, rate_hz: int) -> FloatArray:
        """The stretch as `read`, resampled to another rate: no content above half its working rate."""
        return resample(self.read(), self.working_rate_hz, rate_hz)


def working_rate_hz(native_rate_hz: int, bandwidth_hz: float) -> int:
    """The rate to forge at: such that content reaches close to Nyquist, and no more than the final rate.

    An attack at the header's rate fills the empty band of what was upsampled, and gives itself away.
    """
    useful = min(native_rate_hz, TARGET_RATE_HZ)
    wanted = max(_MIN_WORKING_RATE_HZ, round(_BAND_MARGIN * bandwidth_hz / 100) * 100)
    return wanted if wanted < _WORTH_RESAMPLING * useful else useful


def samples_of_whole_file(place: Place, name: str, rate_hz: int) -> int | None:
    """The length of an audio file that an interrupted step left; None if it is missing or does not decode."""
    if not place.exists(name):
        return None
    try:
        samples, found_hz = read_mono(place.local_path(name))
    except AudioError:
        return None
    return len(samples) if found_hz == rate_hz else None
