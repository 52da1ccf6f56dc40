"""The selective scan by mamba-ssm's CUDA kernels, which load only where CUDA is.

Keyword arguments alone are used, which survive every change of signature between the packages' versions.

Shapes: B batch, L tokens, D inner channels, N state.
"""

import torch
from torch import Tensor

from fakesound.models.scan.types import Direction

STEP_OF_MASKED = (
    -1e4
)  # softplus of it is exactly zero in single precision, so that the state passes unchanged


def selective_scan(direction: Direction, mask_BL: Tensor, *, reverse: bool) -> Tensor:
    """y (B, L, D), zero at masked tokens; `reverse` travels from the last token to the first.

    The kernel has no direction and no mask: sequences are flipped whole, and masked tokens take steps of
    zero, so that the padding that then comes first leaves the state at zero.
    """
    from mamba_ssm.ops.selective_scan_interface import selective_scan_fn  # pyright: ignore

    direction = direction.zeroed(mask_BL)
    delta_BLD = direction.delta_BLD.masked_fill(~mask_BL[..., None], STEP_OF_MASKED)
    u, delta, B, C = (
        _channels_first(sequence, reverse=reverse)
        for sequence in (direction.u_BLD, delta_BLD, direction.B_BLN, direction.C_BLN)
    )
    y_BDL = selective_scan_fn(
        u=u,
        delta=delta,
        A=direction.A_DN.float(),
        B=B,
        C=C,
        D=direction.D_D.float(),
        z=None,
        delta_bias=direction.delta_bias_D.float(),
        delta_softplus=True,
    )
    y_BLD = y_BDL.transpose(1, 2)
    return y_BLD.flip(1) if reverse else y_BLD


def causal_conv_silu(x_BLD: Tensor, weight_DK: Tensor, bias_D: Tensor, *, reverse: bool) -> Tensor:
    """silu(depthwise causal convolution), (B, L, D); see `fakesound.models.scan.conv`."""
    from causal_conv1d import causal_conv1d_fn  # pyright: ignore[reportMissingImports]

    y_BDL = causal_conv1d_fn(
        x=_channels_first(x_BLD, reverse=reverse), weight=weight_DK, bias=bias_D, activation="silu"
    )
    y_BLD = y_BDL.transpose(1, 2)
    return y_BLD.flip(1) if reverse else y_BLD


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


def _channels_first(sequence_BLX: Tensor, *, reverse: bool) -> Tensor:
    return (sequence_BLX.flip(1) if reverse else sequence_BLX).transpose(1, 2).contiguous()
