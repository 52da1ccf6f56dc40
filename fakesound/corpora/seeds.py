"""Seeds that depend on what they are for, not on the order in which they are asked for."""

import hashlib

import numpy as np


def seed_for(*parts: str | int) -> int:
    """A seed in [0, 2**63) determined by all `parts`."""
    text = "\x1f".join(str(part) for part in parts)
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


def rng_for(*parts: str | int) -> np.random.Generator:
    """A generator determined by all `parts`."""
    return np.random.default_rng(seed_for(*parts))
