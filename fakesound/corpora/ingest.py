"""Recordings in: find them, decode them, measure them, refuse with a reason those that cannot be used."""

import hashlib
import os
import re
from collections import Counter
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from scipy.signal.windows import blackmanharris

from fakesound.core.audio import SILENCE_SPAN, AudioError, FloatArray, is_audio_name, probe, read_mono
from fakesound.core.errors import UserError
from fakesound.core.parallel import map_parallel
from fakesound.core.store import sha256_of
from fakesound.corpora.cluster import Fingerprint, fingerprint
from fakesound.corpora.config import CorpusConfig

_BANDWIDTH_RANGE_DB = 80.0  # content this far below the spectrum's peak is none
_QUANTISATION_POWER = (1 / 32768) ** 2 / 12
_SPECTRUM_SAMPLES = 1024
_BLOCK = 1024  # frames at once: all those of an hour would take gigabytes
_SEARCH_SAMPLES = 2**20
_LEVEL_S = 0.05
_LEVEL_FLOOR = 1e-10
_SHOWN_REJECTS = 5


@dataclass(frozen=True)
class Candidate:
    """A file that may be a recording."""

    source_id: str  # path relative to the scanned folder, with forward slashes
    path: Path


@dataclass(frozen=True)
class Rejection:
    """A recording, or a part of one, that cannot be used."""

    source_id: str
    reason: str


@dataclass(frozen=True)
class Stretch:
    """What one clip is made from: samples [onset, offset) of a recording, at its own rate."""

    onset: int
    offset: int


@dataclass(frozen=True)
class Recording:
    """A usable recording.

    Attributes:
        source_id: relative path; a scene's name.
        heard: source ids of every recording heard in it: its own, or those that a scene was mixed from.
        path: where to read it.
        group: speaker or session; the source id where the pattern does not match.
        pcm_sha256: of the mono samples without leading and trailing silence.
        sample_rate_hz: its own rate.
        bandwidth_hz: highest frequency with content.
        level_spread_db: standard deviation of its level over 50 ms; low for what sounds steadily.
        stretches: the clips that it is cut into.
        fingerprint: for finding near-duplicates.
    """

    source_id: str
    heard: tuple[str, ...]
    path: Path
    group: str
    pcm_sha256: str
    sample_rate_hz: int
    bandwidth_hz: float
    level_spread_db: float
    stretches: tuple[Stretch, ...]
    fingerprint: Fingerprint

    @property
    def clip_seconds(self) -> float:
        """Seconds of sound that end up in clips."""
        return sum(s.offset - s.onset for s in self.stretches) / self.sample_rate_hz


@dataclass(frozen=True)
class Ingested:
    """What a scan found."""

    recordings: list[Recording]
    rejections: list[Rejection]


def scan(folder: str | Path) -> tuple[list[Candidate], Counter[str]]:
    """Every file below `folder` named like an audio file, sorted; links to folders are followed once.

    Returns:
        the candidates, and how many other files there are by suffix.

    Raises:
        UserError: the folder does not exist, is not a folder or may not be read.
    """
    root = Path(folder)
    if not root.is_dir():
        raise UserError(f"{folder} is not a folder of recordings")
    if not os.access(root, os.R_OK | os.X_OK):
        raise UserError(f"{folder} may not be read by this account")
    candidates: list[Candidate] = []
    ignored: Counter[str] = Counter()
    visited: set[str] = set()
    for place, folders, names in os.walk(root, followlinks=True):
        true_place = os.path.realpath(place)
        if true_place in visited:  # a link that leads back up, or a second link to the same folder
            folders.clear()
            continue
        visited.add(true_place)
        folders.sort()
        audio_folders = [name for name in folders if is_audio_name(name)]
        for name in [*names, *audio_folders]:
            path = Path(place, name)
            if is_audio_name(name):
                candidates.append(Candidate(path.relative_to(root).as_posix(), path))
            else:
                ignored[path.suffix.lower() or "(none)"] += 1
    return sorted(candidates, key=lambda candidate: candidate.source_id), ignored


def content_digests(candidates: list[Candidate]) -> dict[str, str]:
    """SHA-256 of each file's bytes by source id; "unreadable" where they cannot be had."""
    return {candidate.source_id: _digest(candidate.path) for candidate in candidates}


def ingest(candidates: list[Candidate], config: CorpusConfig, jobs: int | None = None) -> Ingested:
    """Decode and measure every candidate, in parallel.

    Raises:
        UserError: none of them can be used; the message counts the reasons.
    """
    outcomes = map_parallel(
        partial(_examine, config), candidates, description="reading recordings", jobs=jobs
    )
    recordings: list[Recording] = []
    rejections: list[Rejection] = []
    for recording, refused in outcomes:
        rejections.extend(refused)
        if recording is not None:
            recordings.append(recording)
    if not recordings:
        raise UserError(_nothing_usable(rejections))
    return Ingested(recordings, rejections)


