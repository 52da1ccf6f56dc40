from pathlib import Path

import pytest
import soundfile
from sounds import sound


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Ten recordings of three rates, two of one speaker, a near-duplicate, and files that are of no use."""
    root = tmp_path_factory.mktemp("recordings")
    (root / "people" / "ann").mkdir(parents=True)
    for index in range(10):
        rate_hz = (8_000, 11_025, 16_000)[index % 3]
        soundfile.write(root / f"r{index}.wav", sound(0.9 + 0.05 * index, rate_hz, index), rate_hz)
    for index in range(2):
        soundfile.write(
            root / "people" / "ann" / f"{index}.FLAC", sound(0.7, 16_000, 50 + index), 16_000, format="FLAC"
        )
    soundfile.write(root / "cut_of_r3.wav", sound(1.05, 8_000, 3)[1501:] * 0.5, 8_000)
    (root / "letter.wav").write_text("not a sound")
    (root / "empty.ogg").touch()
    (root / "folder.wav").mkdir()
    soundfile.write(root / "short.wav", sound(0.1, 8_000, 99), 8_000)
    (root / "notes.txt").write_text("ignored")
    return root
