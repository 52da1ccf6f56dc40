# ruff: noqa: PLR0917 - operators of torch.library take their tensors one by one
"""The selective scan and its convolution on the CPU, in single precision, each with its own backward pass.

Both are operators of torch (torch.library): torch.compile, torch.export and autocast see them whole.

Shapes: S directions, B batch, L tokens, D inner channels, N state, K taps.
"""

import math
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fakesound.models.scan import cpu_kernels
from fakesound.models.scan.cpu_threads import run_on_threads
from fakesound.models.scan.types import ScanInputs

HUGE_RESULT = 2**20  # numbers; as many as numpy asks for huge pages from
CACHE_LINE = 16  # numbers
TASKS_WANTED = 16  # the backward pass splits channels into groups until it has so many tasks


def selective_scan(inputs: ScanInputs, z_BLD: Tensor, mask_BL: Tensor) -> Tensor:
    """y (B, L, D) in z's type, zero at masked tokens; see `ScanInputs`."""
    inputs = inputs.float()
    gate_BLD = z_BLD.float()
    keep = torch.is_grad_enabled() and any(tensor.requires_grad for tensor in (*inputs, gate_BLD))
    gated_BLD, _ = _scan(*inputs, gate_BLD, mask_BL, keep)
    return gated_BLD.to(z_BLD.dtype)


def causal_conv_silu(x_BLD: Tensor, weight_SDK: Tensor, bias_SD: Tensor) -> Tensor:
    """u (S, B, L, D) in the type of x; `scan/conv.py` has the formula."""
    return _conv(x_BLD.float(), weight_SDK.float(), bias_SD.float()).to(x_BLD.dtype)


@torch.library.custom_op("fakesound::selective_scan_cpu", mutates_args=(), device_types="cpu")
def _scan(
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor,
    delta_bias: Tensor,
    z: Tensor,
    mask: Tensor,
    keep: bool,
) -> tuple[Tensor, Tensor]:
    """The gated scan; and, to `keep` for the backward pass, the states that chunks start from (S, B, blocks,
    chunks, N, lanes).
    """
    gated, starts = (_empty(*shape) for shape in _scan_shapes(u, A, keep))
    arrays = [_array(tensor) for tensor in (gated, starts, u, delta, A, B, C, D, delta_bias, z, mask)]
    run_on_threads(cpu_kernels.scan_forward, len(z) * starts.shape[2], *arrays)
    return gated, starts


