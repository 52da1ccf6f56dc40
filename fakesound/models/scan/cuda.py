# ruff: noqa: PLR0917 - operators of torch.library take their tensors one by one
"""The selective scan by mamba-ssm's CUDA kernels, which load only where CUDA is.

Keyword arguments alone are used, which survive every change of signature between the packages' versions.

torch.compile cannot look into the packages' functions. While it traces, operators stand for them, which it
takes whole; their backward pass runs the function again, since what that keeps for its own is out of reach.

Shapes: S directions, B batch, L tokens, D inner channels, N state.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from fakesound.models.scan import conv
from fakesound.models.scan.types import ScanInputs, flip_second, mean_gated

STEP_OF_MASKED = (
    -1e4
)  # softplus of it is exactly zero in single precision, so that the state passes unchanged


def selective_scan(inputs: ScanInputs, z_BLD: Tensor, mask_BL: Tensor) -> Tensor:
    """y (B, L, D), zero at masked tokens; see `ScanInputs`.

    The kernel has no direction and no mask: the second direction is flipped whole, and masked tokens take
    steps of zero, so that the padding that then comes first leaves the state at zero.
    """
    inputs = inputs.zeroed(mask_BL)
    delta_SBLD = inputs.delta_SBLD.masked_fill(~mask_BL[..., None], STEP_OF_MASKED)
    sequences = (inputs.u_SBLD, delta_SBLD, inputs.B_SBLN, inputs.C_SBLN)
    directions = zip(*(_channels_first(flip_second(sequence)) for sequence in sequences), strict=True)
    owned = (inputs.A_SDN.float(), inputs.D_SD.float(), inputs.delta_bias_SD.float())
    scan = _scan_operator if torch.compiler.is_compiling() else _scan
    y_SBDL = torch.stack(
        [
            scan(u_BDL, delta_BDL, A_DN, B_BNL, C_BNL, D_D, bias_D)
            for (u_BDL, delta_BDL, B_BNL, C_BNL), A_DN, D_D, bias_D in zip(directions, *owned, strict=True)
        ]
    )
    return mean_gated(flip_second(y_SBDL.transpose(2, 3)), z_BLD, mask_BL)


def causal_conv_silu(x_BLD: Tensor, weight_SDK: Tensor, bias_SD: Tensor) -> Tensor:
    """u (S, B, L, D); `scan/conv.py` has the formula, and computes it where the package does not, which takes
    2 to 4 taps.
    """
    if not 2 <= weight_SDK.shape[2] <= 4:
        return conv.causal_conv_silu(x_BLD, weight_SDK, bias_SD)
    convolve = _conv_operator if torch.compiler.is_compiling() else _conv
    x_SBDL = _channels_first(flip_second(x_BLD.expand(len(weight_SDK), *x_BLD.shape)))
    u_SBDL = torch.stack(
        [
            convolve(x_BDL, weight_DK, bias_D)
            for x_BDL, weight_DK, bias_D in zip(x_SBDL, weight_SDK, bias_SD, strict=True)
        ]
    )
    return flip_second(u_SBDL.transpose(2, 3))


def _scan(u: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor, delta_bias: Tensor) -> Tensor:
    from mamba_ssm.ops.selective_scan_interface import selective_scan_fn  # pyright: ignore

    return selective_scan_fn(
        u=u, delta=delta, A=A, B=B, C=C, D=D, z=None, delta_bias=delta_bias, delta_softplus=True
    )


def _conv(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    from causal_conv1d import causal_conv1d_fn  # pyright: ignore[reportMissingImports]

    return causal_conv1d_fn(x=x, weight=weight, bias=bias, activation="silu")


@torch.library.custom_op("fakesound::mamba_ssm_scan", mutates_args=())
def _scan_operator(
    u: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor, delta_bias: Tensor
) -> Tensor:
    return _scan(u, delta, A, B, C, D, delta_bias)


@torch.library.custom_op("fakesound::mamba_ssm_scan_backward", mutates_args=())
def _scan_backward_operator(
    grad_y: Tensor, u: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor, delta_bias: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    return _gradients(_scan, grad_y, u, delta, A, B, C, D, delta_bias)


@torch.library.custom_op("fakesound::causal_conv1d", mutates_args=())
def _conv_operator(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    return _conv(x, weight, bias)


@torch.library.custom_op("fakesound::causal_conv1d_backward", mutates_args=())
def _conv_backward_operator(
    grad_y: Tensor, x: Tensor, weight: Tensor, bias: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    return _gradients(_conv, grad_y, x, weight, bias)


def _gradients(function: Callable[..., Tensor], grad_y: Tensor, *inputs: Tensor) -> Any:
    """Of every input. The packages' functions are autograd functions: inside an operator, where torch's own
    operations are not recorded, they still are.
    """
    leaves = [tensor.detach().requires_grad_() for tensor in inputs]
    with torch.enable_grad():
        y = function(*leaves)
    return torch.autograd.grad(y, leaves, grad_y)


def _register(operator: Any, backward: Any) -> None:
    """Results and gradients are shaped as the inputs are, the result as the first of them."""

    def save(ctx: Any, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        ctx.save_for_backward(*inputs)

    def retrace(ctx: Any, grad_y: Tensor) -> Any:
        return backward(grad_y, *ctx.saved_tensors)

    operator.register_fake(lambda first, *_: torch.empty_like(first))
    backward.register_fake(lambda _, *inputs: tuple(torch.empty_like(tensor) for tensor in inputs))
    operator.register_autograd(retrace, setup_context=save)


_register(_scan_operator, _scan_backward_operator)
_register(_conv_operator, _conv_backward_operator)


def why_unavailable() -> str | None:
    """None when both packages work here, else what is missing, in words for the user."""
    if not torch.cuda.is_available():
        return "no CUDA device"
    try:
        import causal_conv1d  # noqa: F401  # pyright: ignore[reportMissingImports]
        from mamba_ssm.ops import selective_scan_interface  # noqa: F401  # pyright: ignore
    except Exception as error:  # a wheel of another torch or CUDA fails in many ways
        return f"mamba-ssm and causal-conv1d do not import ({type(error).__name__}: {error!s:.120})"
    return None


def _channels_first(sequence_SBLX: Tensor) -> Tensor:
    return sequence_SBLX.transpose(2, 3).contiguous()
