"""Two hundred damaged audio files go through the ingest: none crashes it, none fills memory, none is lost."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile

NUM_FILES = 200
SUFFIXES = ("wav", "flac", "ogg", "mp3")
MOST_GROWTH_MIB = 64

INGEST = """
import json, resource, sys
from fakesound.corpora.config import CorpusConfig
from fakesound.corpora.ingest import ingest, scan

def peak_mib():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024

sound, damaged = (scan(folder)[0] for folder in sys.argv[1:])
whole = ingest(sound, CorpusConfig(), jobs=1)
before_mib = peak_mib()
found = ingest(damaged, CorpusConfig(), jobs=1)
accepted = [recording.source_id for recording in found.recordings]
seconds = max(recording.clip_seconds for recording in found.recordings)
rejected = {rejection.source_id: rejection.reason for rejection in found.rejections}
print(json.dumps([len(whole.recordings), accepted, rejected, seconds, peak_mib() - before_mib]))
"""


def flip_bits(data: bytearray, rng: np.random.Generator) -> bytearray:
    for _ in range(int(rng.integers(1, 200))):
        data[rng.integers(len(data))] ^= 1 << int(rng.integers(8))
    return data


def flip_header_bits(data: bytearray, rng: np.random.Generator) -> bytearray:
    for _ in range(int(rng.integers(1, 6))):
        data[rng.integers(min(64, len(data)))] ^= 1 << int(rng.integers(8))
    return data


def truncate(data: bytearray, rng: np.random.Generator) -> bytearray:
    return data[: rng.integers(len(data))]


def wear_anothers_header(data: bytearray, rng: np.random.Generator) -> bytearray:
    headers = (
        b"RIFF\xff\xff\xff\xffWAVEfmt ",
        b"fLaC\x00\x00\x00\x22",
        b"OggS\x00\x02",
        b"ID3\x04",
        b"FORM",
        b"caff",
    )
    header = headers[rng.integers(len(headers))]
    return bytearray(header) + data[len(header) :]


def claim_much(data: bytearray, rng: np.random.Generator) -> bytearray:
    """Largest values where sizes, rates and counts stand."""
    for at in rng.integers(0, 60, int(rng.integers(1, 4))):
        data[at : at + 4] = (b"\xff\xff\xff\xff", b"\xff\xff\xff\x7f", b"\x00\x00\x00\x80")[rng.integers(3)]
    return data


def lose_or_repeat_the_middle(data: bytearray, rng: np.random.Generator) -> bytearray:
    first, last = sorted(rng.integers(0, len(data), 2))
    return data[:first] + data[last:] if rng.integers(2) else data[:last] + data[first:]


MUTATIONS = (
    flip_bits,
    flip_header_bits,
    truncate,
    wear_anothers_header,
    claim_much,
    lose_or_repeat_the_middle,
)


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Four sound files, and NUM_FILES damaged copies; the same in every run."""
    sound, damaged = (tmp_path_factory.mktemp(name) for name in ("sound", "damaged"))
    rng = np.random.default_rng(20261124)
    time_s = np.arange(22_050) / 22_050
    samples = 0.2 * np.sin(2 * np.pi * 440 * time_s)[:, None] + 0.05 * rng.standard_normal((22_050, 2))
    for suffix in SUFFIXES:
        soundfile.write(sound / f"x.{suffix}", samples, 22_050)
    for number in range(NUM_FILES):
        suffix = SUFFIXES[number % len(SUFFIXES)]
        mutate = MUTATIONS[number // len(SUFFIXES) % len(MUTATIONS)]
        data = mutate(bytearray((sound / f"x.{suffix}").read_bytes()), rng)
        (damaged / f"{number:03d}-{mutate.__name__}.{suffix}").write_bytes(data)
    return sound, damaged


def test_damaged_files_are_accepted_or_rejected_within_bounded_memory(folders: tuple[Path, Path]) -> None:
    command = [sys.executable, "-c", INGEST, *map(str, folders)]
    result = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert result.returncode == 0, result.stderr
    num_sound, accepted, rejected, seconds, growth_mib = json.loads(result.stdout.splitlines()[-1])
    assert num_sound == len(SUFFIXES)
    names = {path.name for path in folders[1].iterdir()}
    assert len(names) == NUM_FILES
    assert set(accepted) | set(rejected) == names and not set(accepted) & set(rejected)
    assert all(reason and len(reason) < 200 and "\n" not in reason for reason in rejected.values())
    assert len(accepted) > 10 and len(rejected) > 50  # damage of both sorts, or this tests nothing
    assert seconds <= 120 and growth_mib < MOST_GROWTH_MIB
