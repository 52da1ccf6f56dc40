"""Audio files in and out: bounded reads of hostile files, mono downmix, resampling, 16-bit FLAC.

Every file that cannot be used raises `AudioError` with a reason that fits in one table cell.
"""

import os
import re
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soundfile
import soxr
from numpy.typing import NDArray

from fakesound.core.errors import UserError

FloatArray = NDArray[np.float32]

AUDIO_SUFFIXES = frozenset(
    {
        ".aac",
        ".aif",
        ".aifc",
        ".aiff",
        ".au",
        ".caf",
        ".flac",
        ".m4a",
        ".mp3",
        ".mp4",
        ".oga",
        ".ogg",
        ".opus",
    }
    | {".rf64", ".snd", ".w64", ".wav", ".wave", ".wma"}
)
MIN_DURATION_S = 0.3
MAX_CHANNELS = 2
MIN_RATE_HZ, MAX_RATE_HZ = 4_000, 384_000
SILENCE_SPAN = 2 / 32768  # a recording that never moves by more than two 16-bit steps says nothing
MAX_PEAK = 1e5  # floats scaled as 16-bit integers still pass; their squares stay finite
FULL_SCALE = 32768

_READ_BLOCK_S = 30.0
_STREAMED_BYTES = (0, 0x7FFFFFFF, 0x80000000)  # data sizes that encoders write into a pipe: "unknown"
_SHORTFALL_S = 0.1  # the length of an mp3 without an index is an estimate
_DATA_CHUNK = re.compile(r"^\s*(?:data|SSND|Data Size|riff)\s*:\s*(\d+)\s*\(should be (\d+)\)", re.MULTILINE)
_DS64_FRAMES = re.compile(r"Calculated frame count (\d+) does not match value from 'ds64' chunk of (\d+)")
_SF_ERR_MALFORMED_FILE = 3


class AudioError(UserError):
    """An audio file that cannot be used; the message is the reason, without the file's name."""


@dataclass(frozen=True)
class AudioInfo:
    """What a file's header says. `num_frames` is a claim: only decoding shows whether it is true."""

    sample_rate_hz: int
    num_channels: int
    num_frames: int

    @property
    def duration_s(self) -> float:
        """Claimed length in seconds."""
        return self.num_frames / self.sample_rate_hz


def is_audio_name(path: str | Path) -> bool:
    """Whether the file's name ends as those of audio files do, in any case."""
    return Path(path).suffix.lower() in AUDIO_SUFFIXES


def probe(path: str | Path) -> AudioInfo:
    """Read the header only.

    Raises:
        AudioError: unreadable, not audio, of zero length, truncated, or with channels or a rate out of range.
    """
    with _opened(path) as file:
        return _checked_info(file)


def read_mono(path: str | Path, max_s: float | None = None) -> tuple[FloatArray, int]:
    """The recording, or its first `max_s` seconds, mixed down to mono at its own rate.

    Memory follows what can be decoded, never what the header claims.

    Returns:
        samples (n,) in [-1, 1] for integer formats, and the sample rate in Hz.

    Raises:
        AudioError: as `probe`; or NaN/Inf, absurd levels, silence, less than 0.3 s.
    """
    decoded = bytearray()  # grows in place: blocks and their concatenation would take twice the recording
    sample_rate_hz = 0
    for block, sample_rate_hz in _decoded(path, _READ_BLOCK_S, max_s):  # noqa: B007 - the rate is read after it
        decoded += block.data
    samples = np.frombuffer(decoded, dtype=np.float32)
    _require_content(len(samples) / sample_rate_hz, float(np.ptp(samples)))
    return samples, sample_rate_hz


def read_span(path: str | Path, onset: int, offset: int) -> tuple[FloatArray, int]:
    """Samples [onset, offset) of a recording, in mono at its own rate: sought, not decoded from the start.

    libsndfile's seeking is exact in every format it reads (an mp3's samples may differ by 1e-7).

    Returns:
        samples (offset - onset,) and the sample rate in Hz.

    Raises:
        AudioError: as `probe`; or NaN/Inf, absurd levels, fewer samples than that.
    """
    with _opened(path) as file:
        info = _checked_info(file)
        try:
            file.seek(onset)
        except soundfile.LibsndfileError:
            raise AudioError(f"truncated: it has no sample {onset}") from None
        block = _read_block(file, offset - onset)
    if len(block) < offset - onset:
        raise AudioError(f"truncated: it ends after {onset + len(block)} of {info.num_frames} samples")
    return _downmixed(block), info.sample_rate_hz


def iter_mono(path: str | Path, block_s: float) -> Iterator[tuple[FloatArray, int]]:
    """The recording as consecutive blocks of `block_s` seconds; the last may be shorter.

    Yields:
        samples (n,) and the sample rate in Hz.

    Raises:
        AudioError: as `read_mono`. Silence and shortness are known, and raised, only after the last block.
    """
    duration_s, lowest, highest = 0.0, np.inf, -np.inf
    for samples, sample_rate_hz in _decoded(path, block_s, None):
        duration_s += len(samples) / sample_rate_hz
        lowest, highest = min(lowest, float(samples.min())), max(highest, float(samples.max()))
        yield samples, sample_rate_hz
    _require_content(duration_s, highest - lowest)


def resample(samples: FloatArray, from_hz: int, to_hz: int) -> FloatArray:
    """Band-limited resampling (soxr HQ, linear phase); the input itself when the rates agree.

    Returns:
        float32 samples, about n * to_hz / from_hz of them.
    """
    if from_hz == to_hz:
        return samples
    return np.asarray(soxr.resample(samples, from_hz, to_hz, quality="HQ"), dtype=np.float32)


