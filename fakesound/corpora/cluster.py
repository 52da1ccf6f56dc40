"""Which recordings are not independent: exact duplicates, cuts of one another at any offset, members of one
group.

Near-duplicates are found in two steps. Candidates: short windows around local amplitude peaks of the low-
passed waveform, which two cuts of one recording share whatever their offset and gain, compared all with
all. Confirmation: normalised cross-correlation above 0.9 over everything that the two recordings share at
the offset so proposed, and above 0.75 for their first differences, so that mains hum in common does not
make two recordings one.
"""

from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import maximum_filter1d

from fakesound.core.audio import FloatArray, resample

PEAK_RATE_HZ = 8_000
CONFIRM_RATE_HZ = 16_000
CORRELATION = 0.9
DIFFERENCE_CORRELATION = 0.75

_LOW_PASS_RATE_HZ = 2_000  # windows keep what lies below 1 kHz, where half a sample's shift matters little
_STEP = PEAK_RATE_HZ // _LOW_PASS_RATE_HZ
_HALF_WINDOW = PEAK_RATE_HZ * 32 // 1000
_PEAK_DISTANCE = PEAK_RATE_HZ // 20
_PEAKS_PER_S = 2.4
_MIN_PEAKS = 24
_CANDIDATE_SIMILARITY = 0.88
_MAX_OFFSETS_PER_PAIR = 4
_MIN_OVERLAP_S = 0.25
_LAG_REACH = 8  # samples at 16 kHz
_BLOCK = 1024
_KEPT_SAMPLES = 64_000_000  # waveforms held in memory while pairs are confirmed


@dataclass(frozen=True)
class Fingerprint:
    """Windows around the amplitude peaks of one recording.

    Attributes:
        windows: (peaks, 128), each of unit length.
        positions: (peaks,), samples at 8 kHz.
        num_samples: length of the recording at 8 kHz.
    """

    windows: NDArray[np.float32]
    positions: NDArray[np.int64]
    num_samples: int


def fingerprint(samples: FloatArray, sample_rate_hz: int) -> Fingerprint:
    """The strongest peaks of the waveform below 1 kHz, at least 50 ms from any stronger one."""
    low = resample(resample(samples, sample_rate_hz, _LOW_PASS_RATE_HZ), _LOW_PASS_RATE_HZ, PEAK_RATE_HZ)
    level = np.abs(low)
    is_peak = (level == maximum_filter1d(level, 2 * _PEAK_DISTANCE + 1)) & (level > 0)
    positions = np.flatnonzero(is_peak)
    most = max(_MIN_PEAKS, int(_PEAKS_PER_S * len(low) / PEAK_RATE_HZ))
    positions = np.sort(positions[np.argsort(-level[positions], kind="stable")[:most]])
    padded = np.pad(low, _HALF_WINDOW)
    offsets = np.arange(0, 2 * _HALF_WINDOW, _STEP)
    windows = padded[positions[:, None] + offsets[None, :]] * np.hanning(len(offsets))
    norms = np.linalg.norm(windows, axis=1, keepdims=True)
    return Fingerprint((windows / np.maximum(norms, 1e-20)).astype(np.float32), positions, len(low))


def find_near_duplicates(
    fingerprints: Sequence[Fingerprint], load: Callable[[int], tuple[FloatArray, int]]
) -> list[tuple[int, int]]:
    """Pairs of recordings that share sound.

    Args:
        fingerprints: one a recording.
        load: gives samples and rate in Hz of recording number i, cut as they were for its fingerprint.
    """

    mean_samples = np.mean([print_.num_samples for print_ in fingerprints]) * (CONFIRM_RATE_HZ / PEAK_RATE_HZ)

    @lru_cache(maxsize=max(16, int(_KEPT_SAMPLES / mean_samples)))
    def waveform(index: int) -> FloatArray:
        samples, rate_hz = load(index)
        return resample(resample(samples, rate_hz, PEAK_RATE_HZ), PEAK_RATE_HZ, CONFIRM_RATE_HZ)

    pairs = []
    for (first, second), shifts in sorted(_candidates(fingerprints).items()):
        if any(_share_sound(waveform(first), waveform(second), shift) for shift in shifts):
            pairs.append((first, second))
    return pairs


