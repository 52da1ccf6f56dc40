"""The selective scan and its convolution by Triton kernels of our own, which come with torch.

Tokens are cut into short chunks: one launch computes what each chunk would do to the state it finds, a light
one carries states from chunk to chunk, and a third computes every chunk's outputs from the state it starts
from, each for both directions. All but the light one thus run over clips, chunks and blocks of channels in
parallel, where a loop over all tokens would leave most of a GPU idle at the batch sizes of training; a
program is one warp that holds its chunk in registers, a channel or two a lane. The backward pass goes the
same way against the direction of travel. No figure stands here: nobody has timed it on a GPU.

Between the passes live the inputs and the states at the starts of chunks, in single precision. Nothing is
summed by atomics, so results repeat bit for bit. To torch.compile and torch.export both operations are opaque
operators with known shapes and derivatives.

Shapes: S directions, B batch, L tokens, D inner channels, N state, C chunks of K tokens, T taps.
"""

import math
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from fakesound.models.scan import triton_kernels as kernels
from fakesound.models.scan.types import ScanInputs

# As large as ptxas takes them without spilling registers: a test watches over it. There are as many partial
# sums of the gradients of B and C as blocks of BACKWARD_BLOCK channels.
CHUNK_TOKENS = 8
FORWARD_BLOCK, BACKWARD_BLOCK = 64, 32
CARRY_BLOCK = 128
CONV_ROWS, CONV_BLOCK = 8, 128
READ_AS_THEY_COME = (torch.float32, torch.bfloat16, torch.float16)


def selective_scan(inputs: ScanInputs, z_BLD: Tensor, mask_BL: Tensor) -> Tensor:
    """y (B, L, D), zero at masked tokens; see `ScanInputs`. All is computed in single precision."""
    u, delta, A, B, C, D, bias = inputs
    u, delta, B, C, z = (_readable(sequence) for sequence in (u, delta, B, C, z_BLD))
    y_BLD, *_ = _scan(u, delta, A.float(), B, C, D.float(), bias.float(), z, mask_BL)
    return y_BLD.to(z_BLD.dtype)


def causal_conv_silu(x_BLD: Tensor, weight_SDK: Tensor, bias_SD: Tensor) -> Tensor:
    """u (S, B, L, D); `scan/conv.py` has the formula."""
    return _conv(_readable(x_BLD), weight_SDK.float(), bias_SD.float()).to(x_BLD.dtype)


def _readable(sequence: Tensor) -> Tensor:
    return sequence if sequence.dtype in READ_AS_THEY_COME else sequence.float()


