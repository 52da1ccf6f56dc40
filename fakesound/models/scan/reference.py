"""The selective scan as its formula reads, one token at a time, in any floating type: the yardstick.

Shapes: B batch, L tokens, D inner channels, N state.
"""

import torch
from torch import Tensor

from fakesound.models.scan.types import Direction


def selective_scan(direction: Direction, mask_BL: Tensor, *, reverse: bool) -> Tensor:
    """y (B, L, D), zero at masked tokens; `reverse` travels from the last token to the first."""
    direction = direction.zeroed(mask_BL)
    delta_BLD = direction.step_sizes()
    num_tokens = delta_BLD.shape[1]
    # Unbound once: indexing inside the loop would give each step a gradient as large as the whole sequence.
    u, delta = direction.u_BLD.unbind(1), delta_BLD.unbind(1)
    B, C, mask = direction.B_BLN.unbind(1), direction.C_BLN.unbind(1), mask_BL.unbind(1)
    h_BDN = torch.zeros_like(delta[0][..., None] * direction.A_DN)
    y: list[Tensor] = [torch.empty(0)] * num_tokens
    for t in reversed(range(num_tokens)) if reverse else range(num_tokens):
        decay_BDN = torch.exp(delta[t][..., None] * direction.A_DN)
        entered_BDN = (delta[t] * u[t])[..., None] * B[t][:, None, :]
        h_BDN = torch.where(mask[t][:, None, None], decay_BDN * h_BDN + entered_BDN, h_BDN)
        y[t] = (h_BDN * C[t][:, None, :]).sum(-1) + direction.D_D * u[t]
    return torch.stack(y, dim=1)
