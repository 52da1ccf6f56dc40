"""What a selective scan takes, and the parts of its definition that backends in torch share.

Shapes: S directions, B batch, L tokens, D inner channels, N state.
"""

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional


class ScanInputs(NamedTuple):
    """Inputs of one direction (S = 1: from the first token to the last) or two (S = 2: the second one travels
    from the last token to the first), all in the order of the tokens, never flipped by the caller.

    With delta = softplus(delta_SBLD + delta_bias_SD) (Mamba, arXiv 2312.00752, with the Euler step for B), a
    direction computes

        h[t] = exp(delta[t] A) h[t-1] + delta[t] B[t] u[t]
        y[t] = C[t] h[t] + D u[t]

    where t-1 is the valid token before t in the direction of travel, and h is zero before the first. The scan
    is the mean of its directions, times silu(z).
    """

    u_SBLD: Tensor
    delta_SBLD: Tensor
    A_SDN: Tensor
    B_SBLN: Tensor
    C_SBLN: Tensor
    D_SD: Tensor
    delta_bias_SD: Tensor

    def step_sizes(self) -> Tensor:
        """delta, positive, (S, B, L, D)."""
        return functional.softplus(self.delta_SBLD + self.delta_bias_SD[:, None, None])

    def float(self) -> "ScanInputs":
        """All in single precision."""
        return ScanInputs(*(tensor.float() for tensor in self))

    def zeroed(self, mask_BL: Tensor) -> "ScanInputs":
        """With zeros for u, delta, B and C at masked tokens, so that nothing there (NaN, say) is read."""
        hidden_BL1 = ~mask_BL[..., None]
        return self._replace(
            u_SBLD=self.u_SBLD.masked_fill(hidden_BL1, 0),
            delta_SBLD=self.delta_SBLD.masked_fill(hidden_BL1, 0),
            B_SBLN=self.B_SBLN.masked_fill(hidden_BL1, 0),
            C_SBLN=self.C_SBLN.masked_fill(hidden_BL1, 0),
        )


def flip_second(sequence_SBLX: Tensor) -> Tensor:
    """The second direction's tokens in reverse, so that both directions travel from the first to the last.

    It is its own inverse.
    """
    if len(sequence_SBLX) == 1:
        return sequence_SBLX
    return torch.stack([sequence_SBLX[0], sequence_SBLX[1].flip(1)])


def mean_gated(y_SBLD: Tensor, z_BLD: Tensor, mask_BL: Tensor) -> Tensor:
    """The mean of the directions times silu(z), in z's type, zero at masked tokens whatever z is there."""
    gate_BLD = functional.silu(z_BLD.masked_fill(~mask_BL[..., None], 0).to(y_SBLD.dtype))
    return (y_SBLD.mean(0) * gate_BLD).to(z_BLD.dtype)