def _scan_shapes(u: Tensor, A: Tensor, keep: bool) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Of the gated scan and of the states."""
    num_directions, num_clips, num_tokens, num_channels = u.shape
    chunks = -(-num_tokens // cpu_kernels.CHUNK) if keep else 0
    states = (num_directions, num_clips, _blocks(num_channels), chunks, A.shape[2], cpu_kernels.LANES)
    return (num_clips, num_tokens, num_channels), states


@_scan.register_fake
def _scan_fake(*inputs: Any) -> tuple[Tensor, Tensor]:
    u, _, A, *_, keep = inputs
    gated, states = _scan_shapes(u, A, keep)
    return u.new_empty(gated), u.new_empty(states)


@torch.library.custom_op("fakesound::selective_scan_cpu_backward", mutates_args=(), device_types="cpu")
def _scan_backward(
    grad_gated: Tensor,
    starts: Tensor,
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor,
    delta_bias: Tensor,
    z: Tensor,
    mask: Tensor,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Gradients of u, delta, A, B, C, D, delta_bias and z."""
    groups = min(starts.shape[2], -(-TASKS_WANTED // max(1, len(z))))
    grad_u, grad_delta, grad_z = (_empty(*tensor.shape) for tensor in (u, delta, z))
    # Apart by clip, or by group of channels, and added up below: no two threads write to one place.
    by_clip = [torch.empty(len(z), *tensor.shape) for tensor in (A, D, delta_bias)]
    by_group = [torch.zeros(groups, *tensor.shape) for tensor in (B, C)]
    gradients = (grad_u, grad_delta, by_clip[0], *by_group, *by_clip[1:], grad_z)
    known = (grad_gated, starts, u, delta, A, B, C, D, delta_bias, z, mask)
    arrays = [_array(tensor) for tensor in (*gradients, *known)]
    run_on_threads(cpu_kernels.scan_backward, len(z) * groups, *arrays)
    grad_A, grad_D, grad_bias = (tensor.sum(0) for tensor in by_clip)
    grad_B, grad_C = (tensor.sum(0) for tensor in by_group)
    return grad_u, grad_delta, grad_A, grad_B, grad_C, grad_D, grad_bias, grad_z


@_scan_backward.register_fake
def _scan_backward_fake(grad_gated: Tensor, starts: Tensor, *inputs: Tensor) -> tuple[Tensor, ...]:
    return tuple(torch.empty(tensor.shape, device=tensor.device) for tensor in inputs[:-1])


def _save_scan(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    *tensors, keep = inputs
    if keep:
        ctx.save_for_backward(output[1], *tensors)


def _retrace_scan(ctx: Any, grad_gated: Tensor, *_: Tensor) -> tuple[Tensor | None, ...]:
    return *_scan_backward(grad_gated, *ctx.saved_tensors), None, None


_scan.register_autograd(_retrace_scan, setup_context=_save_scan)


@torch.library.custom_op("fakesound::causal_conv_silu_cpu", mutates_args=(), device_types="cpu")
def _conv(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    u = _empty(len(weight), *x.shape)
    arrays = [_array(tensor) for tensor in (u, x, weight.transpose(1, 2), bias)]
    run_on_threads(cpu_kernels.conv_forward, len(x) * _blocks(x.shape[2]), *arrays)
    return u


@_conv.register_fake
def _conv_fake(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    return torch.empty(len(weight), *x.shape, dtype=x.dtype, device=x.device)


@torch.library.custom_op("fakesound::causal_conv_silu_cpu_backward", mutates_args=(), device_types="cpu")
def _conv_backward(grad_u: Tensor, x: Tensor, weight: Tensor, bias: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of x, weight and bias."""
    weight_SKD = weight.transpose(1, 2)
    grad_x = _empty(*x.shape).zero_()
    by_clip = [torch.zeros(len(x), *tensor.shape) for tensor in (weight_SKD, bias)]
    arrays = [_array(tensor) for tensor in (grad_x, *by_clip, grad_u, x, weight_SKD, bias)]
    run_on_threads(cpu_kernels.conv_backward, len(x) * _blocks(x.shape[2]), *arrays)
    grad_weight_SKD, grad_bias = (tensor.sum(0) for tensor in by_clip)
    return grad_x, grad_weight_SKD.transpose(1, 2).contiguous(), grad_bias


@_conv_backward.register_fake
def _conv_backward_fake(grad_u: Tensor, *inputs: Tensor) -> tuple[Tensor, ...]:
    return tuple(torch.empty(tensor.shape, device=tensor.device) for tensor in inputs)


def _save_conv(ctx: Any, inputs: tuple[Tensor, ...], output: Tensor) -> None:
    ctx.save_for_backward(*inputs)


def _retrace_conv(ctx: Any, grad_u: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    return _conv_backward(grad_u, *ctx.saved_tensors)


_conv.register_autograd(_retrace_conv, setup_context=_save_conv)


def _empty(*shape: int) -> Tensor:
    """As torch's, but large ones from numpy, which asks Linux for huge pages: the first touch of many small
    pages can take as long as the computation.
    """
    size = math.prod(shape)
    if size < HUGE_RESULT:
        return torch.empty(shape)
    raw = np.empty(size + CACHE_LINE, np.float32)
    start = -raw.ctypes.data // raw.itemsize % CACHE_LINE  # vectors that cross cache lines are slow
    return torch.from_numpy(raw[start : start + size].reshape(shape))


def _array(tensor: Tensor) -> NDArray[Any]:
    return tensor.detach().contiguous().numpy()


def _blocks(num_channels: int) -> int:
    return -(-num_channels // cpu_kernels.LANES)