def native_bandwidth_hz(samples: FloatArray, sample_rate_hz: int) -> float:
    """Highest frequency at which the mean spectrum exceeds -80 dB of its peak, and 16-bit rounding noise.

    What was upsampled or came through a lossy codec has nothing beyond it, whatever its sample rate says.
    """
    size = min(_SPECTRUM_SAMPLES, len(samples))
    window = blackmanharris(size)  # its side lobes stay 92 dB down
    frames = samples[: len(samples) // size * size].reshape(-1, size)
    power = np.zeros(size // 2 + 1)
    for first in range(0, len(frames), _BLOCK):
        spectra = np.fft.rfft(frames[first : first + _BLOCK] * window)
        power += np.sum(np.abs(spectra) ** 2, axis=0) / len(frames)
    noise_power = _QUANTISATION_POWER * float(np.sum(window**2))
    floor = max(float(power.max()) * 10 ** (-_BANDWIDTH_RANGE_DB / 10), 4 * noise_power)
    above = np.flatnonzero(power > floor)
    return float(max(1, above[-1] if len(above) else 1) * sample_rate_hz / size)


def _examine(config: CorpusConfig, candidate: Candidate) -> tuple[Recording | None, list[Rejection]]:
    try:
        longest_s = config.clip_s * config.max_clips_per_recording
        samples, rate_hz = read_mono(candidate.path, max_s=longest_s)
        onset, offset = _sounding(samples)
        stretches, refused = _cut(samples, onset, offset, rate_hz, config)
        is_cut = len(samples) >= int(longest_s * rate_hz)
        duration_s = probe(candidate.path).duration_s if is_cut else len(samples) / rate_hz
    except AudioError as error:
        return None, [Rejection(candidate.source_id, str(error))]
    if duration_s > longest_s:
        refused.append(
            f"only its first {longest_s:g} of {duration_s:.0f} s are used: "
            "raise corpus.max_clips_per_recording"
        )
    rejections = [Rejection(candidate.source_id, reason) for reason in refused]
    if not stretches:
        return None, rejections
    sounding = samples[onset:offset]
    recording = Recording(
        source_id=candidate.source_id,
        heard=(candidate.source_id,),
        path=candidate.path,
        group=_group(candidate.source_id, config.group_pattern),
        pcm_sha256=hashlib.sha256(sounding.data).hexdigest(),
        sample_rate_hz=rate_hz,
        bandwidth_hz=native_bandwidth_hz(sounding, rate_hz),
        level_spread_db=_level_spread_db(sounding, rate_hz),
        stretches=tuple(stretches),
        fingerprint=fingerprint(sounding, rate_hz),
    )
    return recording, rejections


def _digest(path: Path) -> str:
    try:
        if not path.is_file():  # a named pipe would block for ever
            return "unreadable"
        return sha256_of(path)
    except OSError:
        return "unreadable"


def _group(source_id: str, pattern: str | None) -> str:
    found = re.search(pattern, source_id) if pattern else None
    return (found.group(1) or source_id) if found else source_id


def _level_spread_db(samples: FloatArray, sample_rate_hz: int) -> float:
    size = min(round(_LEVEL_S * sample_rate_hz), len(samples))
    frames = samples[: len(samples) // size * size].reshape(-1, size)
    blocks = np.split(frames, range(_BLOCK, len(frames), _BLOCK))
    power = np.concatenate([np.mean(np.square(block, dtype=np.float64), axis=1) for block in blocks])
    return float(np.std(10 * np.log10(power + _LEVEL_FLOOR)))


def _sounding(samples: FloatArray) -> tuple[int, int]:
    """Borders of what lies between leading and trailing digital silence."""
    onset = _before_first_step(samples)
    if onset == len(samples):
        raise AudioError("silence: no sample differs audibly from its neighbour")
    return onset, len(samples) - _before_first_step(samples[::-1])


def _before_first_step(samples: FloatArray) -> int:
    """Index of the last sample before the first audible step; the number of samples where there is none."""
    for first in range(0, len(samples), _SEARCH_SAMPLES):
        steps = np.abs(np.diff(samples[first : first + _SEARCH_SAMPLES + 1]))
        moving = np.flatnonzero(steps > SILENCE_SPAN)
        if len(moving):
            return first + int(moving[0])
    return len(samples)


def _cut(
    samples: FloatArray, onset: int, offset: int, rate_hz: int, config: CorpusConfig
) -> tuple[list[Stretch], list[str]]:
    shortest = round(config.min_clip_s * rate_hz)
    if offset - onset < shortest:
        seconds = (offset - onset) / rate_hz
        raise AudioError(f"too short: {seconds:.3f} s of sound, at least {config.min_clip_s} s are needed")
    stretches, refused = [], []
    length = int(config.clip_s * rate_hz)
    for start in range(onset, offset, length):
        stop = min(start + length, offset)
        if stop - start < shortest:
            refused.append(f"too short: what is left from {start / rate_hz:.2f} to {stop / rate_hz:.2f} s")
        elif float(np.ptp(samples[start:stop])) <= SILENCE_SPAN:
            refused.append(f"silence from {start / rate_hz:.2f} to {stop / rate_hz:.2f} s")
        else:
            stretches.append(Stretch(start, stop))
    return stretches, refused


def _nothing_usable(rejections: list[Rejection]) -> str:
    if not rejections:
        return "no recordings were found: give a folder with wav, flac, ogg or mp3 files"
    shown = "; ".join(f"{r.source_id}: {r.reason}" for r in rejections[:_SHOWN_REJECTS])
    more = f"; and {len(rejections) - _SHOWN_REJECTS} more" if len(rejections) > _SHOWN_REJECTS else ""
    return f"none of the {len(rejections)} recordings can be used: {shown}{more}"
