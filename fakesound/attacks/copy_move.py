"""Copy-move: a stretch of the same recording, from elsewhere, put where it was not said or heard.

Method: of a dozen random places at least 0.1 s away the one whose level runs most like the original's is
copied; no synthesis. Copy-move forgery of audio: Yan, Yang & Huang, "Robust copy-move detection of speech
recording using similarities of pitch and formant", IEEE TIFS 14(9), 2019.

Traces: none in the sound itself; the recording holds one stretch twice, and the joins are joins. This is
just what the corpora's *genuine* splices are made of (`forge.control`), so no corpus is forged with it:
`docs/decisions/0002-what-counts-as-forged.md`.
"""

import numpy as np

from fakesound.attacks.base import Attack, AttackContext, FloatArray
from fakesound.attacks.excerpts import elsewhere

MIN_SHIFT_S = 0.1


def _render(context: AttackContext, rng: np.random.Generator) -> FloatArray:
    found = elsewhere(
        context.samples.astype(np.float64),
        context.region.onset,
        context.length,
        sample_rate_hz=context.sample_rate_hz,
        min_shift_s=MIN_SHIFT_S,
        rng=rng,
    )
    return found.astype(np.float32)


COPY_MOVE = Attack(
    family="copy_move",
    mechanism="copy_move",
    summary="a stretch of the same recording from elsewhere",
    render=_render,
)
