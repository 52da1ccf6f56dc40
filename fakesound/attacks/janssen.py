"""Iterated autoregressive interpolation: the region is forgotten, the model and the samples found in turns.

Method: an autoregressive model of both sides fills the gap with the samples whose residual is least; the
model is then estimated again from the sides *and* the fill, and the gap filled again. Janssen, Veldhuis &
Vries, "Adaptive interpolation of discrete-time signals that can be modeled as autoregressive processes",
IEEE TASSP 34(2), 1986. The least-squares fill dies away beyond the model's memory, so a gap longer than two
blocks is closed from its borders inwards (`inwards.fill_inwards`): each block continues what stands before
it by a model of just that, driven by that model's residual in random order; what then remains in the middle
is interpolated. Kauppinen & Roth, "Audio signal extrapolation: theory and applications", DAFx 2002.

Traces: where it is interpolated, no residual at all; elsewhere spectra that drift away from either border,
a model of a model of a model; no pitch pulses, no events. Seamless joins.
"""

import numpy as np
from scipy import signal

from fakesound.attacks.base import Attack, AttackContext, FloatArray, Samples
from fakesound.attacks.inwards import fill_inwards, known_sides
from fakesound.attacks.prediction import burg, fill_gap, residual

_BLOCK_S = (0.01, 0.03)
_REACH_S = 0.1
_ORDERS_S = (1 / 400, 1 / 160)
_ORDER_BOUNDS = (24, 192)
_ITERATIONS = 3
_MIN_SIDE = 32


def interpolate(left: Samples, right: Samples, length: int, *, order: int, iterations: int) -> Samples:
    """The gap (length,) between `left` and `right`, model and samples estimated in turns.

    Args:
        left: samples before the gap; fewer than 3 * order of them lower the order.
        right: likewise after it.
        length: samples missing.
        order: of the model.
        iterations: estimates of the model; the first is from the sides alone.
    """
    order = max(1, min(order, len(left) // 3, len(right) // 3))
    filled = fill_gap(left, right, length, burg([left, right], order))
    for _ in range(iterations - 1):
        filled = fill_gap(left, right, length, burg([np.concatenate([left, filled, right])], order))
    return filled


def extrapolate(known: Samples, length: int, *, order: int, rng: np.random.Generator) -> Samples:
    """The samples (length,) after `known` by its own model, run on its own residual in random order."""
    order = max(1, min(order, len(known) // 3))
    polynomial = burg([known], order)
    drive = rng.choice(residual(known, polynomial), length)
    state = signal.lfiltic([1.0], polynomial, known[: -order - 1 : -1])
    return np.asarray(signal.lfilter([1.0], polynomial, drive, zi=state)[0])


def _render(context: AttackContext, rng: np.random.Generator) -> FloatArray:
    rate = context.sample_rate_hz
    order = int(np.clip(rng.uniform(*_ORDERS_S) * rate, *_ORDER_BOUNDS))
    block = int(rng.uniform(*_BLOCK_S) * rate)
    reach = int(_REACH_S * rate)

    def fill(left: Samples, right: Samples, length: int) -> Samples:
        if not len(right):
            return extrapolate(left, length, order=order, rng=rng)
        return interpolate(left, right, length, order=order, iterations=_ITERATIONS)

    left, right = known_sides(context, reach, _MIN_SIDE)
    return fill_inwards(left, right, context.length, block=block, reach=reach, fill=fill).astype(np.float32)


JANSSEN = Attack(
    family="janssen",
    mechanism="interpolation",
    summary="gap filled by an autoregressive model, model and samples estimated in turns",
    render=_render,
)
