"""The selective scan in plain torch: any device, any floating type, bounded memory.

Chunks of tokens are streamed through; each keeps only the state it starts from, and is computed again in the
backward pass. The recurrence itself is stepped: the cumulative-sum and log-space rewritings lose all
precision at large delta.

Shapes: B batch, L tokens, K tokens of a chunk, D inner channels, N state.
"""

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from fakesound.models.scan.types import Direction

CHUNK_TOKENS = 16


def selective_scan(direction: Direction, mask_BL: Tensor, *, reverse: bool) -> Tensor:
    """y (B, L, D), zero at masked tokens; `reverse` travels from the last token to the first."""
    direction = direction.zeroed(mask_BL)
    # delta = 0 leaves the state as it is: decay exp(0) = 1 and nothing enters.
    delta_BLD = direction.step_sizes() * mask_BL[..., None]
    sequences = [delta_BLD, direction.u_BLD, direction.B_BLN, direction.C_BLN]
    if reverse:
        sequences = [sequence.flip(1) for sequence in sequences]
    h_BDN = torch.zeros_like(delta_BLD[:, 0, :, None] * direction.A_DN)
    y = []
    for chunk in zip(*(sequence.split(CHUNK_TOKENS, dim=1) for sequence in sequences), strict=True):
        y_BKD, h_BDN = checkpoint(  # pyright: ignore[reportGeneralTypeIssues]
            _scan_chunk, h_BDN, direction.A_DN, *chunk, use_reentrant=False, preserve_rng_state=False
        )
        y.append(y_BKD)
    y_BLD = torch.cat(y, dim=1)
    return (y_BLD.flip(1) if reverse else y_BLD) + direction.D_D * direction.u_BLD


def _scan_chunk(  # noqa: PLR0917 - `checkpoint` passes them by position
    h_BDN: Tensor, A_DN: Tensor, delta_BKD: Tensor, u_BKD: Tensor, B_BKN: Tensor, C_BKN: Tensor
) -> tuple[Tensor, Tensor]:
    decay_BKDN = torch.exp(delta_BKD[..., None] * A_DN)
    entered_BKDN = (delta_BKD * u_BKD)[..., None] * B_BKN[:, :, None, :]
    states = []
    for decay_BDN, entered_BDN in zip(decay_BKDN.unbind(1), entered_BKDN.unbind(1), strict=True):
        h_BDN = torch.addcmul(entered_BDN, decay_BDN, h_BDN)
        states.append(h_BDN)
    y_BKD = (torch.stack(states, dim=1) @ C_BKN[..., None]).squeeze(-1)
    return y_BKD, h_BDN
