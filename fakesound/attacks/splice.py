"""Splice: real content of another recording.

Method: a stretch of the donor, chosen among a dozen random ones for a similar course of level; no synthesis.

Traces: another room, another microphone, another noise floor; nothing inside the region is artificial. That
is why this family is reported apart from the headline.
"""

import numpy as np

from fakesound.attacks.base import Attack, AttackContext, FloatArray
from fakesound.attacks.excerpts import from_donor
from fakesound.core.errors import UserError


def _render(context: AttackContext, rng: np.random.Generator) -> FloatArray:
    if context.donor is None or not len(context.donor):
        raise UserError("the splice attack needs a donor recording: give one that is not empty")
    donor = context.donor.astype(np.float64)
    return from_donor(donor, context.original, context.sample_rate_hz, rng).astype(np.float32)


SPLICE = Attack(
    family="splice",
    mechanism="splice",
    summary="a stretch of another recording",
    render=_render,
)