def _num_chunks(num_tokens: Any) -> Any:
    return -(-num_tokens // CHUNK_TOKENS)


def _launch(kernel: Any, num_programs: int, *arguments: Any, **constants: Any) -> None:
    if num_programs:  # there is no such thing as an empty grid
        with torch.cuda.device_of(arguments[0]):
            kernel[(num_programs,)](*arguments, num_warps=1, **constants)


def _with_adjacent_channels(sequence_BLD: Tensor) -> Tensor:
    """Itself, if its rows can be read as they lie: half of a wider projection need not be copied."""
    return sequence_BLD if sequence_BLD.stride(-1) == 1 else sequence_BLD.contiguous()


def _rates(A_SDN: Tensor) -> Tensor:
    """(S, N, D), such that exp(delta A) is 2 to the power of delta times them."""
    return (A_SDN * math.log2(math.e)).transpose(1, 2).contiguous()


def _padding(num_tokens: int) -> int:
    return _num_chunks(num_tokens) * CHUNK_TOKENS - num_tokens


def _mask_bits(mask_BL: Tensor) -> Tensor:
    """(B, C): bit k says that the k-th token of the chunk is valid."""
    padded = functional.pad(mask_BL, (0, _padding(mask_BL.shape[1])))
    weights = 2 ** torch.arange(CHUNK_TOKENS, device=mask_BL.device)
    return (padded.unflatten(1, (-1, CHUNK_TOKENS)) * weights).sum(-1).int()


def _by_chunk(sequence_SBLN: Tensor, mask_BL: Tensor) -> Tensor:
    """(S, B, C, N, K): the numbers that a program reads lie side by side; zero where masked."""
    masked = sequence_SBLN.masked_fill(~mask_BL[..., None], 0)
    padded = functional.pad(masked, (0, 0, 0, _padding(mask_BL.shape[1])))
    return padded.unflatten(2, (-1, CHUNK_TOKENS)).transpose(3, 4).contiguous()


def _by_token(chunks_SBCNK: Tensor, num_tokens: int) -> Tensor:
    """(S, B, L, N), the inverse of `_by_chunk`."""
    return chunks_SBCNK.transpose(3, 4).flatten(2, 3)[:, :, :num_tokens]


@torch.library.custom_op("fakesound::triton_scan", mutates_args=())
def _scan(  # noqa: PLR0917 - torch's operators take tensors by position
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor,
    bias: Tensor,
    z: Tensor,
    mask: Tensor,
) -> tuple[Tensor, Tensor, Tensor]:
    """y (B, L, D), and for the backward pass: the states at the starts of chunks (S, B, C, N, D), and the
    sums of their steps (S, B, C, D).
    """
    y, starts, totals = _fake_scan(u, delta, A, B, C, D, bias, z, mask)
    sizes = _sizes(starts, mask)
    u, delta, bias, z = u.contiguous(), delta.contiguous(), bias.contiguous(), _with_adjacent_channels(z)
    rates, bits, B_by_chunk = _rates(A), _mask_bits(mask), _by_chunk(B, mask)
    constants = _constants(starts, FORWARD_BLOCK)
    programs = _num_programs(starts, FORWARD_BLOCK)
    inputs = (u, delta, bias, rates, B_by_chunk)
    _launch(kernels.scan_summaries, programs, *inputs, bits, starts, totals, *sizes, **constants)
    _carry(starts, totals, rates, against_travel=False)
    inputs = (*inputs, _by_chunk(C, mask), D.contiguous(), z, bits, starts)
    _launch(kernels.scan_output, programs, *inputs, y, *z.stride()[:2], *sizes, **constants)
    return y, starts, totals


@_scan.register_fake
def _fake_scan(  # noqa: PLR0917 - torch's operators take tensors by position
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor,
    bias: Tensor,
    z: Tensor,
    mask: Tensor,
) -> tuple[Tensor, Tensor, Tensor]:
    directions, clips, tokens, channels = u.shape
    chunks = directions, clips, _num_chunks(tokens)
    starts = A.new_empty(*chunks, A.shape[2], channels)
    return z.new_empty(z.shape), starts, A.new_empty(*chunks, channels)


@torch.library.custom_op("fakesound::triton_scan_backward", mutates_args=())
def _scan_backward(  # noqa: PLR0917 - torch's operators take tensors by position
    grad_y: Tensor,
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor,
    bias: Tensor,
    z: Tensor,
    mask: Tensor,
    starts: Tensor,
    totals: Tensor,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """The gradients of all but the mask, in their order."""
    sizes = _sizes(starts, mask)
    u, delta, bias, z = u.contiguous(), delta.contiguous(), bias.contiguous(), _with_adjacent_channels(z)
    rates, bits, C_by_chunk = _rates(A), _mask_bits(mask), _by_chunk(C, mask)
    grad_y = grad_y.contiguous()
    constants = _constants(starts, BACKWARD_BLOCK)
    programs = _num_programs(starts, BACKWARD_BLOCK)
    strides = z.stride()[:2]
    grad_states = torch.empty_like(starts)
    inputs = (delta, bias, rates, C_by_chunk, z, bits, grad_y, grad_states)
    _launch(kernels.scan_grad_summaries, programs, *inputs, *strides, *sizes, **constants)
    _carry(grad_states, totals, rates, against_travel=True)
    grad_u, grad_delta, grad_z = u.new_empty(u.shape), delta.new_empty(delta.shape), z.new_empty(z.shape)
    grad_B = A.new_empty(len(u), -(-u.shape[3] // BACKWARD_BLOCK), *C_by_chunk.shape[1:])
    grad_C, grad_D, grad_bias = torch.empty_like(grad_B), torch.empty_like(totals), torch.empty_like(totals)
    inputs = (u, delta, bias, rates, _by_chunk(B, mask), C_by_chunk, D.contiguous(), z, bits, starts, grad_y)
    outputs = (grad_states, grad_u, grad_delta, grad_B, grad_C, grad_D, grad_bias, grad_z)
    _launch(kernels.scan_gradients, programs, *inputs, *outputs, *strides, *sizes, **constants)
    return (
        grad_u,
        grad_delta,
        grad_states.sum((1, 2)).transpose(1, 2).contiguous(),
        _by_token(grad_B.sum(1), mask.shape[1]).to(B.dtype, memory_format=torch.contiguous_format),
        _by_token(grad_C.sum(1), mask.shape[1]).to(C.dtype, memory_format=torch.contiguous_format),
        grad_D.sum((1, 2)),
        grad_bias.sum((1, 2)),
        grad_z,
    )


@_scan_backward.register_fake
def _fake_scan_backward(grad_y: Tensor, *inputs: Tensor) -> tuple[Tensor, ...]:
    return tuple(tensor.new_empty(tensor.shape) for tensor in inputs[:8])


def _keep_for_scan_backward(ctx: Any, inputs: tuple[Tensor, ...], output: tuple[Tensor, ...]) -> None:
    _, starts, totals = output
    ctx.mark_non_differentiable(starts, totals)
    ctx.save_for_backward(*inputs, starts, totals)


def _differentiate_scan(ctx: Any, grad_y: Tensor, *_: Tensor) -> tuple[Tensor | None, ...]:
    return *_scan_backward(grad_y, *ctx.saved_tensors), None


_scan.register_autograd(_differentiate_scan, setup_context=_keep_for_scan_backward)


def _sizes(states_SBCND: Tensor, mask_BL: Tensor) -> tuple[int, int, int, int]:
    """B, L, D and C, as kernels take them."""
    _, clips, chunks, _, channels = states_SBCND.shape
    return clips, mask_BL.shape[1], channels, chunks


def _constants(states_SBCND: Tensor, block: int) -> dict[str, int]:
    """What kernels are compiled for."""
    directions, _, _, num_states, _ = states_SBCND.shape
    return {"num_states": num_states, "S": directions, "K": CHUNK_TOKENS, "BLOCK": block}


def _num_programs(states_SBCND: Tensor, block: int) -> int:
    _, clips, chunks, _, channels = states_SBCND.shape
    return clips * chunks * -(-channels // block)


def _carry(states_SBCND: Tensor, totals: Tensor, rates: Tensor, *, against_travel: bool) -> None:
    """Replace what chunks do by what reaches them, in place."""
    directions, clips, chunks, num_states, channels = states_SBCND.shape
    programs = directions * clips * -(-num_states * channels // CARRY_BLOCK)
    sizes = (clips, channels, num_states, chunks)
    constants = {"AGAINST_TRAVEL": against_travel, "BLOCK": CARRY_BLOCK}
    _launch(kernels.scan_carry, programs, states_SBCND, totals, rates, *sizes, **constants)


@torch.library.custom_op("fakesound::triton_conv_silu", mutates_args=())
def _conv(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    u = _fake_conv(x, weight, bias)
    x = _with_adjacent_channels(x)
    inputs = (x, weight.transpose(1, 2).contiguous(), bias.contiguous(), u)
    _launch_conv(kernels.conv_output, x, weight, *inputs, *x.stride()[:2])
    return u


@_conv.register_fake
def _fake_conv(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    return x.new_empty(len(weight), *x.shape)


@torch.library.custom_op("fakesound::triton_conv_silu_backward", mutates_args=())
def _conv_backward(grad_u: Tensor, x: Tensor, weight: Tensor, bias: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The gradients of x, weight and bias."""
    x, grad_u = _with_adjacent_channels(x), grad_u.contiguous()
    by_tap = weight.transpose(1, 2).contiguous()
    tiles = x.shape[0], -(-x.shape[1] // CONV_ROWS)
    grad_sum = weight.new_empty(grad_u.shape)
    grad_by_tap, grad_bias = weight.new_empty(*tiles, *by_tap.shape), weight.new_empty(*tiles, *bias.shape)
    tensors = (x, by_tap, bias.contiguous(), grad_u, grad_sum, grad_by_tap, grad_bias)
    _launch_conv(kernels.conv_grad_sums, x, weight, *tensors, *x.stride()[:2])
    grad_x = x.new_empty(x.shape)
    _launch_conv(kernels.conv_grad_input, x, weight, by_tap, grad_sum, grad_x)
    return grad_x, grad_by_tap.sum((0, 1)).transpose(1, 2).contiguous(), grad_bias.sum((0, 1))


@_conv_backward.register_fake
def _fake_conv_backward(grad_u: Tensor, *inputs: Tensor) -> tuple[Tensor, ...]:
    return tuple(tensor.new_empty(tensor.shape) for tensor in inputs)


def _keep_for_conv_backward(ctx: Any, inputs: tuple[Tensor, ...], output: Tensor) -> None:
    ctx.save_for_backward(*inputs)


def _differentiate_conv(ctx: Any, grad_u: Tensor) -> tuple[Tensor, ...]:
    return _conv_backward(grad_u, *ctx.saved_tensors)


_conv.register_autograd(_differentiate_conv, setup_context=_keep_for_conv_backward)


def _launch_conv(kernel: Any, x: Tensor, weight: Tensor, *arguments: Any) -> None:
    """One program a tile of tokens and channels; sizes and constants follow what is the kernel's own."""
    clips, tokens, channels = x.shape
    tiles = -(-tokens // CONV_ROWS)
    programs = clips * tiles * -(-channels // CONV_BLOCK)
    constants = {"S": len(weight), "TAPS": weight.shape[2], "ROWS": CONV_ROWS, "BLOCK": CONV_BLOCK}
    sizes = (clips, tokens, channels, tiles)
    _launch(kernel, programs, *arguments, *sizes, **constants)
