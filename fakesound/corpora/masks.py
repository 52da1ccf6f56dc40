"""Where a clip is forged, and where it holds genuine splices.

A mask is drawn once for a source stretch and shared by the genuine clip and the forgeries made of it.
Segments are laid around a circle as long as the clip and the circle is turned by a uniform angle, so every
instant of a clip is equally likely to be covered: position says nothing. (The angles of one partition, or
of one family in it, are multiples of the golden ratio from a random start, so that few clips, too, are
covered evenly.) A segment that the clip's borders cut becomes two regions.

Each mask also draws, four times in five, a decoy from the same length distribution: there, the genuine and
the forged clip alike hold a splice of the same recording. In the genuine clip the mask's own regions are
such splices as well.

All that is for the placement 'uniform'. With 'activity' the circle is turned to where the sound sets in.
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from fakesound.core.audio import SILENCE_SPAN, FloatArray
from fakesound.core.regions import SampleRegion

Regime = Literal["train", "wide"]
Placement = Literal["uniform", "activity"]

MIN_REGION_S = 0.04
MIN_GAP_S = 0.06  # longer than the longest crossfade, so that two of them never overlap
TRAIN_SHARE = (0.10, 0.40)  # of the clip; FakeSound: 1-4 s of 10 s
WIDEST_SHARE = 0.99
TWO_REGIONS_PROBABILITY = 0.2
DECOY_PROBABILITY = 0.8
GOLDEN_RATIO = 0.6180339887498949  # its multiples modulo 1 cover a circle as evenly as can be
_REDRAWS = 50
_TURNS = 8
_ONSET_FRAME_S = 0.01


@dataclass(frozen=True)
class Mask:
    """Regions of one clip in samples, sorted, disjoint, at least 40 ms each."""

    regions: tuple[SampleRegion, ...]
    decoys: tuple[SampleRegion, ...]


def draw_mask(
    num_samples: int, sample_rate_hz: int, regime: Regime, turn: float, rng: np.random.Generator
) -> Mask:
    """Draw a mask for a clip of `num_samples` (at least 0.2 s).

    The regions' lengths add up to a uniform 10-40 % of the clip (regime 'train'), or to a log-uniform 0.04 s
    to 0.99 of the clip (regime 'wide'). `turn` in [0, 1) is how far the circle is turned.
    """
    shortest = round(MIN_REGION_S * sample_rate_hz)
    gap = round(MIN_GAP_S * sample_rate_hz)
    lengths = [_draw_length(num_samples, shortest, gap, regime, rng)]
    if rng.random() < TWO_REGIONS_PROBABILITY:
        lengths = _split(lengths[0], shortest, num_samples - 2 * gap, rng)
    forged = [True] * len(lengths)
    decoy = _draw_length(num_samples, shortest, gap, regime, rng)
    if rng.random() < DECOY_PROBABILITY and sum(lengths) + decoy + gap * (len(lengths) + 1) <= num_samples:
        lengths.append(decoy)
        forged.append(False)
    order = rng.permutation(len(lengths))
    gaps = _draw_gaps(num_samples - sum(lengths), len(lengths), gap, rng)
    placed = _place([lengths[i] for i in order], gaps, num_samples, shortest, int(turn * num_samples))
    by_role: dict[bool, list[SampleRegion]] = {True: [], False: []}
    for index, pieces in zip(order, placed, strict=True):
        by_role[forged[index]].extend(pieces)
    return Mask(tuple(sorted(by_role[True])), tuple(sorted(by_role[False])))


def draw_audible_mask(
    samples: FloatArray,
    sample_rate_hz: int,
    regime: Regime,
    turn: float,
    rng: np.random.Generator,
    *,
    placement: Placement = "uniform",
) -> Mask | None:
    """Draw masks until no region lies in digital silence, where a forgery could be neither made nor found.

    With the placement 'uniform' nothing else about the sound is looked at, so the level of a region says
    nothing about its label. With 'activity' a mask is turned to eight places around the circle, and lies
    where the onsets under its regions are strongest.

    Returns:
        None where fifty draws did not find one: the stretch is as good as silent.
    """
    for attempt in range(_REDRAWS):
        start = (turn + attempt * GOLDEN_RATIO) % 1
        if placement == "activity":
            mask = _most_active_mask(samples, sample_rate_hz, regime, start, rng)
        else:
            mask = draw_mask(len(samples), sample_rate_hz, regime, start, rng)
        if all(np.ptp(samples[r.onset : r.offset]) > SILENCE_SPAN for r in (*mask.regions, *mask.decoys)):
            return mask
    return None


def _most_active_mask(
    samples: FloatArray, sample_rate_hz: int, regime: Regime, turn: float, rng: np.random.Generator
) -> Mask:
    """Of eight turns of the mask that `draw_mask` would draw, the one over the strongest onsets."""
    state = rng.bit_generator.state
    rises, hop = _level_rises(samples, sample_rate_hz)

    def strength(mask: Mask) -> float:
        return float(np.mean(np.concatenate([rises[r.onset // hop : r.offset // hop] for r in mask.regions])))

    turned = []
    for step in range(_TURNS):
        rng.bit_generator.state = state
        turned.append(draw_mask(len(samples), sample_rate_hz, regime, (turn + step / _TURNS) % 1, rng))
    return max(turned, key=strength)


def _level_rises(samples: FloatArray, sample_rate_hz: int) -> tuple[NDArray[np.float64], int]:
    """By how much the RMS rises from each 10 ms frame's predecessor (0 where it falls), and the hop.

    In amplitude, not in decibels: an onset in a loud passage weighs more than one in a quiet passage.
    """
    hop = round(_ONSET_FRAME_S * sample_rate_hz)
    frames = samples[: len(samples) // hop * hop].reshape(-1, hop).astype(np.float64)
    levels = np.sqrt(np.mean(frames**2, axis=1))
    return np.maximum(0, np.diff(levels, prepend=levels[0])), hop


def _draw_length(num_samples: int, shortest: int, gap: int, regime: Regime, rng: np.random.Generator) -> int:
    if regime == "train":
        low, high = (share * num_samples for share in TRAIN_SHARE)
        length = rng.uniform(max(low, shortest), high)
    else:
        longest = min(WIDEST_SHARE * num_samples, num_samples - gap)
        length = np.exp(rng.uniform(np.log(shortest), np.log(longest)))
    return max(shortest, int(length))


def _split(length: int, shortest: int, most: int, rng: np.random.Generator) -> list[int]:
    first = int(length * rng.uniform(0.3, 0.7))
    if min(first, length - first) < shortest or length > most:
        return [length]
    return [first, length - first]


def _draw_gaps(uncovered: int, count: int, shortest: int, rng: np.random.Generator) -> NDArray[np.int64]:
    spare = uncovered - shortest * count
    return shortest + np.floor(rng.dirichlet(np.ones(count)) * spare).astype(np.int64)


def _place(
    lengths: list[int], gaps: NDArray[np.int64], num_samples: int, shortest: int, turn: int
) -> list[list[SampleRegion]]:
    """Segments and gaps on a turned circle; each segment as the one or two regions that the clip sees."""
    starts = np.concatenate([[0], np.cumsum(np.asarray(lengths) + gaps)[:-1]])
    starts = (starts + turn) % num_samples
    for start, length in zip(starts, lengths, strict=True):
        before, after = num_samples - start, start + length - num_samples
        if after > 0 and min(before, after) < shortest:  # turn on, so that no sliver is cut off
            starts = (starts + (before if before < after else -after)) % num_samples
            break
    return [_pieces(int(start), length, num_samples) for start, length in zip(starts, lengths, strict=True)]


def _pieces(start: int, length: int, num_samples: int) -> list[SampleRegion]:
    if start + length <= num_samples:
        return [SampleRegion(start, start + length)]
    return [SampleRegion(0, start + length - num_samples), SampleRegion(start, num_samples)]
