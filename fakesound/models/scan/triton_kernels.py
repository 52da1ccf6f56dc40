# ruff: noqa: ANN001, ANN201, ANN202, PLR0915, PLR0917, RUF005 - Triton has types of its own, and no unpacking
# pyright: reportGeneralTypeIssues=false
"""The Triton kernels of the selective scan and of its convolution; `scan/triton.py` launches them.

One program takes a chunk of tokens and a block of channels. Tokens are unrolled into tuples of rows, one lane
a channel, so that a chunk's rows stay in registers and its recurrence is plain arithmetic; nothing is used
but element-wise operations and sums, which the compiler and the interpreter do alike. Whatever lies at masked
tokens or beyond the ends counts as zero and is never read.

The grid has one dimension, and what a program's sequence (direction and clip) starts at is counted in 64
bits; places within one are counted in 32, enough for 2**31 numbers of one clip. All tensors are contiguous,
except those whose strides are passed, and single precision inside; rates are A * log2(e) laid out (S, N, D).

Shapes: S directions, B clips, L tokens, D channels, N state, C chunks of K tokens, T taps.
"""

import triton
import triton.language as tl

LN_2 = tl.constexpr(0.6931471805599453)
LOG2_E = tl.constexpr(1.4426950408889634)


@triton.jit
def _decaying_exp(x):
    """exp(-|x|), which cannot overflow."""
    return tl.exp2(-tl.abs(x) * LOG2_E)


@triton.jit
def _sigmoid(x):
    e = _decaying_exp(x)
    return tl.where(x >= 0, 1.0, e) / (1.0 + e)


@triton.jit
def _silu_slope(x):
    sigmoid = _sigmoid(x)
    return sigmoid * (1.0 + x * (1.0 - sigmoid))


@triton.jit
def _softplus(x):
    """max(x, 0) + log1p(exp(-|x|)), with log1p(e) = 2 artanh(e / (2 + e)) by its power series.

    1 + e would round away the digits of small steps, which are the usual ones. The series' argument is at
    most 1/3: the first term left out is below 2e-9 of the whole.
    """
    e = _decaying_exp(x)
    s = e / (2.0 + e)
    series = tl.full(x.shape, 1.0 / 15, tl.float32)
    for k in tl.static_range(7):
        series = series * s * s + 1.0 / (13 - 2 * k)
    return tl.maximum(x, 0.0) + 2.0 * s * series


