"""Depthwise causal convolution over tokens followed by SiLU, as K shifted multiply-adds.

torch's conv1d spends, on a CPU, eighty times its forward in its depthwise backward; this has its own.

Shapes: S directions, B batch, L tokens, D channels, K taps.
"""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional


def causal_conv_silu(x_BLD: Tensor, weight_SDK: Tensor, bias_SD: Tensor) -> Tensor:
    """u (S, B, L, D): silu(bias + sum over k of weight[k] x[t - (K-1) + k]) is the first direction; the
    second mirrors time, x[t + (K-1) - k].

    What lies beyond the ends counts as zero. Padding must be zero in `x_BLD`: then it leaks nowhere.
    """
    directions = zip((False, True), weight_SDK, bias_SD)  # noqa: B905 - S may be 1
    views = [_CausalConvSilu.apply(x_BLD, weight, bias, reverse) for reverse, weight, bias in directions]
    return torch.stack(views).to(x_BLD.dtype)  # pyright: ignore[reportArgumentType]


def _shifted(x_BLD: Tensor, num_taps: int, *, reverse: bool) -> list[Tensor]:
    """For each tap k, the x that it meets at every token."""
    num_tokens = x_BLD.shape[1]
    reach = num_taps - 1
    padded = functional.pad(x_BLD, (0, 0, 0, reach) if reverse else (0, 0, reach, 0))
    starts = [reach - k if reverse else k for k in range(num_taps)]
    return [padded[:, start : start + num_tokens] for start in starts]


def _convolve(x_BLD: Tensor, weight_DK: Tensor, *, reverse: bool) -> Tensor:
    taps = _shifted(x_BLD, weight_DK.shape[1], reverse=reverse)
    total_BLD = taps[0] * weight_DK[:, 0]
    for k in range(1, len(taps)):
        total_BLD.addcmul_(taps[k], weight_DK[:, k])
    return total_BLD


class _CausalConvSilu(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x_BLD: Tensor, weight_DK: Tensor, bias_D: Tensor, reverse: bool) -> Tensor:
        summed_BLD = _convolve(x_BLD, weight_DK, reverse=reverse).add_(bias_D)
        ctx.save_for_backward(x_BLD, weight_DK, summed_BLD)
        ctx.reverse = reverse
        return functional.silu(summed_BLD)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_BLD: Tensor) -> tuple[Tensor, Tensor, Tensor, None]:  # pyright: ignore
        x_BLD, weight_DK, summed_BLD = ctx.saved_tensors
        grad_BLD = torch.ops.aten.silu_backward(grad_BLD, summed_BLD)
        grad_x_BLD = _convolve(grad_BLD, weight_DK, reverse=not ctx.reverse)
        taps = _shifted(x_BLD, weight_DK.shape[1], reverse=ctx.reverse)
        grad_weight_DK = torch.stack([(grad_BLD * tap).sum((0, 1)) for tap in taps], dim=1)
        return grad_x_BLD, grad_weight_DK, grad_BLD.sum((0, 1)), None
