import os
import struct
from pathlib import Path

import numpy as np
import pytest
import soundfile
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fakesound.core import audio
from fakesound.core.audio import (
    AudioError,
    iter_mono,
    probe,
    read_mono,
    read_span,
    resample,
    write_flac,
    write_wav,
)
from fakesound.core.errors import UserError


def tone(seconds: float = 1.0, rate_hz: int = 16_000, frequency_hz: float = 440.0) -> np.ndarray:
    time_s = np.arange(round(seconds * rate_hz)) / rate_hz
    return (0.5 * np.sin(2 * np.pi * frequency_hz * time_s)).astype(np.float32)


@pytest.mark.parametrize("suffix", ["wav", "flac", "ogg", "mp3", "aiff"])
def test_reads_the_common_formats(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"a.{suffix}"
    soundfile.write(path, tone(2.0), 16_000)
    assert probe(path).sample_rate_hz == 16_000
    samples, rate_hz = read_mono(path)
    assert rate_hz == 16_000 and samples.dtype == np.float32
    assert abs(len(samples) - 32_000) <= 2_400  # mp3 pads
    assert 0.4 < np.abs(samples).max() < 0.6


def test_stereo_is_averaged_and_max_s_bounds_the_read(tmp_path: Path) -> None:
    left, right = tone(2.0), tone(2.0, frequency_hz=1000.0)
    soundfile.write(tmp_path / "s.wav", np.stack([left, right], axis=1), 16_000, subtype="FLOAT")
    samples, _ = read_mono(tmp_path / "s.wav", max_s=0.5)
    np.testing.assert_allclose(samples, (left[:8000] + right[:8000]) / 2, atol=1e-7)


def test_blocks_put_together_are_the_recording(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "a.flac", tone(1.3), 16_000)
    blocks = list(iter_mono(tmp_path / "a.flac", 0.25))
    assert [len(block) for block, _ in blocks] == [4000] * 5 + [800]
    np.testing.assert_array_equal(np.concatenate([b for b, _ in blocks]), read_mono(tmp_path / "a.flac")[0])


@pytest.mark.parametrize("suffix", ["wav", "flac", "ogg", "mp3"])
def test_a_span_is_what_reading_from_the_start_gives(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"a.{suffix}"
    noise = 0.2 * np.random.default_rng(0).standard_normal((22_050 * 3, 2))
    soundfile.write(path, noise, 22_050)
    whole, rate_hz = read_mono(path)
    span, span_rate_hz = read_span(path, 40_001, 55_003)
    assert span_rate_hz == rate_hz
    np.testing.assert_allclose(span, whole[40_001:55_003], atol=1e-6)
    with pytest.raises(AudioError, match="truncated"):
        read_span(path, len(whole) - 10, len(whole) + 10_000)


@settings(max_examples=20, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(seed=st.integers(0, 2**32 - 1), spread=st.integers(1, 32767))
def test_flac_round_trip_is_exact_for_16_bit_samples(tmp_path: Path, seed: int, spread: int) -> None:
    steps = np.random.default_rng(seed).integers(-spread, spread, 9_600).astype(np.float32)
    steps[:2] = [-32768, 32767]
    write_flac(tmp_path / "r.flac", steps / 32768, 32_000)
    samples, rate_hz = read_mono(tmp_path / "r.flac")
    assert rate_hz == 32_000
    np.testing.assert_array_equal(samples * 32768, steps)


def test_write_wav_keeps_every_bit_and_knows_no_time(tmp_path: Path) -> None:
    samples = np.array([0.0, 1e-30, -3.5, np.pi, *tone(0.5)], dtype=np.float32)
    write_wav(tmp_path / "1.wav", samples, 22_255)
    assert b"PEAK" not in (tmp_path / "1.wav").read_bytes()  # libsndfile's chunk with the time in it
    again, rate_hz = read_mono(tmp_path / "1.wav")
    assert again.tobytes() == samples.tobytes() and rate_hz == 22_255


def test_write_flac_clips_and_repeats_byte_for_byte(tmp_path: Path) -> None:
    loud = np.where(np.arange(16_000) % 2, 3.0, -3.0).astype(np.float32)
    write_flac(tmp_path / "1", loud, 16_000)
    write_flac(tmp_path / "2", loud, 16_000)
    assert (tmp_path / "1").read_bytes() == (tmp_path / "2").read_bytes()
    samples, _ = read_mono(tmp_path / "1")
    assert samples.max() == pytest.approx(32767 / 32768) and samples.min() == -1


def test_resample_keeps_the_tone_and_the_identity() -> None:
    samples = tone(1.0, 22_255)
    assert resample(samples, 22_255, 22_255) is samples
    changed = resample(samples, 22_255, 32_000)
    assert abs(len(changed) - 32_000) <= 1 and changed.dtype == np.float32
    np.testing.assert_allclose(changed[2000:30_000], tone(1.0, 32_000)[2000:30_000], atol=2e-3)


def bad_text(path: Path) -> None:
    path.write_text("this is a letter, not a sound\n" * 40)


def bad_truncated(path: Path) -> None:
    soundfile.write(path, tone(2.0), 16_000)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def bad_header_only(path: Path) -> None:
    soundfile.write(path, tone(2.0)[:0], 16_000)


def bad_nan(path: Path) -> None:
    samples = tone()
    samples[100] = np.nan
    soundfile.write(path, samples, 16_000, subtype="FLOAT")


def bad_inf(path: Path) -> None:
    samples = tone()
    samples[-1] = np.inf
    soundfile.write(path, samples, 16_000, subtype="FLOAT")


def bad_level(path: Path) -> None:
    soundfile.write(path, tone() * 1e30, 16_000, subtype="FLOAT")


def bad_channels(path: Path) -> None:
    soundfile.write(path, np.stack([tone()] * 7, axis=1), 16_000)


def bad_rate(path: Path) -> None:
    soundfile.write(path, tone(), 100)


BAD = [
    (bad_text, "not audio"),
    (lambda path: path.touch(), "zero length"),
    (bad_header_only, "zero length"),
    (bad_truncated, "truncated"),
    (bad_nan, "NaN/Inf"),
    (bad_inf, "NaN/Inf"),
    (bad_level, "level"),
    (bad_channels, "too many channels: 7"),
    (bad_rate, "sample rate 100 Hz"),
    (lambda path: soundfile.write(path, tone() * 0 + 0.25, 16_000), "silence"),
    (lambda path: soundfile.write(path, tone(0.1), 16_000), "too short"),
    (lambda path: path.mkdir(), "unreadable: not a regular file"),
    (lambda path: path.symlink_to("nowhere.wav"), "unreadable: No such file"),
    (os.mkfifo, "unreadable: not a regular file"),
]


@pytest.mark.parametrize(("make", "reason"), BAD)
def test_bad_files_say_why(tmp_path: Path, make, reason: str) -> None:
    path = tmp_path / "x.wav"
    make(path)
    with pytest.raises(AudioError, match=reason):
        read_mono(path)
    with pytest.raises(UserError, match=reason):
        list(iter_mono(path, 0.2))


@pytest.mark.parametrize("suffix", ["flac", "aiff", "au", "w64", "rf64", "caf", "ogg", "mp3"])
def test_truncated_files_of_other_formats(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"x.{suffix}"
    bad_truncated(path)
    with pytest.raises(AudioError, match="truncated"):
        read_mono(path)


def test_permission(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    soundfile.write(tmp_path / "x.wav", tone(), 16_000)

    def refuse(*_args, **_kwargs):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "open", refuse)
    with pytest.raises(AudioError, match="permission"):
        read_mono(tmp_path / "x.wav")


def test_a_wav_written_into_a_pipe_is_whole(tmp_path: Path) -> None:
    path = tmp_path / "x.wav"
    soundfile.write(path, tone(), 16_000)
    data = bytearray(path.read_bytes())
    at = data.index(b"data") + 4
    data[at : at + 4] = struct.pack("<I", 0xFFFFFFFF)
    path.write_bytes(data)
    assert len(read_mono(path)[0]) == 16_000


def test_a_header_that_claims_days_allocates_nothing_of_the_sort(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "x.flac"
    soundfile.write(path, tone(), 16_000)
    data = bytearray(path.read_bytes())
    data[21] |= 0x0F  # STREAMINFO: the top bits of the 36-bit sample count
    data[22:26] = b"\xff\xff\xff\xff"
    path.write_bytes(data)
    assert probe(path).num_frames == 2**36 - 1
    asked = []
    honest = audio._read_block
    monkeypatch.setattr(audio, "_read_block", lambda file, n: asked.append(n) or honest(file, n))
    with pytest.raises(AudioError, match="truncated"):
        read_mono(path)
    assert max(asked) <= 30 * 16_000


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    edits=st.lists(st.tuples(st.integers(0, 1023), st.integers(0, 255)), min_size=1, max_size=8),
    flac=st.booleans(),
)
def test_mutated_headers_raise_nothing_but_audio_errors(tmp_path: Path, edits, flac: bool) -> None:
    path = tmp_path / ("m.flac" if flac else "m.wav")
    soundfile.write(path, tone(0.5), 16_000)
    data = bytearray(path.read_bytes())
    for at, value in edits:
        data[at] = value
    path.write_bytes(data)
    try:
        samples, rate_hz = read_mono(path)
    except AudioError:
        return
    assert np.isfinite(samples).all() and audio.MIN_RATE_HZ <= rate_hz <= audio.MAX_RATE_HZ
    assert len(samples) <= 200_000
