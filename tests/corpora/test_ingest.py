import tracemalloc
from pathlib import Path
from unittest import mock

import numpy as np
import pytest
import soundfile
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from fakesound.core.audio import SILENCE_SPAN, AudioError, FloatArray
from fakesound.core.errors import UserError
from fakesound.corpora import ingest as ingesting
from fakesound.corpora.config import CorpusConfig
from fakesound.corpora.ingest import content_digests, ingest, native_bandwidth_hz, scan


def test_scan_is_sorted_counts_what_it_ignores_and_survives_link_loops(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "inner").mkdir()
    (tmp_path / "inner" / "up").symlink_to(tmp_path)
    (tmp_path / "b.WAV").touch()
    (tmp_path / "a.flac").touch()
    (tmp_path / "data.csv").touch()
    candidates, ignored = scan(tmp_path)
    assert [candidate.source_id for candidate in candidates] == ["a.flac", "b.WAV"]
    assert ignored == {".csv": 1}
    assert [c.source_id for c in scan(folder)[0]] == sorted(c.source_id for c in scan(folder)[0])


def test_a_missing_folder_is_the_users_to_mend(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="not a folder"):
        scan(tmp_path / "nowhere")


def test_every_file_is_used_or_refused_with_a_reason(folder: Path) -> None:
    candidates, ignored = scan(folder)
    found = ingest(candidates, CorpusConfig(group_pattern="people/([^/]+)/"), jobs=1)
    reasons = {rejection.source_id: rejection.reason for rejection in found.rejections}
    assert len(found.recordings) == 13 and ignored == {".txt": 1}
    assert set(reasons) == {"letter.wav", "empty.ogg", "folder.wav", "short.wav"}
    assert reasons["letter.wav"].startswith("not audio") and reasons["short.wav"].startswith("too short")
    assert reasons["empty.ogg"].startswith("zero length") and "regular file" in reasons["folder.wav"]
    groups = {recording.source_id: recording.group for recording in found.recordings}
    assert groups["people/ann/0.FLAC"] == groups["people/ann/1.FLAC"] == "ann"
    assert groups["r0.wav"] == "r0.wav"
    digests = content_digests(candidates)
    assert digests["folder.wav"] == "unreadable" and len(digests["r0.wav"]) == 64


def test_nothing_usable_says_what_was_refused_and_why(tmp_path: Path) -> None:
    (tmp_path / "letter.wav").write_text("no sound")
    with pytest.raises(UserError, match=r"none of the 1 recordings can be used: letter\.wav: not audio"):
        ingest(scan(tmp_path)[0], CorpusConfig(), jobs=1)


def test_long_recordings_are_cut_silence_is_trimmed_and_silent_clips_are_refused(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    noise = (0.1 * rng.standard_normal(8_000 * 5)).astype(np.float32)
    noise[9_000 : 4 * 8_000] = 0
    padded = np.concatenate([np.zeros(4_000, np.float32), noise, np.zeros(4_000, np.float32)])
    soundfile.write(tmp_path / "a.wav", padded, 8_000)
    found = ingest(scan(tmp_path)[0], CorpusConfig(clip_s=1.0), jobs=1)
    [recording] = found.recordings
    assert len(recording.stretches) == 3 and abs(recording.stretches[0].onset - 4_000) <= 2
    assert [s.offset - s.onset for s in recording.stretches[:1]] == [8_000]
    assert [r.reason[:7] for r in found.rejections] == ["silence", "silence", "too sho"]


@settings(max_examples=200, deadline=None)
@given(
    samples=arrays(np.float32, st.integers(0, 30), elements=st.sampled_from([0.0, 2 / 32768, 0.5])),
    at_once=st.integers(1, 8),
)
def test_silence_is_trimmed_alike_whatever_the_block(samples: FloatArray, at_once: int) -> None:
    moving = np.flatnonzero(np.abs(np.diff(samples)) > SILENCE_SPAN)
    with mock.patch.object(ingesting, "_SEARCH_SAMPLES", at_once):
        if len(moving):
            assert ingesting._sounding(samples) == (moving[0], moving[-1] + 2)
        else:
            with pytest.raises(AudioError, match="silence"):
                ingesting._sounding(samples)


def test_a_long_recording_takes_little_more_memory_than_its_samples(tmp_path: Path) -> None:
    rate_hz, duration_s = 44_100, 240
    with soundfile.SoundFile(tmp_path / "long.wav", "w", rate_hz, 2) as file:
        second = 0.1 * np.random.default_rng(0).standard_normal((rate_hz, 2))
        for _ in range(duration_s):
            file.write(second)
    tracemalloc.start()
    try:
        found = ingest(scan(tmp_path)[0], CorpusConfig(), jobs=1)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert len(found.recordings[0].stretches) == 24
    assert peak < 2.2 * 4 * rate_hz * duration_s  # mono float32


def test_what_a_long_recording_does_not_contribute_is_among_the_rejects(tmp_path: Path) -> None:
    noise = 0.1 * np.random.default_rng(0).standard_normal(8_000 * 4 + 800)
    soundfile.write(tmp_path / "a.wav", noise, 8_000)
    capped = ingest(scan(tmp_path)[0], CorpusConfig(clip_s=1.0, max_clips_per_recording=3), jobs=1)
    assert len(capped.recordings[0].stretches) == 3
    assert [r.reason for r in capped.rejections] == [
        "only its first 3 of 4 s are used: raise corpus.max_clips_per_recording"
    ]
    whole = ingest(scan(tmp_path)[0], CorpusConfig(clip_s=1.0), jobs=1)
    assert len(whole.recordings[0].stretches) == 4
    assert [r.reason[:38] for r in whole.rejections] == ["too short: what is left from 4.00 to 4"]


@pytest.mark.parametrize("cutoff_hz", [2_000, 5_000, 8_000])
def test_bandwidth_is_that_of_the_content_not_of_the_header(cutoff_hz: int) -> None:
    noise = np.random.default_rng(1).standard_normal(44_100 * 2) * 0.1
    spectrum = np.fft.rfft(noise)
    spectrum[np.fft.rfftfreq(len(noise), 1 / 44_100) > cutoff_hz] = 0
    limited = (np.rint(np.fft.irfft(spectrum) * 32_768) / 32_768).astype(np.float32)
    assert abs(native_bandwidth_hz(limited, 44_100) - cutoff_hz) < 250
