"""Iterated autoregressive interpolation: the region is forgotten, the model and the samples found in turns.

Method: an autoregressive model of both sides fills the gap with the samples whose residual is least; the
model is then estimated again from the sides *and* the fill, and the gap filled again. Janssen, Veldhuis &
Vries, "Adaptive interpolation of discrete-time signals that can be modeled as autoregressive processes",
IEEE TASSP 34(2), 1986. The least-squares fill dies away beyond the model's memory, so a gap longer than two
blocks is closed from its borders inwards (`inwards.fill_inwards`): blocks are extrapolated, what remains in
the middle is interpolated. Kauppinen & Roth, "Audio signal extrapolation: theory and applications", DAFx
2002.

Traces: no residual at all where a recording always has one: everything is a sum of slowly decaying
partials; noise turns into ringing; events between the borders are missing. Seamless joins.
"""

from functools import partial

import numpy as np
from scipy import signal

from fakesound.attacks.base import Attack, AttackContext, FloatArray, Samples
from fakesound.attacks.inwards import fill_inwards, known_sides
from fakesound.attacks.prediction import burg, fill_gap

_BLOCK_S = (0.02, 0.06)
_REACH_S = 0.1
_ORDERS_S = (1 / 400, 1 / 160)
_ORDER_BOUNDS = (24, 192)
_ITERATIONS = 3
_MIN_SIDE = 32


def interpolate(left: Samples, right: Samples, length: int, *, order: int, iterations: int) -> Samples:
    """The gap (length,) between `left` and `right`, model and samples estimated in turns.

    Args:
        left: samples before the gap, more than 2 * order of them or the order is lowered.
        right: likewise after it; none: `left` is continued without residual.
        length: samples missing.
        order: of the model.
        iterations: estimates of the model; the first is from the sides alone.
    """
    sides = [side for side in (left, right) if len(side)]
    order = max(1, min(order, min(map(len, sides)) // 3))
    filled = _fill(left, right, length, burg(sides, order))
    for _ in range(iterations - 1):
        filled = _fill(left, right, length, burg([np.concatenate([left, filled, right])], order))
    return filled


def _fill(left: Samples, right: Samples, length: int, polynomial: Samples) -> Samples:
    if len(right):
        return fill_gap(left, right, length, polynomial)
    state = signal.lfiltic([1.0], polynomial, left[: -len(polynomial) : -1])
    return np.asarray(signal.lfilter([1.0], polynomial, np.zeros(length), zi=state)[0])


def _render(context: AttackContext, rng: np.random.Generator) -> FloatArray:
    rate = context.sample_rate_hz
    order = int(np.clip(rng.uniform(*_ORDERS_S) * rate, *_ORDER_BOUNDS))
    block = int(rng.uniform(*_BLOCK_S) * rate)
    reach = int(_REACH_S * rate)
    left, right = known_sides(context, reach, _MIN_SIDE)
    fill = partial(interpolate, order=order, iterations=_ITERATIONS)
    return fill_inwards(left, right, context.length, block=block, reach=reach, fill=fill).astype(np.float32)


JANSSEN = Attack(
    family="janssen",
    mechanism="interpolation",
    summary="gap filled by an autoregressive model, model and samples estimated in turns",
    render=_render,
)
