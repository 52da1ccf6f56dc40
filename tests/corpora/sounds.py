"""Sounds that recordings are made of."""

import numpy as np


def sound(seconds: float, rate_hz: int, seed: int) -> np.ndarray:
    """Noise with a gliding tone: no two seeds resemble each other."""
    rng = np.random.default_rng(seed)
    time_s = np.arange(round(seconds * rate_hz)) / rate_hz
    glide_hz = rng.uniform(200, 900) + rng.uniform(50, 400) * time_s
    noise = np.convolve(rng.standard_normal(len(time_s)), rng.standard_normal(16), mode="same")
    return (0.2 * np.sin(2 * np.pi * np.cumsum(glide_hz) / rate_hz) + 0.05 * noise).astype(np.float32)
