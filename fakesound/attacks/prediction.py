"""Linear prediction: Burg's estimate, the Levinson recursion over frames, and least-squares gap filling.

Polynomials are a = (1, a_1 … a_p) with residual e[t] = sum_k a_k x[t-k]. Shapes: p order, T frames.
"""

from collections.abc import Sequence

import numpy as np
from scipy import linalg, signal

from fakesound.attacks.base import Samples

_RIDGE = 1e-9  # of the diagonal: keeps sinusoids (poles on the unit circle) solvable in double precision
_EXHAUSTED = 1e-12  # of the energy: what is predicted this well holds only rounding errors to model


def burg(segments: Sequence[Samples], order: int) -> Samples:
    """Prediction polynomial (order + 1,) that fits all segments at once; its filter 1/a is stable.

    Burg, "Maximum entropy spectral analysis", 1967: each stage's reflection coefficient minimises the sum
    of forward and backward residual energies, here summed over the segments. Silence gives (1, 0, …), and
    so end the coefficients of what a lower order predicts to 120 dB.
    """
    polynomial = np.ones(1)
    forward = [np.asarray(segment, dtype=np.float64)[1:] for segment in segments]
    backward = [np.asarray(segment, dtype=np.float64)[:-1] for segment in segments]
    enough = _EXHAUSTED * sum(float(f @ f + b @ b) for f, b in zip(forward, backward, strict=True))
    for _ in range(order):
        product = sum(float(f @ b) for f, b in zip(forward, backward, strict=True))
        energy = sum(float(f @ f + b @ b) for f, b in zip(forward, backward, strict=True))
        reflection = -2 * product / energy if energy > enough else 0.0
        extended = np.append(polynomial, 0.0)
        polynomial = extended + reflection * extended[::-1]
        stepped = [(f + reflection * b, b + reflection * f) for f, b in zip(forward, backward, strict=True)]
        forward = [f[1:] for f, _ in stepped]
        backward = [b[:-1] for _, b in stepped]
    return polynomial


def levinson(autocorrelations: Samples) -> Samples:
    """Prediction polynomials (T, p + 1) from autocorrelations (T, p + 1), all frames at once."""
    count, width = autocorrelations.shape
    polynomials = np.zeros((count, width))
    polynomials[:, 0] = 1.0
    error = np.maximum(autocorrelations[:, 0], 1e-300)
    for order in range(1, width):
        correlation = (polynomials[:, :order] * autocorrelations[:, order:0:-1]).sum(axis=1)
        reflection = np.clip(-correlation / error, -1 + 1e-9, 1 - 1e-9)
        polynomials[:, : order + 1] += reflection[:, None] * polynomials[:, order::-1]
        error = error * (1 - reflection**2)
    return polynomials


def fill_gap(left: Samples, right: Samples, length: int, polynomial: Samples) -> Samples:
    """The gap (length,) between `left` and `right` whose residual energy is least.

    Janssen, Veldhuis & Vries, "Adaptive interpolation of discrete-time signals that can be modeled as
    autoregressive processes", IEEE TASSP 34(2), 1986, one step: the normal equations are Toeplitz and
    banded (b_l = sum_k a_k a_{k+l}), solved by banded Cholesky in O(length * p^2).

    Args:
        left: at least p samples before the gap; only the last p count.
        right: at least p samples after it.
        length: samples missing.
        polynomial: (p + 1,) as of `burg`.
    """
    order = len(polynomial) - 1
    taps = np.correlate(polynomial, polynomial, "full")  # b_{-p} … b_p
    known = np.concatenate([left[len(left) - order :], np.zeros(length), right[:order]])
    pull = -np.convolve(known, taps, "same" if len(known) >= len(taps) else "full")
    excess = (len(pull) - len(known)) // 2
    pull = pull[excess + order : excess + order + length]
    height = min(order, length - 1) + 1
    bands = np.repeat(taps[order : order + height, None], length, axis=1)
    bands[0] *= 1 + _RIDGE
    return np.asarray(linalg.solveh_banded(bands, pull, lower=True, check_finite=False))


def residual(samples: Samples, polynomial: Samples) -> Samples:
    """Prediction residual (n - p,), without the filter's start-up."""
    return np.asarray(signal.lfilter(polynomial, [1.0], samples))[len(polynomial) - 1 :]
