"""Granular texture: the region rebuilt from short grains of its surroundings.

Method: windowed grains of 20-100 ms, drawn at random from the recording outside the region, overlap-added at
half a grain's distance with jitter. Roads, "Microsound", MIT Press, 2001; Schwarz, "State of the art in sound
texture synthesis", DAFx 2011.

Traces: amplitude modulation at the grain rate, repeated fragments, no continuity of pitch or of events beyond
one grain, comb-like interference where grains overlap.
"""

import numpy as np

from fakesound.attacks.base import Attack, AttackContext, FloatArray, Samples

_GRAINS_S = (0.02, 0.1)
_MIN_POOL_GRAINS = 2
_JITTER = 0.25  # of the distance between grains
_MIN_GRAIN = 32


def _render(context: AttackContext, rng: np.random.Generator) -> FloatArray:
    wanted = int(np.exp(rng.uniform(*np.log(_GRAINS_S))) * context.sample_rate_hz)
    whole = len(context.samples)
    pools = context.surroundings(whole, _MIN_POOL_GRAINS * _MIN_GRAIN)
    grain = max(2, min(wanted, max(map(len, pools)) // _MIN_POOL_GRAINS))
    pools = [pool for pool in pools if len(pool) > grain]
    shares = np.array([len(pool) for pool in pools], dtype=np.float64)
    hop = max(1, grain // 2)
    count = context.length // hop + 2
    chosen = rng.choice(len(pools), size=count, p=shares / shares.sum())
    starts = [int(rng.integers(0, len(pools[pool]) - grain + 1)) for pool in chosen]
    grains = np.stack([pools[p][s : s + grain] for p, s in zip(chosen, starts, strict=True)])
    jitter = np.rint(rng.uniform(-_JITTER, _JITTER, count) * hop).astype(int)
    onsets = hop + np.arange(count) * hop + jitter
    return _overlap_add(grains, onsets, 2 * hop, context.length).astype(np.float32)


def _overlap_add(grains: Samples, onsets: np.ndarray, skip: int, length: int) -> Samples:
    """Hann-windowed grains at their onsets, divided by the windows' root sum of squares."""
    size = grains.shape[1]
    window = np.sin(np.pi * (np.arange(size) + 0.5) / size) ** 2
    total = np.zeros(int(onsets.max()) + size + length)
    power = np.full_like(total, 1e-3)  # never divide by the nothing between two grains far apart
    for grain, onset in zip(grains, onsets, strict=True):
        total[onset : onset + size] += window * grain
        power[onset : onset + size] += window**2
    return (total / np.sqrt(power))[skip : skip + length]


GRANULAR = Attack(
    family="granular",
    mechanism="texture",
    summary="overlapping grains drawn from the surroundings",
    render=_render,
)
