# ruff: noqa: PLR0917 - compiled code takes its arrays one by one
"""Compiled loops of the scan and its convolution: sequential in time, a block of channels at once.

Nothing of shape (B, L, D, N) is ever in memory. The forward pass can keep the states at which chunks start;
the backward pass goes from the last chunk to the first, replays each from its start, and then retraces it.

The kernels are plain functions without the interpreter's lock, to be run by several threads on interleaved
tasks. Importing this module compiles them, or loads them from numba's cache.

Shapes: B batch, L tokens, D inner channels, N state, K taps; LANES channels of a block, CHUNK tokens.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

Array = NDArray[np.float32]

LANES = 64  # fewer, and LLVM unrolls the inner loop instead of vectorising it
CHUNK = 16  # states of a chunk, and its decays, fill half of a usual second-level cache

_OPTIONS: dict[str, Any] = {
    "nogil": True,
    "error_model": "numpy",
    # Sums over channels may be reordered (that is what vectorises them); NaN and infinity keep their meaning.
    "fastmath": {"reassoc", "contract", "nsz", "arcp"},
}
_F = np.float32
_LOG2_E = _F(1.4426950408889634)
_LN_2 = _F(0.6931471805599453)

_VECTOR, _MATRIX, _CUBE = "float32[::1]", "float32[:,::1]", "float32[:,:,::1]"
_GROUPED, _STARTS = "float32[:,:,:,::1]", "float32[:,:,:,:,::1]"
_INPUTS = f"{_CUBE},{_CUBE},{_MATRIX},{_CUBE},{_CUBE},{_VECTOR},boolean[:,::1]"
_TASKS = "boolean,int64,int64"


def _compiled(signature: str) -> Callable[[Callable[..., None]], Callable[..., None]]:
    def compile_now(function: Callable[..., None]) -> Callable[..., None]:
        try:
            return njit(signature, cache=True, **_OPTIONS)(function)
        except (
            RuntimeError,
            OSError,
        ):  # no cache folder can be written: compile for this process alone
            return njit(signature, **_OPTIONS)(function)

    return compile_now


@njit(fastmath={"contract"})
def _exp2(x: Any) -> Any:
    """2**x to single precision: 2**round(x) by the exponent bits, times a polynomial of the remainder."""
    x = min(max(x, _F(-126.0)), _F(126.0))
    whole = np.int32(np.floor(x + _F(0.5)))
    rest = x - _F(whole)
    power = _F(1.535336188319500e-4)
    power = power * rest + _F(1.339887440266574e-3)
    power = power * rest + _F(9.618437357674640e-3)
    power = power * rest + _F(5.550332471162809e-2)
    power = power * rest + _F(2.402264791363012e-1)
    power = power * rest + _F(6.931472028550421e-1)
    power = power * rest + _F(1.0)
    return power * np.int32((whole + np.int32(127)) << np.int32(23)).view(np.float32)


@njit(**_OPTIONS)
def _load_rates(rate: Array, A: Array, d0: int, width: int) -> None:
    """rate[n, c] = A in units of powers of two; zero for lanes beyond the last channel."""
    rate[:] = _F(0)
    for n in range(rate.shape[0]):
        for c in range(width):
            rate[n, c] = A[d0 + c, n] * _LOG2_E


@njit(**_OPTIONS)
def _load_token(
    step: Array, entering: Array, u: Array, delta: Array, b: int, t: int, d0: int, width: int
) -> None:
    """step = delta, entering = delta * u of one token; lanes beyond the last channel keep their zero."""
    # Slices start at zero: LLVM then need not allow for indices that count from the end, and vectorises.
    delta_row, u_row = delta[b, t, d0 : d0 + width], u[b, t, d0 : d0 + width]
    for c in range(width):
        step[c] = delta_row[c]
        entering[c] = delta_row[c] * u_row[c]


@_compiled(f"void({_CUBE},{_STARTS},{_INPUTS},{_TASKS})")
def scan_forward(
    y: Array,
    starts: Array,
    u: Array,
    delta: Array,
    A: Array,
    B: Array,
    C: Array,
    D: Array,
    mask: NDArray[np.bool_],
    reverse: bool,
    first: int,
    stride: int,
) -> None:
    """Write y, and the states that chunks start from unless `starts` is empty. A task: a clip, a block."""
    num_tokens, num_channels, num_states = u.shape[1], u.shape[2], A.shape[1]
    blocks = (num_channels + LANES - 1) // LANES
    h = np.empty((num_states, LANES), np.float32)
    rate = np.empty((num_states, LANES), np.float32)
    step, entering = np.zeros(LANES, np.float32), np.zeros(LANES, np.float32)
    out = np.empty(LANES, np.float32)
    for task in range(first, u.shape[0] * blocks, stride):
        b, block = task // blocks, task % blocks
        d0 = block * LANES
        width = min(LANES, num_channels - d0)
        skip = D[d0 : d0 + width]
        _load_rates(rate, A, d0, width)
        h[:] = _F(0)
        step[:] = _F(0)
        entering[:] = _F(0)
        for place in range(num_tokens):
            t = num_tokens - 1 - place if reverse else place
            if starts.shape[0] > 0 and place % CHUNK == 0:
                starts[b, block, place // CHUNK] = h
            if not mask[b, t]:
                y[b, t, d0 : d0 + width] = _F(0)
                continue
            _load_token(step, entering, u, delta, b, t, d0, width)
            out[:] = _F(0)
            for n in range(num_states):
                B_n, C_n = B[b, t, n], C[b, t, n]
                for c in range(LANES):
                    state = _exp2(step[c] * rate[n, c]) * h[n, c] + entering[c] * B_n
                    h[n, c] = state
                    out[c] += state * C_n
            y_row, u_row = y[b, t, d0 : d0 + width], u[b, t, d0 : d0 + width]
            for c in range(width):
                y_row[c] = out[c] + skip[c] * u_row[c]


@njit(**_OPTIONS)
def _replay_token(
    h: Array, decay: Array, k: int, step: Array, entering: Array, rate: Array, B_token: Array
) -> None:
    """h[k + 1] from h[k], keeping the decays."""
    for n in range(rate.shape[0]):
        B_n = B_token[n]
        for c in range(LANES):
            kept = _exp2(step[c] * rate[n, c])
            decay[k, n, c] = kept
            h[k + 1, n, c] = kept * h[k, n, c] + entering[c] * B_n


@njit(**_OPTIONS)
def _retrace_token(
    grad_h: Array,
    grad_A: Array,
    grad_B_token: Array,
    grad_C_token: Array,
    via_B: Array,
    via_A: Array,
    h: Array,
    decay: Array,
    k: int,
    step: Array,
    entering: Array,
    grad_out: Array,
    rate: Array,
    B_token: Array,
    C_token: Array,
) -> None:
    """Carry grad_h from after a token to before it, adding what it says of A, B and C.

    With g = grad_h + grad_y C: dC = grad_y h[t]; dB = g delta u; before the token grad_h = g exp(delta A);
    and with e = g exp(delta A) h[t-1]: dA = e delta, d(delta) = sum of e A (via_A) + u sum of g B (via_B).
    """
    via_B[:] = _F(0)
    via_A[:] = _F(0)
    for n in range(rate.shape[0]):
        B_n, C_n = B_token[n], C_token[n]
        sum_B, sum_C = _F(0), _F(0)
        for c in range(LANES):
            g = grad_h[n, c] + grad_out[c] * C_n
            sum_C += grad_out[c] * h[k + 1, n, c]
            sum_B += g * entering[c]
            via_B[c] += g * B_n
            before = g * decay[k, n, c]
            grad_h[n, c] = before
            e = before * h[k, n, c]
            via_A[c] += e * rate[n, c]
            grad_A[n, c] += e * step[c]
        grad_B_token[n] += sum_B
        grad_C_token[n] += sum_C


_GRADIENTS = f"{_CUBE},{_CUBE},{_CUBE},{_GROUPED},{_GROUPED},{_MATRIX}"


@_compiled(f"void({_GRADIENTS},{_CUBE},{_STARTS},{_INPUTS},{_TASKS})")
def scan_backward(
    grad_u: Array,
    grad_delta: Array,
    grad_A: Array,
    grad_B: Array,
    grad_C: Array,
    grad_D: Array,
    grad_y: Array,
    starts: Array,
    u: Array,
    delta: Array,
    A: Array,
    B: Array,
    C: Array,
    D: Array,
    mask: NDArray[np.bool_],
    reverse: bool,
    first: int,
    stride: int,
) -> None:
    """Write all gradients. A task is a clip and a group of blocks.

    grad_A (B, D, N) and grad_D (B, D) are left apart by clip, grad_B and grad_C (groups, B, L, N), zero at
    entry, by group as well, so that no two tasks write to one place; the caller adds them up.
    """
    num_tokens, num_channels, num_states = u.shape[1], u.shape[2], A.shape[1]
    blocks = (num_channels + LANES - 1) // LANES
    chunks = (num_tokens + CHUNK - 1) // CHUNK
    groups = grad_B.shape[0]
    blocks_of_group = (blocks + groups - 1) // groups
    h = np.empty((CHUNK + 1, num_states, LANES), np.float32)
    decay = np.empty((CHUNK, num_states, LANES), np.float32)
    rate = np.empty((num_states, LANES), np.float32)
    grad_h, sum_A = np.empty_like(rate), np.empty_like(rate)
    step, entering = np.empty(LANES, np.float32), np.empty(LANES, np.float32)
    grad_out, sum_D = np.empty(LANES, np.float32), np.empty(LANES, np.float32)
    via_A, via_B = np.empty(LANES, np.float32), np.empty(LANES, np.float32)
    for task in range(first, u.shape[0] * groups, stride):
        b, group = task // groups, task % groups
        for block in range(group * blocks_of_group, min((group + 1) * blocks_of_group, blocks)):
            d0 = block * LANES
            width = min(LANES, num_channels - d0)
            skip = D[d0 : d0 + width]
            _load_rates(rate, A, d0, width)
            for row in (step, entering, grad_out, sum_D):
                row[:] = _F(0)
            grad_h[:] = _F(0)
            sum_A[:] = _F(0)
            for chunk in range(chunks - 1, -1, -1):
                size = min(CHUNK, num_tokens - chunk * CHUNK)
                h[0] = starts[b, block, chunk]
                for k in range(size):
                    place = chunk * CHUNK + k
                    t = num_tokens - 1 - place if reverse else place
                    if not mask[b, t]:
                        h[k + 1] = h[k]
                        continue
                    _load_token(step, entering, u, delta, b, t, d0, width)
                    _replay_token(h, decay, k, step, entering, rate, B[b, t])
                for k in range(size - 1, -1, -1):
                    place = chunk * CHUNK + k
                    t = num_tokens - 1 - place if reverse else place
                    if not mask[b, t]:
                        grad_u[b, t, d0 : d0 + width] = _F(0)
                        grad_delta[b, t, d0 : d0 + width] = _F(0)
                        continue
                    _load_token(step, entering, u, delta, b, t, d0, width)
                    grad_out[:width] = grad_y[b, t, d0 : d0 + width]
                    _retrace_token(
                        grad_h, sum_A, grad_B[group, b, t], grad_C[group, b, t], via_B, via_A, h, decay, k,
                        step, entering, grad_out, rate, B[b, t], C[b, t],
                    )  # fmt: skip
                    u_row, grad_u_row = u[b, t, d0 : d0 + width], grad_u[b, t, d0 : d0 + width]
                    grad_delta_row = grad_delta[b, t, d0 : d0 + width]
                    for c in range(width):
                        grad_u_row[c] = skip[c] * grad_out[c] + step[c] * via_B[c]
                        grad_delta_row[c] = u_row[c] * via_B[c] + _LN_2 * via_A[c]
                        sum_D[c] += grad_out[c] * u_row[c]
            for c in range(width):
                grad_D[b, d0 + c] = sum_D[c]
                for n in range(num_states):
                    grad_A[b, d0 + c, n] = sum_A[n, c]


@njit(**_OPTIONS)
def _convolve_token(
    out: Array, x: Array, weight: Array, bias: Array, reverse: bool, b: int, t: int, d0: int, width: int
) -> None:
    """out = bias + sum over k of weight[k] x[t - (K-1) + k]; mirrored if `reverse`; zero beyond ends."""
    num_taps = weight.shape[0]
    out[:width] = bias[d0 : d0 + width]
    for k in range(num_taps):
        source = t + num_taps - 1 - k if reverse else t - num_taps + 1 + k
        if 0 <= source < x.shape[1]:
            taps, seen = weight[k, d0 : d0 + width], x[b, source, d0 : d0 + width]
            for c in range(width):
                out[c] += taps[c] * seen[c]


@_compiled(f"void({_CUBE},{_CUBE},{_MATRIX},{_VECTOR},{_TASKS})")
def conv_forward(
    y: Array, x: Array, weight: Array, bias: Array, reverse: bool, first: int, stride: int
) -> None:
    """Write y = silu(convolution of x); weight is (K, D). A task is a clip and a block of channels."""
    num_channels = x.shape[2]
    blocks = (num_channels + LANES - 1) // LANES
    summed = np.empty(LANES, np.float32)
    for task in range(first, x.shape[0] * blocks, stride):
        b, d0 = task // blocks, task % blocks * LANES
        width = min(LANES, num_channels - d0)
        for t in range(x.shape[1]):
            _convolve_token(summed, x, weight, bias, reverse, b, t, d0, width)
            out = y[b, t, d0 : d0 + width]
            for c in range(width):
                out[c] = summed[c] / (_F(1) + _exp2(-_LOG2_E * summed[c]))


@_compiled(f"void({_CUBE},{_CUBE},{_MATRIX},{_CUBE},{_CUBE},{_MATRIX},{_VECTOR},{_TASKS})")
def conv_backward(
    grad_x: Array,
    grad_weight: Array,
    grad_bias: Array,
    grad_y: Array,
    x: Array,
    weight: Array,
    bias: Array,
    reverse: bool,
    first: int,
    stride: int,
) -> None:
    """Add to grad_x (B, L, D), grad_weight (B, K, D), grad_bias (B, D), zero at entry; tasks as forward."""
    num_tokens, num_channels, num_taps = x.shape[1], x.shape[2], weight.shape[0]
    blocks = (num_channels + LANES - 1) // LANES
    summed, grad = np.empty(LANES, np.float32), np.empty(LANES, np.float32)
    for task in range(first, x.shape[0] * blocks, stride):
        b, d0 = task // blocks, task % blocks * LANES
        width = min(LANES, num_channels - d0)
        for t in range(num_tokens):
            _convolve_token(summed, x, weight, bias, reverse, b, t, d0, width)
            arriving = grad_y[b, t, d0 : d0 + width]
            for c in range(width):
                share = _F(1) / (_F(1) + _exp2(-_LOG2_E * summed[c]))
                grad[c] = arriving[c] * share * (_F(1) + summed[c] * (_F(1) - share))
            grad_bias[b, d0 : d0 + width] += grad[:width]
            for k in range(num_taps):
                source = t + num_taps - 1 - k if reverse else t - num_taps + 1 + k
                if 0 <= source < num_tokens:
                    taps, seen = weight[k, d0 : d0 + width], x[b, source, d0 : d0 + width]
                    to_taps, to_seen = grad_weight[b, k, d0 : d0 + width], grad_x[b, source, d0 : d0 + width]
                    for c in range(width):
                        to_taps[c] += grad[c] * seen[c]
                    for c in range(width):
                        to_seen[c] += grad[c] * taps[c]
