"""Forged regions and the frame labels that follow from them, in exact integer sample arithmetic.

The one rule for partly covered frames: frame k spans samples [k*hop, (k+1)*hop) and is forged when at least
half of the samples it spans are. A region's borders are the midpoints of its crossfades.
"""

from collections.abc import Iterable, Sequence
from fractions import Fraction
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from fakesound.core.errors import UserError


class Region(NamedTuple):
    """A stretch of a clip, [onset_s, offset_s), in seconds from the clip's start."""

    onset_s: float
    offset_s: float

    @property
    def duration_s(self) -> float:
        """Length in seconds."""
        return self.offset_s - self.onset_s


class SampleRegion(NamedTuple):
    """A stretch of a clip, [onset, offset), in samples."""

    onset: int
    offset: int


def to_samples(regions: Iterable[Region], sample_rate_hz: int) -> list[SampleRegion]:
    """Borders rounded to the nearest sample (8.28 s at 32 kHz is 264,960, not 264,959), ties to even.

    What is rounded is the decimal number that the border was written as, not the binary one nearest to it.

    Raises:
        UserError: a region is not finite, starts before zero, or does not end after it starts.
    """
    converted = []
    for onset_s, offset_s in regions:
        if not (np.isfinite(onset_s) and np.isfinite(offset_s) and 0 <= onset_s < offset_s):
            raise UserError(f"region {onset_s}-{offset_s} s is not a stretch of time: 0 <= onset < offset")
        converted.append(SampleRegion(*(_nearest_sample(s, sample_rate_hz) for s in (onset_s, offset_s))))
    return converted


def _nearest_sample(time_s: float, sample_rate_hz: int) -> int:
    return round(Fraction(str(float(time_s))) * sample_rate_hz)


def frame_labels(
    regions: Iterable[Region], num_frames: int, hop_samples: int, sample_rate_hz: int
) -> NDArray[np.uint8]:
    """1 for each frame of which at least half is forged, else 0; shape (num_frames,).

    Overlapping regions count once. What lies beyond the last frame is ignored.
    """
    merged: list[SampleRegion] = []
    for onset, offset in sorted(to_samples(regions, sample_rate_hz)):
        if merged and onset <= merged[-1].offset:
            merged[-1] = SampleRegion(merged[-1].onset, max(merged[-1].offset, offset))
        else:
            merged.append(SampleRegion(onset, offset))
    starts = np.arange(num_frames, dtype=np.int64) * hop_samples
    covered = np.zeros(num_frames, dtype=np.int64)
    end = num_frames * hop_samples
    for onset, offset in ((min(onset, end), min(offset, end)) for onset, offset in merged):
        covered += np.clip(np.minimum(starts + hop_samples, offset) - np.maximum(starts, onset), 0, None)
    return (2 * covered >= hop_samples).astype(np.uint8) if num_frames else covered.astype(np.uint8)


def regions_from_frames(labels: Sequence[int] | NDArray[np.integer], hop_s: float) -> list[Region]:
    """Runs of positive frames as regions: the inverse of `frame_labels` for regions on frame borders."""
    padded = np.concatenate([[0], np.asarray(labels, dtype=np.int8) != 0, [0]]).astype(np.int8)
    edges = np.flatnonzero(np.diff(padded))
    return [
        Region(float(onset) * hop_s, float(offset) * hop_s)
        for onset, offset in zip(edges[::2], edges[1::2], strict=True)
    ]
