# ruff: noqa: PLR0917, PLR0912 - compiled code takes its arrays one by one, and cannot be cut up freely
"""Compiled loops of the scan and its convolution: sequential in time, a block of channels at once.

Nothing of shape (B, L, D, N) is ever in memory. The forward pass can keep the states at which chunks start;
the backward pass goes from the last chunk to the first, replays each from its start, and then retraces it.
The second direction reads the same arrays from their end.

The kernels are plain functions without the interpreter's lock, to be run by several threads on interleaved
tasks. Importing this module compiles them, or loads them from numba's cache.

Shapes: S directions, B batch, L tokens, D inner channels, N state, K taps; LANES channels of a block, CHUNK
tokens of a chunk.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

Array = NDArray[np.float32]
Mask = NDArray[np.bool_]

LANES = (
    192  # divides the inner width of every size of ViM; what a token costs beside its lanes is then little
)
CHUNK = 16  # states of a chunk, and its decays, then fill less than half a MiB of second-level cache

_OPTIONS: dict[str, Any] = {
    "nogil": True,
    "error_model": "numpy",
    # Sums over channels may be reordered (that is what vectorises them); NaN and infinity keep their meaning.
    "fastmath": {"reassoc", "contract", "nsz", "arcp"},
}
# Without reassociation: the rounding in _exp2 is an addition and a subtraction that must both be done.
_EXACT: dict[str, Any] = {"error_model": "numpy", "fastmath": {"contract"}}

_F, _I = np.float32, np.int32
_LOG2_E = _F(1.4426950408889634)
_LN_2 = _F(0.6931471805599453)
_ROUNDING = _F(1.5 * 2**23)  # added to a float, leaves its nearest whole number in the lowest bits

_1D, _2D, _3D = "float32[::1]", "float32[:,::1]", "float32[:,:,::1]"
_4D, _5D, _6D = "float32[:,:,:,::1]", "float32[:,:,:,:,::1]", "float32[:,:,:,:,:,::1]"
_MASK = "boolean[:,::1]"
_TASKS = "int64,int64"


def _compiled(*types: str) -> Callable[[Callable[..., None]], Callable[..., None]]:
    signature = f"void({','.join((*types, _TASKS))})"

    def compile_now(function: Callable[..., None]) -> Callable[..., None]:
        try:
            return njit(signature, cache=True, **_OPTIONS)(function)
        except (RuntimeError, OSError):  # no cache folder can be written: compile for this process alone
            return njit(signature, **_OPTIONS)(function)

    return compile_now


@njit(**_EXACT)
def _exp2(x: Any) -> Any:
    """2**x: 2**round(x) by the exponent bits, times a minimax polynomial of the rest, to 8e-8 of itself.

    Clamped, so that the exponent neither under- nor overflows: 2**-126 and 2**127 stand for what lies beyond.
    """
    x = _F(min(max(x, _F(-126.0)), _F(127.0)))
    shifted = _F(x + _ROUNDING)
    rest = _F(x - _F(shifted - _ROUNDING))
    power = _F(1.3274633365380419e-3)
    power = _F(power * rest + _F(9.6719616795861545e-3))
    power = _F(power * rest + _F(5.5506783687207788e-2))
    power = _F(power * rest + _F(2.4022235322362132e-1))
    power = _F(power * rest + _F(6.9314706156025085e-1))
    power = _F(power * rest + _F(1.0))
    # 32-bit sums of bit patterns, said twice: numba would widen them, and halve the lanes of a vector.
    return _I(power.view(_I) + _I(shifted.view(_I) << _I(23))).view(_F)


@njit(**_EXACT)
def _softplus(x: Any) -> Any:
    """log(1 + exp(x)) = max(x, 0) + 2 artanh(e / (2 + e)) with e = exp(-|x|), to 2e-7 of itself."""
    e = _exp2(-_LOG2_E * abs(x))
    ratio = _F(e / (_F(2) + e))
    square = _F(ratio * ratio)
    series = _F(1.4005993338e-1)
    series = _F(series * square + _F(1.4000902654e-1))
    series = _F(series * square + _F(2.0010763618e-1))
    series = _F(series * square + _F(3.3333208143e-1))
    series = _F(series * square + _F(1.0))
    return _F(max(x, _F(0)) + _F(2) * ratio * series)


@njit(**_EXACT)
def _sigmoid(x: Any) -> Any:
    """1 / (1 + exp(-x))."""
    return _F(_F(1) / (_F(1) + _exp2(-_LOG2_E * x)))


@njit(**_OPTIONS)
def _load_rates(rate: Array, A: Array, d0: int, width: int) -> None:
    """rate[n, c] = A in units of powers of two; lanes beyond the last channel keep their zero."""
    for n in range(rate.shape[0]):
        for c in range(width):
            rate[n, c] = A[d0 + c, n] * _LOG2_E


@njit(**_OPTIONS)
def _load_token(step: Array, entering: Array, u_row: Array, delta_row: Array, bias_row: Array) -> None:
    """step = softplus(delta + bias), entering = step u; lanes beyond the last channel keep their zero."""
    # Rows start at zero: LLVM then need not allow for indices that count from the end, and vectorises.
    for c in range(u_row.shape[0]):
        step[c] = _softplus(delta_row[c] + bias_row[c])
        entering[c] = step[c] * u_row[c]


@njit(**_OPTIONS)
def _advance(h: Array, out: Array, step: Array, entering: Array, rate: Array, B_N: Array, C_N: Array) -> None:
    """h becomes the next state, and out is C h."""
    out[:] = _F(0)
    for n in range(rate.shape[0]):
        B_n, C_n = B_N[n], C_N[n]
        for c in range(LANES):
            state = _exp2(step[c] * rate[n, c]) * h[n, c] + entering[c] * B_n
            h[n, c] = state
            out[c] += state * C_n


@njit(**_OPTIONS)
def _scan_block(
    gated: Array,
    keep: Array,
    u: Array,
    delta: Array,
    A: Array,
    B: Array,
    C: Array,
    D: Array,
    bias: Array,
    z: Array,
    mask: Mask,
    s: int,
    num_directions: int,
    d0: int,
) -> None:
    """Direction s of one clip and block, in its share of the mean: the first direction writes gated (L, D),
    others add to it, the last one gates it. Keeps the states that chunks start from.

    Arrays as in `scan_forward`, of one direction and clip; keep is (chunks, N, LANES), or (0, N, LANES).
    """
    num_tokens, num_states = u.shape[0], A.shape[1]
    share = _F(1) / _F(num_directions)
    end = min(d0 + LANES, u.shape[1])
    h, rate = np.zeros((num_states, LANES), _F), np.zeros((num_states, LANES), _F)
    rows = np.zeros((3, LANES), _F)
    step, entering, out = rows[0], rows[1], rows[2]
    _load_rates(rate, A, d0, end - d0)
    skip_row, bias_row = D[d0:end], bias[d0:end]
    for place in range(num_tokens):
        t = num_tokens - 1 - place if s == 1 else place
        if keep.shape[0] > 0 and place % CHUNK == 0:
            keep[place // CHUNK] = h
        gated_row = gated[t, d0:end]
        if not mask[t]:
            gated_row[:] = _F(0)
            continue
        u_row, z_row = u[t, d0:end], z[t, d0:end]
        _load_token(step, entering, u_row, delta[t, d0:end], bias_row)
        _advance(h, out, step, entering, rate, B[t], C[t])
        for c in range(u_row.shape[0]):
            out[c] = (out[c] + skip_row[c] * u_row[c]) * share
        if s > 0:
            for c in range(gated_row.shape[0]):
                out[c] += gated_row[c]
        if s == num_directions - 1:
            for c in range(z_row.shape[0]):
                gated_row[c] = out[c] * z_row[c] * _sigmoid(z_row[c])
        else:
            for c in range(gated_row.shape[0]):
                gated_row[c] = out[c]


@_compiled(_3D, _6D, _4D, _4D, _3D, _4D, _4D, _2D, _2D, _3D, _MASK)
def scan_forward(
    gated: Array,
    starts: Array,
    u: Array,
    delta: Array,
    A: Array,
    B: Array,
    C: Array,
    D: Array,
    bias: Array,
    z: Array,
    mask: Mask,
    first: int,
    stride: int,
) -> None:
    """Write gated (B, L, D), the mean of the directions times silu(z).

    Also writes the states that chunks start from, starts (S, B, blocks, chunks, N, LANES), unless its number
    of chunks is zero. A task is a clip and a block, both directions.
    """
    num_directions, num_clips, _, num_channels = u.shape
    blocks = (num_channels + LANES - 1) // LANES
    for task in range(first, num_clips * blocks, stride):
        b, block = task // blocks, task % blocks
        for s in range(num_directions):
            _scan_block(
                gated[b], starts[s, b, block], u[s, b], delta[s, b], A[s], B[s, b], C[s, b], D[s], bias[s],
                z[b], mask[b], s, num_directions, block * LANES,
            )  # fmt: skip


@njit(**_OPTIONS)
def _replay_token(
    h_next: Array, decay: Array, h: Array, step: Array, entering: Array, rate: Array, B_N: Array
) -> None:
    """The state after a token from the one before, keeping the decays."""
    for n in range(rate.shape[0]):
        B_n = B_N[n]
        for c in range(LANES):
            kept = _exp2(step[c] * rate[n, c])
            decay[n, c] = kept
            h_next[n, c] = kept * h[n, c] + entering[c] * B_n


@njit(**_OPTIONS)
def _retrace_token(
    grad_h: Array,
    sum_A: Array,
    grad_B_N: Array,
    grad_C_N: Array,
    via_B: Array,
    via_A: Array,
    out: Array,
    h_next: Array,
    decay: Array,
    h: Array,
    step: Array,
    entering: Array,
    grad_out: Array,
    rate: Array,
    B_N: Array,
    C_N: Array,
) -> None:
    """Carry grad_h from after a token to before it, adding what it says of A, B and C; out becomes C h again.

    With g = grad_h + grad_y C: dC = grad_y h[t]; dB = g delta u; before the token grad_h = g exp(delta A);
    and with e = g exp(delta A) h[t-1]: dA = e delta, d(delta) = sum of e A (via_A) + u sum of g B (via_B).
    """
    via_B[:] = _F(0)
    via_A[:] = _F(0)
    out[:] = _F(0)
    for n in range(rate.shape[0]):
        B_n, C_n = B_N[n], C_N[n]
        to_B, to_C = _F(0), _F(0)
        for c in range(LANES):
            state = h_next[n, c]
            out[c] += state * C_n
            to_C += grad_out[c] * state
            g = grad_h[n, c] + grad_out[c] * C_n
            to_B += g * entering[c]
            via_B[c] += g * B_n
            before = g * decay[n, c]
            grad_h[n, c] = before
            e = before * h[n, c]
            sum_A[n, c] += e * step[c]
            via_A[c] += e * rate[n, c]
        grad_B_N[n] += to_B
        grad_C_N[n] += to_C


@njit(**_OPTIONS)
def _retrace_block(
    grad_u: Array,
    grad_delta: Array,
    grad_A: Array,
    grad_B: Array,
    grad_C: Array,
    grad_D: Array,
    grad_bias: Array,
    grad_z: Array,
    grad_gated: Array,
    keep: Array,
    u: Array,
    delta: Array,
    A: Array,
    B: Array,
    C: Array,
    D: Array,
    bias: Array,
    z: Array,
    mask: Mask,
    s: int,
    num_directions: int,
    d0: int,
) -> None:
    """The gradients of direction s of one clip and block; arrays as in `scan_backward`.

    The gate's is the sum over the directions of what each one's y says, since their mean is linear.
    """
    num_tokens, num_states = u.shape[0], A.shape[1]
    share = _F(1) / _F(num_directions)
    end = min(d0 + LANES, u.shape[1])
    h = np.empty((CHUNK + 1, num_states, LANES), _F)
    decay = np.empty((CHUNK, num_states, LANES), _F)
    step, entering = np.zeros((CHUNK, LANES), _F), np.zeros((CHUNK, LANES), _F)
    carried = np.zeros((3, num_states, LANES), _F)
    rate, sum_A, grad_h = carried[0], carried[1], carried[2]
    rows = np.zeros((5, LANES), _F)
    grad_out, via_A, via_B, out, open_ = rows[0], rows[1], rows[2], rows[3], rows[4]
    _load_rates(rate, A, d0, end - d0)
    skip_row, bias_row = D[d0:end], bias[d0:end]
    to_D_row, to_bias_row = grad_D[d0:end], grad_bias[d0:end]
    to_D_row[:] = _F(0)
    to_bias_row[:] = _F(0)
    for chunk in range(keep.shape[0] - 1, -1, -1):
        start = chunk * CHUNK
        size = min(CHUNK, num_tokens - start)
        h[0] = keep[chunk]
        for k in range(size):
            t = num_tokens - 1 - start - k if s == 1 else start + k
            if mask[t]:
                _load_token(step[k], entering[k], u[t, d0:end], delta[t, d0:end], bias_row)
                _replay_token(h[k + 1], decay[k], h[k], step[k], entering[k], rate, B[t])
            else:
                h[k + 1] = h[k]
        for k in range(size - 1, -1, -1):
            t = num_tokens - 1 - start - k if s == 1 else start + k
            grad_u_row, grad_delta_row = grad_u[t, d0:end], grad_delta[t, d0:end]
            to_z_row = grad_z[t, d0:end]
            if not mask[t]:
                for row in (grad_u_row, grad_delta_row, to_z_row):
                    row[:] = _F(0)
                continue
            grad_row, z_row = grad_gated[t, d0:end], z[t, d0:end]
            for c in range(z_row.shape[0]):
                open_[c] = _sigmoid(z_row[c])
                grad_out[c] = grad_row[c] * z_row[c] * open_[c] * share
            _retrace_token(
                grad_h, sum_A, grad_B[t], grad_C[t], via_B, via_A, out, h[k + 1], decay[k], h[k], step[k],
                entering[k], grad_out, rate, B[t], C[t],
            )  # fmt: skip
            u_row, delta_row, step_row = u[t, d0:end], delta[t, d0:end], step[k]
            for c in range(z_row.shape[0]):
                slope = open_[c] * (_F(1) + z_row[c] * (_F(1) - open_[c]))
                out[c] = (out[c] + skip_row[c] * u_row[c]) * share * grad_row[c] * slope
            if s == 0:
                to_z_row[:] = out[: end - d0]
            else:
                for c in range(to_z_row.shape[0]):
                    to_z_row[c] += out[c]
            for c in range(u_row.shape[0]):
                grad_u_row[c] = skip_row[c] * grad_out[c] + step_row[c] * via_B[c]
                to_step = u_row[c] * via_B[c] + _LN_2 * via_A[c]
                to_raw = to_step * _sigmoid(delta_row[c] + bias_row[c])
                grad_delta_row[c] = to_raw
                to_bias_row[c] += to_raw
                to_D_row[c] += grad_out[c] * u_row[c]
    for c in range(end - d0):
        for n in range(num_states):
            grad_A[d0 + c, n] = sum_A[n, c]


@_compiled(
    _4D, _4D, _4D, _5D, _5D, _3D, _3D, _3D, _3D, _6D, _4D, _4D, _3D, _4D, _4D, _2D, _2D, _3D, _MASK
)  # fmt: skip
def scan_backward(
    grad_u: Array,
    grad_delta: Array,
    grad_A: Array,
    grad_B: Array,
    grad_C: Array,
    grad_D: Array,
    grad_bias: Array,
    grad_z: Array,
    grad_gated: Array,
    starts: Array,
    u: Array,
    delta: Array,
    A: Array,
    B: Array,
    C: Array,
    D: Array,
    bias: Array,
    z: Array,
    mask: Mask,
    first: int,
    stride: int,
) -> None:
    """Write all gradients, given the one of `gated`. A task is a clip and a group of blocks.

    grad_A (B, S, D, N), grad_D and grad_bias (B, S, D) are left apart by clip, grad_B and grad_C (G, S, B, L,
    N), zero at entry, by group, so that no two tasks write to one place; the caller adds them up.
    """
    num_directions, num_clips, _, num_channels = u.shape
    blocks = (num_channels + LANES - 1) // LANES
    groups = grad_B.shape[0]
    blocks_of_group = (blocks + groups - 1) // groups
    for task in range(first, num_clips * groups, stride):
        b, group = task // groups, task % groups
        for block in range(group * blocks_of_group, min((group + 1) * blocks_of_group, blocks)):
            for s in range(num_directions):
                _retrace_block(
                    grad_u[s, b], grad_delta[s, b], grad_A[b, s], grad_B[group, s, b], grad_C[group, s, b],
                    grad_D[b, s], grad_bias[b, s], grad_z[b], grad_gated[b], starts[s, b, block], u[s, b],
                    delta[s, b], A[s], B[s, b], C[s, b], D[s], bias[s], z[b], mask[b], s, num_directions,
                    block * LANES,
                )  # fmt: skip


@njit(**_OPTIONS)
def _convolve_token(
    out: Array, x: Array, weight: Array, bias: Array, reverse: bool, t: int, d0: int, end: int
) -> None:
    """out = bias + sum over k of weight[k] x[t - (K-1) + k]; mirrored if `reverse`; zero beyond ends."""
    num_taps = weight.shape[0]
    out[: end - d0] = bias[d0:end]
    for k in range(num_taps):
        source = t + num_taps - 1 - k if reverse else t - num_taps + 1 + k
        if 0 <= source < x.shape[0]:
            taps, seen = weight[k, d0:end], x[source, d0:end]
            for c in range(seen.shape[0]):
                out[c] += taps[c] * seen[c]


@_compiled(_4D, _3D, _3D, _2D)
def conv_forward(u: Array, x: Array, weight: Array, bias: Array, first: int, stride: int) -> None:
    """Write u = silu(convolution of x), (S, B, L, D); weight is (S, K, D). A task: a clip, a block."""
    num_directions, num_clips, num_tokens, num_channels = u.shape
    blocks = (num_channels + LANES - 1) // LANES
    summed = np.empty(LANES, _F)
    for task in range(first, num_clips * blocks, stride):
        b, d0 = task // blocks, task % blocks * LANES
        end = min(d0 + LANES, num_channels)
        for s in range(num_directions):
            for t in range(num_tokens):
                _convolve_token(summed, x[b], weight[s], bias[s], s == 1, t, d0, end)
                out = u[s, b, t, d0:end]
                for c in range(out.shape[0]):
                    out[c] = summed[c] * _sigmoid(summed[c])


@_compiled(_3D, _4D, _3D, _4D, _3D, _3D, _2D)
def conv_backward(
    grad_x: Array,
    grad_weight: Array,
    grad_bias: Array,
    grad_u: Array,
    x: Array,
    weight: Array,
    bias: Array,
    first: int,
    stride: int,
) -> None:
    """Add to grad_x (B, L, D), grad_weight (B, S, K, D) and grad_bias (B, S, D), zero at entry.

    Tasks as in `conv_forward`.
    """
    num_directions, num_clips, num_tokens, num_channels = grad_u.shape
    num_taps = weight.shape[1]
    blocks = (num_channels + LANES - 1) // LANES
    rows = np.zeros((2, LANES), _F)
    summed, grad = rows[0], rows[1]
    for task in range(first, num_clips * blocks, stride):
        b, d0 = task // blocks, task % blocks * LANES
        end = min(d0 + LANES, num_channels)
        for s in range(num_directions):
            to_bias = grad_bias[b, s, d0:end]
            for t in range(num_tokens):
                _convolve_token(summed, x[b], weight[s], bias[s], s == 1, t, d0, end)
                arriving = grad_u[s, b, t, d0:end]
                for c in range(arriving.shape[0]):
                    open_ = _sigmoid(summed[c])
                    grad[c] = arriving[c] * open_ * (_F(1) + summed[c] * (_F(1) - open_))
                    to_bias[c] += grad[c]
                for k in range(num_taps):
                    source = t + num_taps - 1 - k if s == 1 else t - num_taps + 1 + k
                    if 0 <= source < num_tokens:
                        taps, seen = weight[s, k, d0:end], x[b, source, d0:end]
                        to_taps, to_seen = grad_weight[b, s, k, d0:end], grad_x[b, source, d0:end]
                        for c in range(seen.shape[0]):
                            to_taps[c] += grad[c] * seen[c]
                        for c in range(seen.shape[0]):
                            to_seen[c] += grad[c] * taps[c]