@triton.jit
def _place(num_chunks, num_channels, BLOCK: tl.constexpr):
    """This program's clip, chunk, block of channels, and channels."""
    num_blocks = tl.cdiv(num_channels, BLOCK)
    index = tl.program_id(0)
    block = index % num_blocks
    clip = (index // (num_blocks * num_chunks)).to(tl.int64)
    return clip, index // num_blocks % num_chunks, block, block * BLOCK + tl.arange(0, BLOCK)


@triton.jit
def _nth(j, s: tl.constexpr, K: tl.constexpr):
    """Which token of a chunk direction s meets j-th."""
    return K - 1 - j if s == 1 else j


@triton.jit
def _rows(ptr, stride, bits, channels, num_channels, s: tl.constexpr, K: tl.constexpr):
    """The rows of a chunk's tokens, zero where masked."""
    rows = ()
    for j in tl.static_range(K):
        k = _nth(j, s, K)
        is_read = (channels < num_channels) & ((bits >> k) & 1 != 0)
        row = tl.load(ptr + k * stride + channels, mask=is_read, other=0.0)
        rows = rows + (row.to(tl.float32),)
    return rows


@triton.jit
def _store_rows(ptr, rows, num_left, channels, num_channels, s: tl.constexpr, K: tl.constexpr):
    """To contiguous rows; `num_left` tokens are left from the chunk's first to the last of all."""
    for j in tl.static_range(K):
        k = _nth(j, s, K)
        is_number = (channels < num_channels) & (k < num_left)
        tl.store(ptr + k * num_channels + channels, rows[j], mask=is_number)


@triton.jit
def _masked(rows, bits, s: tl.constexpr, K: tl.constexpr):
    """With zeros in the rows of masked tokens."""
    masked = ()
    for j in tl.static_range(K):
        masked = masked + (tl.where((bits >> _nth(j, s, K)) & 1 != 0, rows[j], 0.0),)
    return masked


@triton.jit
def _numbers(ptr, s: tl.constexpr, K: tl.constexpr):
    """One number of every token."""
    numbers = ()
    for j in tl.static_range(K):
        numbers = numbers + (tl.load(ptr + _nth(j, s, K)).to(tl.float32),)
    return numbers


@triton.jit
def _store_numbers(ptr, numbers, s: tl.constexpr, K: tl.constexpr):
    for j in tl.static_range(K):
        tl.store(ptr + _nth(j, s, K), numbers[j])


@triton.jit
def _steps(raw, bias, bits, s: tl.constexpr, K: tl.constexpr):
    """softplus(raw + bias); zero at masked tokens, over which the state then passes unchanged."""
    steps = ()
    for j in tl.static_range(K):
        steps = steps + (_softplus(raw[j] + bias),)
    return _masked(steps, bits, s, K)


@triton.jit
def _products(first, second, K: tl.constexpr):
    products = ()
    for j in tl.static_range(K):
        products = products + (first[j] * second[j],)
    return products


@triton.jit
def _gated(rows, z, scale, K: tl.constexpr):
    gated = ()
    for j in tl.static_range(K):
        gated = gated + (rows[j] * z[j] * _sigmoid(z[j]) * scale,)
    return gated


@triton.jit
def _reversed(rows, K: tl.constexpr):
    backwards = ()
    for j in tl.static_range(K):
        backwards = backwards + (rows[K - 1 - j],)
    return backwards


@triton.jit
def _zeros(K: tl.constexpr, BLOCK: tl.constexpr):
    zeros = ()
    for _ in tl.static_range(K):
        zeros = zeros + (tl.zeros([BLOCK], tl.float32),)
    return zeros


@triton.jit
def _channel_row(ptr, row, channels, num_channels):
    """A row of single-precision numbers that no token owns."""
    return tl.load(ptr + row * num_channels + channels, mask=channels < num_channels, other=0.0)


@triton.jit
def scan_summaries(
    u_ptr, delta_ptr, bias_ptr, rates_ptr, B_ptr, bits_ptr, states_ptr, totals_ptr,
    num_clips, num_tokens, num_channels, num_chunks,
    num_states: tl.constexpr, S: tl.constexpr, K: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Of each chunk: the state that it would leave behind if it found zero, (S, B, C, N, D), and the sum of
    its steps, (S, B, C, D), which says how much of what it did find would be left.
    """
    clip, chunk, _, channels = _place(num_chunks, num_channels, BLOCK)
    is_channel = channels < num_channels
    bits = tl.load(bits_ptr + clip * num_chunks + chunk)
    for s in tl.static_range(S):
        start = ((s * num_clips + clip) * num_tokens + chunk * K) * num_channels
        place = (s * num_clips + clip) * num_chunks + chunk
        bias = _channel_row(bias_ptr, s, channels, num_channels)
        raw = _rows(delta_ptr + start, num_channels, bits, channels, num_channels, s, K)
        steps = _steps(raw, bias, bits, s, K)
        u = _rows(u_ptr + start, num_channels, bits, channels, num_channels, s, K)
        entering = _products(steps, u, K)
        total = steps[0]
        for j in tl.static_range(1, K):
            total += steps[j]
        tl.store(totals_ptr + place * num_channels + channels, total, mask=is_channel)
        for n in range(num_states):
            rate = _channel_row(rates_ptr, s * num_states + n, channels, num_channels)
            of_state = place * num_states + n
            state = tl.zeros([BLOCK], tl.float32)
            B = _numbers(B_ptr + of_state * K, s, K)
            for j in tl.static_range(K):
                state = tl.exp2(steps[j] * rate) * state + entering[j] * B[j]
            tl.store(states_ptr + of_state * num_channels + channels, state, mask=is_channel)


@triton.jit
def scan_carry(
    states_ptr, totals_ptr, rates_ptr, num_clips, num_channels, num_states, num_chunks,
    AGAINST_TRAVEL: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Replace each chunk's summary by what reaches the chunk: the state it starts from or, against the
    direction of travel, the gradient of the state it leaves.

    A program takes a block of the (N, D) numbers of one sequence, and is their only reader and writer.
    """
    size = num_states * num_channels
    num_blocks = tl.cdiv(size, BLOCK)
    sequence = (tl.program_id(0) // num_blocks).to(tl.int64)
    states = tl.program_id(0) % num_blocks * BLOCK + tl.arange(0, BLOCK)
    is_state = states < size
    channels = states % num_channels
    direction = sequence // num_clips
    rate = tl.load(rates_ptr + direction * size + states, mask=is_state, other=0.0)
    from_last = (direction == 1) != AGAINST_TRAVEL
    place = sequence * num_chunks + tl.where(from_last, num_chunks - 1, 0)
    towards = tl.where(from_last, -1, 1)
    carry = tl.zeros([BLOCK], tl.float32)
    summary = tl.load(states_ptr + place * size + states, mask=is_state, other=0.0)
    total = tl.load(totals_ptr + place * num_channels + channels, mask=is_state, other=0.0)
    c = 0
    while c < num_chunks:  # the interpreter's range needs a constant, which a length should not be
        # The next chunk is loaded before this one is stored, so that its load need not wait.
        is_next = is_state & (c + 1 < num_chunks)
        next_place = place + towards
        next_summary = tl.load(states_ptr + next_place * size + states, mask=is_next, other=0.0)
        next_total = tl.load(totals_ptr + next_place * num_channels + channels, mask=is_next, other=0.0)
        tl.store(states_ptr + place * size + states, carry, mask=is_state)
        carry = tl.exp2(total * rate) * carry + summary
        summary = next_summary
        total = next_total
        place = next_place
        c += 1


@triton.jit
def scan_output(
    u_ptr, delta_ptr, bias_ptr, rates_ptr, B_ptr, C_ptr, D_ptr, z_ptr, bits_ptr, starts_ptr, out_ptr,
    z_stride_clip, z_stride_token, num_clips, num_tokens, num_channels, num_chunks,
    num_states: tl.constexpr, S: tl.constexpr, K: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """The gated mean of the directions, (B, L, D), of one chunk, from the states that they start it from."""
    clip, chunk, _, channels = _place(num_chunks, num_channels, BLOCK)
    bits = tl.load(bits_ptr + clip * num_chunks + chunk)
    y = _zeros(K, BLOCK)
    for s in tl.static_range(S):
        start = ((s * num_clips + clip) * num_tokens + chunk * K) * num_channels
        place = (s * num_clips + clip) * num_chunks + chunk
        bias = _channel_row(bias_ptr, s, channels, num_channels)
        raw = _rows(delta_ptr + start, num_channels, bits, channels, num_channels, s, K)
        steps = _steps(raw, bias, bits, s, K)
        u = _rows(u_ptr + start, num_channels, bits, channels, num_channels, s, K)
        entering = _products(steps, u, K)
        skip = _channel_row(D_ptr, s, channels, num_channels)
        grown = ()
        for j in tl.static_range(K):  # y is in the order of direction s from here on
            grown = grown + (y[K - 1 - j if s == 1 else j] + skip * u[j],)
        y = grown
        for n in range(num_states):
            rate = _channel_row(rates_ptr, s * num_states + n, channels, num_channels)
            of_state = place * num_states + n
            state = _channel_row(starts_ptr, of_state, channels, num_channels)
            B = _numbers(B_ptr + of_state * K, s, K)
            C = _numbers(C_ptr + of_state * K, s, K)
            grown = ()
            for j in tl.static_range(K):
                state = tl.exp2(steps[j] * rate) * state + entering[j] * B[j]
                grown = grown + (y[j] + C[j] * state,)
            y = grown
    z_ptr += clip * z_stride_clip + chunk * K * z_stride_token
    z = _rows(z_ptr, z_stride_token, bits, channels, num_channels, S - 1, K)
    gated = _gated(y, z, 1.0 / S, K)
    out = _masked(gated, bits, S - 1, K)
    out_ptr += (clip * num_tokens + chunk * K) * num_channels
    _store_rows(out_ptr, out, num_tokens - chunk * K, channels, num_channels, S - 1, K)


@triton.jit
def scan_grad_summaries(
    delta_ptr, bias_ptr, rates_ptr, C_ptr, z_ptr, bits_ptr, grad_ptr, grad_states_ptr,
    z_stride_clip, z_stride_token, num_clips, num_tokens, num_channels, num_chunks,
    num_states: tl.constexpr, S: tl.constexpr, K: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Of each chunk: the gradient that it would pass to the state it starts from if none reached the state it
    leaves, (S, B, C, N, D).
    """
    clip, chunk, _, channels = _place(num_chunks, num_channels, BLOCK)
    is_channel = channels < num_channels
    bits = tl.load(bits_ptr + clip * num_chunks + chunk)
    z_ptr += clip * z_stride_clip + chunk * K * z_stride_token
    grad_ptr += (clip * num_tokens + chunk * K) * num_channels
    for s in tl.static_range(S):
        start = ((s * num_clips + clip) * num_tokens + chunk * K) * num_channels
        place = (s * num_clips + clip) * num_chunks + chunk
        bias = _channel_row(bias_ptr, s, channels, num_channels)
        raw = _rows(delta_ptr + start, num_channels, bits, channels, num_channels, s, K)
        steps = _steps(raw, bias, bits, s, K)
        z = _rows(z_ptr, z_stride_token, bits, channels, num_channels, s, K)
        grad = _rows(grad_ptr, num_channels, bits, channels, num_channels, s, K)
        grad_y = _gated(grad, z, 1.0 / S, K)
        for n in range(num_states):
            rate = _channel_row(rates_ptr, s * num_states + n, channels, num_channels)
            of_state = place * num_states + n
            passed = tl.zeros([BLOCK], tl.float32)
            C = _numbers(C_ptr + of_state * K, s, K)
            for j in tl.static_range(K - 1, -1, -1):
                passed = tl.exp2(steps[j] * rate) * (passed + C[j] * grad_y[j])
            tl.store(grad_states_ptr + of_state * num_channels + channels, passed, mask=is_channel)


@triton.jit
def scan_gradients(
    u_ptr, delta_ptr, bias_ptr, rates_ptr, B_ptr, C_ptr, D_ptr, z_ptr, bits_ptr, starts_ptr, grad_ptr,
    grad_states_ptr, grad_u_ptr, grad_delta_ptr, grad_B_ptr, grad_C_ptr, grad_D_ptr, grad_bias_ptr,
    grad_z_ptr, z_stride_clip, z_stride_token, num_clips, num_tokens, num_channels, num_chunks,
    num_states: tl.constexpr, S: tl.constexpr, K: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """All gradients of one chunk, its states computed again from those it starts from.

    With a = exp(delta A), h[t] = a[t] h[t-1] + delta[t] B[t] u[t] and y[t] = C[t] h[t] + D u[t], the gradient
    of h[t] is

        g[t] = C[t] grad_y[t] + a[t+1] g[t+1]

    and from it, with w[t] = g[t] a[t] h[t-1],

        grad_u = D grad_y + delta sum_n(g B)        grad_B = sum_d(g delta u)    grad_D = sum_t(grad_y u)
        grad_delta = u sum_n(g B) + sum_n(A w)      grad_C = sum_d(grad_y h)     grad_A = sum_t(delta w)

    What sums over tokens or channels is written per chunk or per block: grad_D and grad_bias (S, B, C, D),
    grad_B and grad_C (S, blocks, B, C, N, K). grad_A takes the place that held the gradient of the state
    which the chunk leaves, (S, B, C, N, D).
    """
    clip, chunk, block, channels = _place(num_chunks, num_channels, BLOCK)
    num_blocks = tl.cdiv(num_channels, BLOCK)
    is_channel = channels < num_channels
    bits = tl.load(bits_ptr + clip * num_chunks + chunk)
    z_ptr += clip * z_stride_clip + chunk * K * z_stride_token
    grad_ptr += (clip * num_tokens + chunk * K) * num_channels
    num_left = num_tokens - chunk * K
    y = _zeros(K, BLOCK)
    for s in tl.static_range(S):
        start = ((s * num_clips + clip) * num_tokens + chunk * K) * num_channels
        place = (s * num_clips + clip) * num_chunks + chunk
        bias = _channel_row(bias_ptr, s, channels, num_channels)
        raw = _rows(delta_ptr + start, num_channels, bits, channels, num_channels, s, K)
        steps = _steps(raw, bias, bits, s, K)
        u = _rows(u_ptr + start, num_channels, bits, channels, num_channels, s, K)
        entering = _products(steps, u, K)
        z = _rows(z_ptr, z_stride_token, bits, channels, num_channels, s, K)
        grad = _rows(grad_ptr, num_channels, bits, channels, num_channels, s, K)
        grad_y = _gated(grad, z, 1.0 / S, K)
        skip = _channel_row(D_ptr, s, channels, num_channels)
        grad_skip = tl.zeros([BLOCK], tl.float32)
        grown = ()
        for j in tl.static_range(K):  # y is in the order of direction s from here on
            grown = grown + (y[K - 1 - j if s == 1 else j] + skip * u[j],)
            grad_skip += grad_y[j] * u[j]
        y = grown
        tl.store(grad_D_ptr + place * num_channels + channels, grad_skip, mask=is_channel)
        sum_gB = _zeros(K, BLOCK)
        sum_Aw = _zeros(K, BLOCK)
        partial = ((s * num_blocks + block) * num_clips + clip) * num_chunks + chunk
        for n in range(num_states):
            rate = _channel_row(rates_ptr, s * num_states + n, channels, num_channels)
            of_state = place * num_states + n
            partial_row = (partial * num_states + n) * K
            state = _channel_row(starts_ptr, of_state, channels, num_channels)
            B = _numbers(B_ptr + of_state * K, s, K)
            C = _numbers(C_ptr + of_state * K, s, K)
            decayed = ()
            grown = ()
            grad_C = ()
            for j in tl.static_range(K):
                decayed = decayed + (tl.exp2(steps[j] * rate) * state,)
                state = decayed[j] + entering[j] * B[j]
                grown = grown + (y[j] + C[j] * state,)
                grad_C = grad_C + (tl.sum(grad_y[j] * state),)
            y = grown
            _store_numbers(grad_C_ptr + partial_row, grad_C, s, K)
            g = _channel_row(grad_states_ptr, of_state, channels, num_channels)
            C = _numbers(C_ptr + of_state * K, s, K)  # anew: registers are scarcer than loads from cache
            grad_rate = tl.zeros([BLOCK], tl.float32)
            more_gB = ()
            more_Aw = ()
            grad_B = ()
            for j in tl.static_range(K - 1, -1, -1):
                g += C[j] * grad_y[j]
                grad_B = grad_B + (tl.sum(g * entering[j]),)
                w = g * decayed[j]
                grad_rate += w * steps[j]
                more_gB = more_gB + (sum_gB[j] + g * B[j],)
                more_Aw = more_Aw + (sum_Aw[j] + w * (rate * LN_2),)
                g = tl.exp2(steps[j] * rate) * g
            sum_gB = _reversed(more_gB, K)
            sum_Aw = _reversed(more_Aw, K)
            _store_numbers(grad_B_ptr + partial_row, _reversed(grad_B, K), s, K)
            tl.store(grad_states_ptr + of_state * num_channels + channels, grad_rate, mask=is_channel)
        # Loaded anew, for these rows need not occupy registers all the while.
        raw = _rows(delta_ptr + start, num_channels, bits, channels, num_channels, s, K)
        u = _rows(u_ptr + start, num_channels, bits, channels, num_channels, s, K)
        grad_bias = tl.zeros([BLOCK], tl.float32)
        grad_u = ()
        grad_raw = ()
        for j in tl.static_range(K):
            grad_u = grad_u + (skip * grad_y[j] + steps[j] * sum_gB[j],)
            grad_raw = grad_raw + ((u[j] * sum_gB[j] + sum_Aw[j]) * _sigmoid(raw[j] + bias),)
        grad_raw = _masked(grad_raw, bits, s, K)
        for j in tl.static_range(K):
            grad_bias += grad_raw[j]
        _store_rows(grad_u_ptr + start, grad_u, num_left, channels, num_channels, s, K)
        _store_rows(grad_delta_ptr + start, grad_raw, num_left, channels, num_channels, s, K)
        tl.store(grad_bias_ptr + place * num_channels + channels, grad_bias, mask=is_channel)
    z = _rows(z_ptr, z_stride_token, bits, channels, num_channels, S - 1, K)
    grad = _rows(grad_ptr, num_channels, bits, channels, num_channels, S - 1, K)
    grad_z = ()
    for j in tl.static_range(K):
        grad_z = grad_z + (grad[j] * y[j] * (1.0 / S) * _silu_slope(z[j]),)
    grad_z = _masked(grad_z, bits, S - 1, K)
    grad_z_ptr += (clip * num_tokens + chunk * K) * num_channels
    _store_rows(grad_z_ptr, grad_z, num_left, channels, num_channels, S - 1, K)


@triton.jit
def _shift(tap, s: tl.constexpr, TAPS: tl.constexpr):
    """How far after a token the input lies that direction s weighs with this tap."""
    return TAPS - 1 - tap if s == 1 else tap - (TAPS - 1)


@triton.jit
def _tile(ptr, stride, tokens, channels, num_tokens, num_channels):
    """(rows, BLOCK) of a sequence, zero beyond its ends."""
    is_number = (tokens >= 0) & (tokens < num_tokens) & (channels < num_channels)
    return tl.load(ptr + tokens * stride + channels, mask=is_number, other=0.0).to(tl.float32)


@triton.jit
def _convolved(
    x_ptr, stride, weight_ptr, bias_ptr, tokens, channels, num_tokens, num_channels,
    s: tl.constexpr, TAPS: tl.constexpr,
):  # fmt: skip
    """Direction s's convolution, before its SiLU."""
    total = _channel_row(bias_ptr, s, channels, num_channels)
    for tap in tl.static_range(TAPS):
        weight = _channel_row(weight_ptr, s * TAPS + tap, channels, num_channels)
        x = _tile(x_ptr, stride, tokens + _shift(tap, s, TAPS), channels, num_tokens, num_channels)
        total = total + weight * x
    return total


@triton.jit
def conv_output(
    x_ptr, weight_ptr, bias_ptr, u_ptr,
    x_stride_clip, x_stride_token, num_clips, num_tokens, num_channels, num_tiles,
    S: tl.constexpr, TAPS: tl.constexpr, ROWS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """u (S, B, L, D); weights are laid out (S, T, D)."""
    clip, tile, _, channels = _place(num_tiles, num_channels, BLOCK)
    tokens = (tile.to(tl.int64) * ROWS + tl.arange(0, ROWS))[:, None]
    channels = channels[None, :]
    x_ptr += clip * x_stride_clip
    is_number = (tokens < num_tokens) & (channels < num_channels)
    for s in tl.static_range(S):
        total = _convolved(
            x_ptr, x_stride_token, weight_ptr, bias_ptr, tokens, channels, num_tokens, num_channels, s, TAPS
        )
        rows = (s * num_clips + clip) * num_tokens + tokens
        tl.store(u_ptr + rows * num_channels + channels, total * _sigmoid(total), mask=is_number)


@triton.jit
def conv_grad_sums(
    x_ptr, weight_ptr, bias_ptr, grad_u_ptr, grad_sum_ptr, grad_weight_ptr, grad_bias_ptr,
    x_stride_clip, x_stride_token, num_clips, num_tokens, num_channels, num_tiles,
    S: tl.constexpr, TAPS: tl.constexpr, ROWS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """The gradient of what goes into the SiLU, (S, B, L, D), and what each tile adds to those of the weights,
    (B, tiles, S, T, D), and of the bias, (B, tiles, S, D).
    """
    clip, tile, _, channels = _place(num_tiles, num_channels, BLOCK)
    is_channel = channels < num_channels
    tokens = (tile.to(tl.int64) * ROWS + tl.arange(0, ROWS))[:, None]
    columns = channels[None, :]
    x_ptr += clip * x_stride_clip
    place = clip * num_tiles + tile
    for s in tl.static_range(S):
        total = _convolved(
            x_ptr, x_stride_token, weight_ptr, bias_ptr, tokens, columns, num_tokens, num_channels, s, TAPS
        )
        start = (s * num_clips + clip) * num_tokens * num_channels
        grad = _tile(grad_u_ptr + start, num_channels, tokens, columns, num_tokens, num_channels)
        grad = grad * _silu_slope(total)
        is_number = (tokens < num_tokens) & (columns < num_channels)
        tl.store(grad_sum_ptr + start + tokens * num_channels + columns, grad, mask=is_number)
        row = (place * S + s) * num_channels + channels
        tl.store(grad_bias_ptr + row, tl.sum(grad, axis=0), mask=is_channel)
        for tap in tl.static_range(TAPS):
            met = tokens + _shift(tap, s, TAPS)
            x = _tile(x_ptr, x_stride_token, met, columns, num_tokens, num_channels)
            row = ((place * S + s) * TAPS + tap) * num_channels + channels
            tl.store(grad_weight_ptr + row, tl.sum(grad * x, axis=0), mask=is_channel)


@triton.jit
def conv_grad_input(
    weight_ptr, grad_sum_ptr, grad_x_ptr, num_clips, num_tokens, num_channels, num_tiles,
    S: tl.constexpr, TAPS: tl.constexpr, ROWS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """The gradient of x, (B, L, D), through every tap of every direction."""
    clip, tile, _, channels = _place(num_tiles, num_channels, BLOCK)
    tokens = (tile.to(tl.int64) * ROWS + tl.arange(0, ROWS))[:, None]
    channels = channels[None, :]
    total = tl.zeros([ROWS, BLOCK], tl.float32)
    for s in tl.static_range(S):
        start = (s * num_clips + clip) * num_tokens * num_channels
        for tap in tl.static_range(TAPS):
            weight = _channel_row(weight_ptr, s * TAPS + tap, channels, num_channels)
            met = tokens - _shift(tap, s, TAPS)
            grad = _tile(grad_sum_ptr + start, num_channels, met, channels, num_tokens, num_channels)
            total += weight * grad
    is_number = (tokens < num_tokens) & (channels < num_channels)
    rows = clip * num_tokens + tokens
    tl.store(grad_x_ptr + rows * num_channels + channels, total, mask=is_number)
