"""The selective scan as its formula reads, one token at a time, in any floating type: the yardstick.

Shapes: S directions, B batch, L tokens, D inner channels, N state.
"""

import torch
from torch import Tensor

from fakesound.models.scan.conv import causal_conv_silu
from fakesound.models.scan.types import ScanInputs, flip_second, mean_gated

__all__ = ["causal_conv_silu", "selective_scan"]


def selective_scan(inputs: ScanInputs, z_BLD: Tensor, mask_BL: Tensor) -> Tensor:
    """y (B, L, D), zero at masked tokens; see `ScanInputs`. Half precision is scanned in single."""
    if z_BLD.dtype != torch.float64:
        inputs = inputs.float()
    inputs = inputs.zeroed(mask_BL)
    mask_SBL1 = mask_BL.expand(len(inputs.u_SBLD), *mask_BL.shape)[..., None]
    # Unbound once: indexing inside the loop would give each step a gradient as large as the whole sequence.
    sequences = (inputs.step_sizes(), inputs.u_SBLD, inputs.B_SBLN, inputs.C_SBLN)
    steps = zip(*(flip_second(sequence).unbind(2) for sequence in (*sequences, mask_SBL1)), strict=True)
    A_S1DN = inputs.A_SDN[:, None]
    h_SBDN = torch.zeros_like(inputs.u_SBLD[:, :, 0, :, None] * A_S1DN)
    ys: list[Tensor] = []
    for delta_SBD, u_SBD, B_SBN, C_SBN, mask_SB1 in steps:
        decay_SBDN = torch.exp(delta_SBD[..., None] * A_S1DN)
        entered_SBDN = (delta_SBD * u_SBD)[..., None] * B_SBN[:, :, None]
        h_SBDN = torch.where(mask_SB1[..., None], decay_SBDN * h_SBDN + entered_SBDN, h_SBDN)
        ys.append((h_SBDN * C_SBN[:, :, None]).sum(-1))
    y_SBLD = flip_second(torch.stack(ys, dim=2)) + inputs.D_SD[:, None, None] * inputs.u_SBLD
    return mean_gated(y_SBLD, z_BLD, mask_BL)
