"""Recordings made up: sounds to write, and records of what only a plan looks at."""

from pathlib import Path

import numpy as np

from fakesound.corpora.cluster import Fingerprint
from fakesound.corpora.ingest import Recording, Stretch


def made_up_recording(
    source_id: str, duration_s: float, spread_db: float = 3.0, path: Path = Path("nowhere")
) -> Recording:
    return Recording(
        source_id=source_id,
        heard=(source_id,),
        path=path,
        group=source_id,
        pcm_sha256="",
        sample_rate_hz=8_000,
        bandwidth_hz=3_500.0,
        level_spread_db=spread_db,
        stretches=(Stretch(0, int(8_000 * duration_s)),),
        fingerprint=Fingerprint(np.zeros((0, 128), np.float32), np.zeros(0, np.int64), 0),
    )


def sound(seconds: float, rate_hz: int, seed: int) -> np.ndarray:
    """Noise with a gliding tone: no two seeds resemble each other."""
    rng = np.random.default_rng(seed)
    time_s = np.arange(round(seconds * rate_hz)) / rate_hz
    glide_hz = rng.uniform(200, 900) + rng.uniform(50, 400) * time_s
    noise = np.convolve(rng.standard_normal(len(time_s)), rng.standard_normal(16), mode="same")
    return (0.2 * np.sin(2 * np.pi * np.cumsum(glide_hz) / rate_hz) + 0.05 * noise).astype(np.float32)
