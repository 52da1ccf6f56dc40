"""What an attack is: a name, the physics it stands for, and a function that fills a region."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fakesound.core.regions import SampleRegion

FloatArray = NDArray[np.float32]
Samples = NDArray[np.floating]


@dataclass(frozen=True)
class AttackContext:
    """What an attack may look at.

    Attributes:
        samples: the whole recording (n,) at its native rate.
        region: the stretch to render, crossfade margins included, [onset, offset) in samples.
        sample_rate_hz: native rate of `samples` and `donor`.
        donor: another recording at the same rate (d,), for the families that need one.
    """

    samples: FloatArray
    region: SampleRegion
    sample_rate_hz: int
    donor: FloatArray | None = None

    @property
    def length(self) -> int:
        """Samples to render."""
        return self.region.offset - self.region.onset

    @property
    def original(self) -> Samples:
        """What stands in the region now, (length,)."""
        return self.samples[self.region.onset : self.region.offset].astype(np.float64)

    def left(self, max_samples: int) -> Samples:
        """Up to `max_samples` just before the region; empty at the recording's start."""
        onset = self.region.onset
        return self.samples[max(0, onset - max_samples) : onset].astype(np.float64)

    def right(self, max_samples: int) -> Samples:
        """Up to `max_samples` just after the region; empty at the recording's end."""
        offset = self.region.offset
        return self.samples[offset : offset + max_samples].astype(np.float64)

    def surroundings(self, max_samples: int, min_samples: int) -> list[Samples]:
        """What is known around the region: left, right, whichever hold at least `min_samples`.

        Nothing known (the region is nearly the whole recording): the region itself. Not mirrored, as in
        `inwards.known_sides`: a character is learnt from it, and reversed time would change that.
        """
        sides = [
            side for side in (self.left(max_samples), self.right(max_samples)) if len(side) >= min_samples
        ]
        return sides or [self.original]

    def with_margin(self, margin: int) -> Samples:
        """The region and `margin` samples either side, zeros beyond the recording."""
        left, right = self.left(margin), self.right(margin)
        padding = (margin - len(left), margin - len(right))
        return np.pad(np.concatenate([left, self.original, right]), padding)


Render = Callable[[AttackContext, np.random.Generator], FloatArray]


@dataclass(frozen=True)
class Attack:
    """One family of forgery.

    Attributes:
        family: its name in manifests.
        mechanism: what cousins share; cousins leave training together.
        summary: one line for tables.
        render: fills `context.region`: float32 (context.length,), determined by both arguments.
    """

    family: str
    mechanism: str
    summary: str
    render: Render
