from pathlib import Path

import numpy as np
import pytest
import soundfile


def sound(seconds: float, rate_hz: int, seed: int) -> np.ndarray:
    """Noise with a gliding tone: no two seeds resemble each other."""
    rng = np.random.default_rng(seed)
    time_s = np.arange(round(seconds * rate_hz)) / rate_hz
    glide_hz = rng.uniform(200, 900) + rng.uniform(50, 400) * time_s
    noise = np.convolve(rng.standard_normal(len(time_s)), rng.standard_normal(16), mode="same")
    return (0.2 * np.sin(2 * np.pi * np.cumsum(glide_hz) / rate_hz) + 0.05 * noise).astype(np.float32)


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