def write_flac(path: str | Path, samples: FloatArray, sample_rate_hz: int) -> None:
    """Write mono samples (n,) as 16-bit FLAC: nearest step, clipped at full scale, no dither."""
    steps = _steps(samples).astype(np.int16)
    soundfile.write(str(path), steps, sample_rate_hz, format="FLAC", subtype="PCM_16")


def is_silent_flac(samples: FloatArray) -> bool:
    """Whether `read_mono` would refuse as silent what `write_flac` makes of the samples (n,)."""
    return float(np.ptp(_steps(samples))) / FULL_SCALE <= SILENCE_SPAN


def write_wav(path: str | Path, samples: FloatArray, sample_rate_hz: int) -> None:
    """Write mono samples (n,) as 32-bit float wav: every bit is kept, and equal samples make equal files.

    Not by libsndfile, which writes the time of day into the header.
    """
    from scipy.io import wavfile

    wavfile.write(path, sample_rate_hz, samples.astype(np.float32))


def _steps(samples: FloatArray) -> NDArray[np.float64]:
    return np.clip(np.rint(samples.astype(np.float64) * FULL_SCALE), -FULL_SCALE, FULL_SCALE - 1)


@contextmanager
def _opened(path: str | Path) -> Iterator[soundfile.SoundFile]:
    _require_readable(Path(path))
    try:
        file = soundfile.SoundFile(str(path))
    except soundfile.LibsndfileError as error:
        if error.code == _SF_ERR_MALFORMED_FILE:
            raise AudioError("truncated: an audio file whose structure is broken") from None
        raise AudioError("not audio: no decoder recognises its content; convert it to wav or flac") from None
    except (TypeError, ValueError):  # soundfile takes ".raw" and the like for headerless samples
        raise AudioError("not audio: no decoder recognises its content; convert it to wav or flac") from None
    with file:
        yield file


def _require_readable(path: Path) -> None:
    """Find out by opening, which also covers files that only this account may not read."""
    try:
        if not stat.S_ISREG(path.stat().st_mode):  # a named pipe would block for ever
            raise AudioError("unreadable: not a regular file")
        with path.open("rb") as stream:
            if not stream.read(1):
                raise AudioError("zero length: the file is empty")
    except PermissionError:
        raise AudioError("permission: this account may not read it") from None
    except OSError as error:
        raise AudioError(f"unreadable: {os.strerror(error.errno or 0)}") from None


def _checked_info(file: soundfile.SoundFile) -> AudioInfo:
    if file.channels > MAX_CHANNELS:
        raise AudioError(f"too many channels: {file.channels}; mix it down to mono or stereo")
    if not MIN_RATE_HZ <= file.samplerate <= MAX_RATE_HZ:
        raise AudioError(f"sample rate {file.samplerate} Hz is outside {MIN_RATE_HZ}-{MAX_RATE_HZ} Hz")
    for claimed, present in _DATA_CHUNK.findall(file.extra_info):
        if int(claimed) > int(present) and not _is_streamed(int(claimed)):
            raise AudioError(f"truncated: {present} of {claimed} bytes of audio are there")
    for present, claimed in _DS64_FRAMES.findall(file.extra_info):
        if int(claimed) > int(present):
            raise AudioError(f"truncated: {present} of {claimed} samples are there")
    if file.frames <= 0:
        raise AudioError("zero length: the file holds no samples")
    return AudioInfo(file.samplerate, file.channels, file.frames)


def _is_streamed(claimed_bytes: int) -> bool:
    return claimed_bytes in _STREAMED_BYTES or claimed_bytes >= 0xFFFFFF00


def _decoded(path: str | Path, block_s: float, max_s: float | None) -> Iterator[tuple[FloatArray, int]]:
    with _opened(path) as file:
        info = _checked_info(file)
        wanted = info.num_frames if max_s is None else min(info.num_frames, int(max_s * info.sample_rate_hz))
        block_frames = max(1, int(block_s * info.sample_rate_hz))
        done = 0
        while done < wanted:
            block = _read_block(file, min(block_frames, wanted - done))
            if not len(block):
                if done and info.num_frames - done <= _SHORTFALL_S * info.sample_rate_hz:
                    return
                raise AudioError(f"truncated: it ends after {done} of {info.num_frames} samples")
            done += len(block)
            yield _downmixed(block), info.sample_rate_hz


def _read_block(file: soundfile.SoundFile, num_frames: int) -> FloatArray:
    try:
        return np.asarray(file.read(num_frames, dtype="float32", always_2d=True), dtype=np.float32)
    except soundfile.LibsndfileError as error:
        raise AudioError(
            f"truncated: damaged while decoding ({error.error_string.strip().rstrip('.')})"
        ) from None


def _downmixed(block_NC: FloatArray) -> FloatArray:
    if not np.isfinite(block_NC).all():
        raise AudioError("NaN/Inf: holds samples that are not numbers")
    if np.abs(block_NC).max() > MAX_PEAK:
        raise AudioError(f"level: samples beyond {MAX_PEAK:g} (full scale is 1) are not audio")
    return block_NC[:, 0].copy() if block_NC.shape[1] == 1 else block_NC.mean(axis=1, dtype=np.float32)


def _require_content(duration_s: float, span: float) -> None:
    if duration_s < MIN_DURATION_S:
        raise AudioError(f"too short: {duration_s:.3f} s, at least {MIN_DURATION_S} s are needed")
    if span <= SILENCE_SPAN:
        raise AudioError("silence: no sample differs from the others")
