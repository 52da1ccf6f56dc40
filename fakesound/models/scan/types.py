"""What one direction of a selective scan takes.

Shapes: B batch, L tokens, D inner channels, N state.
"""

from typing import NamedTuple

from torch import Tensor
from torch.nn import functional


class Direction(NamedTuple):
    """Inputs of the scan of one direction, in the order of the tokens (never flipped by the caller).

    With delta = softplus(delta_BLD + delta_bias_D) (Mamba, arXiv 2312.00752, with the Euler step for B):

        h[t] = exp(delta[t] A) h[t-1] + delta[t] B[t] u[t]
        y[t] = C[t] h[t] + D u[t]

    where t-1 is the valid token before t in the direction of travel, and h is zero before the first.
    """

    u_BLD: Tensor
    delta_BLD: Tensor
    A_DN: Tensor
    B_BLN: Tensor
    C_BLN: Tensor
    D_D: Tensor
    delta_bias_D: Tensor

    def step_sizes(self) -> Tensor:
        """delta, positive, (B, L, D)."""
        return functional.softplus(self.delta_BLD + self.delta_bias_D)

    def float(self) -> "Direction":
        """All in single precision."""
        return Direction(*(tensor.float() for tensor in self))

    def zeroed(self, mask_BL: Tensor) -> "Direction":
        """With zeros for u, B and C at masked tokens, so that nothing there (NaN, say) is read."""
        hidden_BL1 = ~mask_BL[..., None]
        return self._replace(
            u_BLD=self.u_BLD.masked_fill(hidden_BL1, 0),
            delta_BLD=self.delta_BLD.masked_fill(hidden_BL1, 0),
            B_BLN=self.B_BLN.masked_fill(hidden_BL1, 0),
            C_BLN=self.C_BLN.masked_fill(hidden_BL1, 0),
        )