def components(items: Sequence[Hashable], links: Iterable[tuple[Hashable, Hashable]]) -> dict[Hashable, int]:
    """Connected components by union-find: a number for each item, counted from 0 in the order of `items`."""
    parent = {item: item for item in items}

    def root(item: Hashable) -> Hashable:
        while parent[item] != item:
            parent[item] = parent[parent[item]]
            item = parent[item]
        return item

    for first, second in links:
        parent[root(second)] = root(first)
    numbers: dict[Hashable, int] = {}
    return {item: numbers.setdefault(root(item), len(numbers)) for item in items}


def _candidates(fingerprints: Sequence[Fingerprint]) -> dict[tuple[int, int], list[int]]:
    """Pairs with similar windows, and by how many samples (at 8 kHz) the second starts after the first."""
    import pandas as pd

    owners = np.repeat(np.arange(len(fingerprints)), [len(print_.positions) for print_ in fingerprints])
    positions = np.concatenate([print_.positions for print_ in fingerprints])
    windows = np.concatenate([print_.windows for print_ in fingerprints])
    matches: Any = pd.DataFrame()
    for start in range(0, len(windows), _BLOCK):
        similarity = np.abs(windows[start : start + _BLOCK] @ windows[start:].T)
        row, column = np.nonzero(similarity > _CANDIDATE_SIMILARITY)
        one, other = start + row, start + column
        found: Any = pd.DataFrame(
            {
                "first": owners[one],
                "second": owners[other],
                "shift": positions[one] - positions[other],
                "similarity": similarity[row, column],
            }
        )
        matches = _strongest(pd.concat([matches, found[found["first"] < found["second"]]]))
    by_pair = matches.groupby(["first", "second"])["shift"]
    return {(int(first), int(second)): shifts.tolist() for (first, second), shifts in by_pair}


def _strongest(matches: Any) -> Any:  # data frames, whose own types a checker cannot follow
    """Each pair's few most similar shifts, best first: steady sounds match at every one."""
    pair = ["first", "second"]
    best = matches.groupby([*pair, "shift"], as_index=False)["similarity"].max()
    order = best.sort_values([*pair, "similarity", "shift"], ascending=[True, True, False, True])
    return order.groupby(pair).head(_MAX_OFFSETS_PER_PAIR)


def _share_sound(first: FloatArray, second: FloatArray, shift: int) -> bool:
    """Whether `second`, started `shift` samples (at 8 kHz) into `first`, correlates with it there."""
    lag = shift * (CONFIRM_RATE_HZ // PEAK_RATE_HZ)
    onset, offset = max(0, lag) + _LAG_REACH, min(len(first), lag + len(second)) - _LAG_REACH
    needed = min(_MIN_OVERLAP_S * CONFIRM_RATE_HZ, 0.8 * min(len(first), len(second)))
    if offset - onset < needed:
        return False
    other = second[onset - lag : offset - lag]
    by_lag = np.correlate(first[onset - _LAG_REACH : offset + _LAG_REACH], other)
    best = onset - _LAG_REACH + int(np.argmax(np.abs(by_lag)))
    mine = first[best : best + len(other)]
    return (
        _correlation(mine, other) > CORRELATION
        and _correlation(np.diff(mine), np.diff(other)) > DIFFERENCE_CORRELATION
    )


def _correlation(first: FloatArray, second: FloatArray) -> float:
    """Normalised, without sign: a copy may be upside down."""
    energy = float(first @ first) * float(second @ second)
    return abs(float(first @ second)) / np.sqrt(energy) if energy > 0 else 0.0
