"""Autoregressive gap filling: the region is forgotten and predicted from both sides.

Method: one autoregressive model of what surrounds the region (Burg). Pure least-squares interpolation
(Janssen et al. 1986, `prediction.fill_gap`) dies away in the middle of a gap longer than the model's memory,
so the fill is a *conditional simulation*: the model is run freely on its own shuffled residual, and the
difference to the true samples on both sides is interpolated by least squares and added. Near the borders that
is Janssen's interpolation; in the middle it is the model's own texture at the right level.

Traces: one frozen spectral envelope for the whole region, a white residual without pitch pulses or events,
waveforms that join without a seam.
"""

import numpy as np
from scipy import signal

from fakesound.attacks.base import Attack, AttackContext, FloatArray, Samples
from fakesound.attacks.prediction import burg, fill_gap, residual

_SURROUNDINGS_S = 0.3
_ORDERS_S = (1 / 800, 1 / 400)  # model order as a length of time, so that it follows the sample rate
_ORDER_BOUNDS = (16, 96)
_REACH_S = 0.1  # how far into the gap the borders are felt
_WARM_UP_S = 0.05


def _render(context: AttackContext, rng: np.random.Generator) -> FloatArray:
    rate = context.sample_rate_hz
    wanted_order = int(np.clip(rng.uniform(*_ORDERS_S) * rate, *_ORDER_BOUNDS))
    surroundings = context.surroundings(int(_SURROUNDINGS_S * rate), wanted_order * 2)
    order = min(wanted_order, max(1, min(map(len, surroundings)) // 3))
    polynomial = burg(surroundings, order)
    excitation = np.concatenate([residual(side, polynomial) for side in surroundings])
    warm_up = int(_WARM_UP_S * rate)
    drive = rng.choice(excitation, warm_up + context.length + 2 * order)
    free = np.asarray(signal.lfilter([1.0], polynomial, drive))[warm_up:]
    return (free[order:-order] + _correction(context, free, polynomial)).astype(np.float32)


def _correction(context: AttackContext, free: Samples, polynomial: Samples) -> Samples:
    """What must be added to the free run so that it meets the true samples on both sides.

    Beyond the recording's ends there is nothing to meet: the difference there counts as zero.
    """
    order = len(polynomial) - 1
    left, right = context.left(order), context.right(order)
    left = np.pad(left - free[order - len(left) : order], (order - len(left), 0))
    tail = free[len(free) - order :][: len(right)]
    right = np.pad(right - tail, (0, order - len(right)))
    reach = int(_REACH_S * context.sample_rate_hz)
    if context.length <= 2 * reach:
        return fill_gap(left, right, context.length, polynomial)
    middle = np.zeros(context.length - 2 * reach)
    nothing = np.zeros(order)
    onset = fill_gap(left, nothing, reach, polynomial)
    offset = fill_gap(nothing, right, reach, polynomial)
    return np.concatenate([onset, middle, offset])


AUTOREGRESSIVE = Attack(
    family="autoregressive",
    mechanism="interpolation",
    summary="gap filled by a Burg model of both sides, least-squares joins",
    render=_render,
)
