"""The selective scan by mamba-ssm's CUDA kernels, which load only where CUDA is.

Keyword arguments alone are used, which survive every change of signature between the packages' versions.

Shapes: S directions, B batch, L tokens, D inner channels, N state.
"""

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
    from mamba_ssm.ops.selective_scan_interface import selective_scan_fn  # pyright: ignore

    inputs = inputs.zeroed(mask_BL)
    delta_SBLD = inputs.delta_SBLD.masked_fill(~mask_BL[..., None], STEP_OF_MASKED)
    sequences = (inputs.u_SBLD, delta_SBLD, inputs.B_SBLN, inputs.C_SBLN)
    directions = zip(*(_channels_first(flip_second(sequence)) for sequence in sequences), strict=True)
    y_SBDL = torch.stack(
        [
            selective_scan_fn(
                u=u_BDL,
                delta=delta_BDL,
                A=inputs.A_SDN[s].float(),
                B=B_BNL,
                C=C_BNL,
                D=inputs.D_SD[s].float(),
                z=None,
                delta_bias=inputs.delta_bias_SD[s].float(),
                delta_softplus=True,
            )
            for s, (u_BDL, delta_BDL, B_BNL, C_BNL) in enumerate(directions)
        ]
    )
    return mean_gated(flip_second(y_SBDL.transpose(2, 3)), z_BLD, mask_BL)


def causal_conv_silu(x_BLD: Tensor, weight_SDK: Tensor, bias_SD: Tensor) -> Tensor:
    """u (S, B, L, D); `scan/conv.py` has the formula, and computes it where the package does not, which takes
    2 to 4 taps.
    """
    if not 2 <= weight_SDK.shape[2] <= 4:
        return conv.causal_conv_silu(x_BLD, weight_SDK, bias_SD)
    from causal_conv1d import causal_conv1d_fn  # pyright: ignore[reportMissingImports]

    x_SBDL = _channels_first(flip_second(x_BLD.expand(len(weight_SDK), *x_BLD.shape)))
    u_SBDL = torch.stack(
        [
            causal_conv1d_fn(x=x_BDL, weight=weight_DK, bias=bias_D, activation="silu")
            for x_BDL, weight_DK, bias_D in zip(x_SBDL, weight_SDK, bias_SD, strict=True)
        ]
    )
    return flip_second(u_SBDL.transpose(2, 3))


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
