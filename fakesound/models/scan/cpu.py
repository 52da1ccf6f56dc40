"""The selective scan and its convolution on the CPU, in single precision, each with its own backward pass.

Shapes: B batch, L tokens, D inner channels, N state, K taps.
"""

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.autograd.function import once_differentiable

from fakesound.models.scan import cpu_kernels
from fakesound.models.scan.types import ScanInputs, mean_gated

TASKS_WANTED = 16  # the backward pass splits channels into groups until it has so many tasks


def selective_scan(inputs: ScanInputs, z_BLD: Tensor, mask_BL: Tensor) -> Tensor:
    """y (B, L, D), zero at masked tokens; see `ScanInputs`."""
    inputs = inputs.float()
    if not mask_BL.all():
        inputs = inputs.zeroed(mask_BL)
    u, _, A, B, C, D, _ = inputs
    delta = inputs.step_sizes()
    keep_starts = torch.is_grad_enabled()
    directions = [
        _SelectiveScan.apply(u[s], delta[s], A[s], B[s], C[s], D[s], mask_BL, s == 1, keep_starts)  # pyright: ignore
        for s in range(len(u))
    ]
    return mean_gated(torch.stack(directions), z_BLD, mask_BL)  # pyright: ignore


def causal_conv_silu(x_BLD: Tensor, weight_SDK: Tensor, bias_SD: Tensor) -> Tensor:
    """u (S, B, L, D); `scan/conv.py` has the formula."""
    x = x_BLD.float()
    views = [
        _CausalConvSilu.apply(x, weight_SDK[s], bias_SD[s], s == 1)  # pyright: ignore
        for s in range(len(weight_SDK))
    ]
    return torch.stack(views).to(x_BLD.dtype)  # pyright: ignore


def _array(tensor: Tensor) -> NDArray[Any]:
    return tensor.detach().contiguous().numpy()


class _SelectiveScan(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, *inputs: Any) -> Tensor:
        *tensors, reverse, keep_starts = inputs
        arrays = [_array(tensor) for tensor in tensors]
        u_BLD, _, A_DN = arrays[:3]
        num_clips, num_tokens, num_channels = u_BLD.shape
        blocks = -(-num_channels // cpu_kernels.LANES)
        chunks = -(-num_tokens // cpu_kernels.CHUNK) if keep_starts else 0
        starts = np.empty(
            (num_clips if keep_starts else 0, blocks, chunks, A_DN.shape[1], cpu_kernels.LANES), np.float32
        )
        y_BLD = np.empty_like(u_BLD)
        _run(cpu_kernels.scan_forward, num_clips * blocks, y_BLD, starts, *arrays, reverse)
        ctx.save_for_backward(*tensors, torch.from_numpy(starts))
        ctx.reverse = reverse
        return torch.from_numpy(y_BLD)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor | None, ...]:  # pyright: ignore
        *tensors, starts = ctx.saved_tensors
        arrays = [_array(tensor) for tensor in tensors]
        u_BLD, _, A_DN, B_BLN = arrays[:4]
        num_clips, _, num_channels = u_BLD.shape
        blocks = -(-num_channels // cpu_kernels.LANES)
        groups = min(blocks, -(-TASKS_WANTED // num_clips))
        grad_u_BLD, grad_delta_BLD = np.empty_like(u_BLD), np.empty_like(u_BLD)
        grad_A_BDN = np.empty((num_clips, *A_DN.shape), np.float32)
        grad_B_GBLN = np.zeros((groups, *B_BLN.shape), np.float32)
        grad_C_GBLN = np.zeros_like(grad_B_GBLN)
        grad_D_BD = np.empty((num_clips, num_channels), np.float32)
        gradients = (grad_u_BLD, grad_delta_BLD, grad_A_BDN, grad_B_GBLN, grad_C_GBLN, grad_D_BD)
        grad_y_BLD = _array(grad_outputs[0])
        _run(
            cpu_kernels.scan_backward,
            num_clips * groups,
            *gradients,
            grad_y_BLD,
            _array(starts),
            *arrays,
            ctx.reverse,
        )
        per_token = [torch.from_numpy(array) for array in gradients[:2]]
        summed = [torch.from_numpy(array).sum(0) for array in gradients[2:]]
        return *per_token, *summed, None, None, None


class _CausalConvSilu(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, *inputs: Any) -> Tensor:
        x_BLD, weight_DK, bias_D, reverse = inputs
        arrays = [_array(tensor) for tensor in (x_BLD, weight_DK.T, bias_D)]
        y_BLD = np.empty_like(arrays[0])
        _run(cpu_kernels.conv_forward, _num_tasks(y_BLD), y_BLD, *arrays, reverse)
        ctx.save_for_backward(x_BLD, weight_DK, bias_D)
        ctx.reverse = reverse
        return torch.from_numpy(y_BLD)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor | None, ...]:  # pyright: ignore
        x_BLD, weight_DK, bias_D = ctx.saved_tensors
        arrays = [_array(tensor) for tensor in (x_BLD, weight_DK.T, bias_D)]
        num_clips = len(x_BLD)
        grad_x_BLD = np.zeros_like(arrays[0])
        grad_weight_BKD = np.zeros((num_clips, *arrays[1].shape), np.float32)
        grad_bias_BD = np.zeros((num_clips, *arrays[2].shape), np.float32)
        gradients = (grad_x_BLD, grad_weight_BKD, grad_bias_BD)
        grad_y_BLD = _array(grad_outputs[0])
        _run(cpu_kernels.conv_backward, _num_tasks(grad_x_BLD), *gradients, grad_y_BLD, *arrays, ctx.reverse)
        grad_weight_DK = torch.from_numpy(grad_weight_BKD).sum(0).T
        return torch.from_numpy(grad_x_BLD), grad_weight_DK, torch.from_numpy(grad_bias_BD).sum(0), None


def _num_tasks(sequence_BLD: NDArray[Any]) -> int:
    """Clips times blocks of channels."""
    return sequence_BLD.shape[0] * -(-sequence_BLD.shape[2] // cpu_kernels.LANES)


def _run(kernel: Callable[..., None], num_tasks: int, *arguments: Any) -> None:
    """Run all tasks of `kernel` on as many threads as torch uses, the calling one among them.

    Threads of our own, and not numba's: its OpenMP pool would spin against torch's, and breaks when forked.
    Interleaved tasks keep them evenly busy when clips differ in length.
    """
    threads = max(1, min(torch.get_num_threads(), num_tasks))
    others = [
        _pool(os.getpid(), threads).submit(kernel, *arguments, first, threads) for first in range(1, threads)
    ]
    kernel(*arguments, 0, threads)
    for other in others:
        other.result()


@lru_cache(maxsize=1)
def _pool(process_id: int, threads: int) -> ThreadPoolExecutor:
    """One pool a process: threads do not survive a fork."""
    return ThreadPoolExecutor(max_workers=threads, thread_name_prefix=f"scan-{process_id}")
