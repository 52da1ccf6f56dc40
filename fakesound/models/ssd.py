"""State-space duality (Mamba-2, arXiv 2405.21060): a scan whose decay is one number a head is also a masked
matrix product, and so runs as a few large products a chunk of tokens.

Within a chunk, token t reads token s <= t with weight (C[t] . B[s]) exp(the sum of delta A over s+1 ... t);
between chunks a state is carried. Each of those sums is taken over its own segment: the difference of two
running sums would lose its digits where delta is large.

Shapes: S directions, B batch, L tokens, H heads, P channels of a head, N state, J chunks, K tokens of a
chunk, Y columns of all heads (H * P).
"""

import torch
from torch import Tensor
from torch.nn import functional

from fakesound.models.scan.types import flip_second

CHUNK_TOKENS = 64


def state_space_duality(
    *, x_SBLHP: Tensor, delta_SBLH: Tensor, A_SH: Tensor, B_SBLN: Tensor, C_SBLN: Tensor, D_SH: Tensor
) -> Tensor:
    """Scan in one direction (S = 1: from the first token to the last) or two (S = 2: the second one travels
    from the last token to the first), all in the order of the tokens.

    A direction computes, for every head, with a state h of N x P,

        h[t] = exp(delta[t] A) h[t-1] + delta[t] B[t] x[t]
        y[t] = C[t] h[t] + D x[t]

    where t-1 is the token before t in the direction of travel. A token whose delta is zero is passed over:
    the state is the same after it as before.

    Args:
        x_SBLHP: what enters; finite, as all else, at tokens to pass over too.
        delta_SBLH: step sizes, not negative.
        A_SH: negative.
        B_SBLN: how a token enters the states of all heads.
        C_SBLN: how it reads them.
        D_SH: what passes by the states.

    Returns:
        y (S, B, L, H, P), in single precision (double where x is double).
    """
    inputs = (x_SBLHP, delta_SBLH, A_SH, B_SBLN, C_SBLN, D_SH)
    if x_SBLHP.dtype != torch.float64:
        inputs = tuple(tensor.float() for tensor in inputs)
    x_SBLHP, delta_SBLH, A_SH, B_SBLN, C_SBLN, D_SH = inputs
    with torch.autocast(x_SBLHP.device.type, enabled=False):
        entering_SBLHP = x_SBLHP * delta_SBLH[..., None]
        log_decay_SBLH = delta_SBLH * A_SH[:, None, None]
        sequences = (entering_SBLHP, log_decay_SBLH, B_SBLN, C_SBLN)
        y_SBJKHP = _scan_chunks(*(_chunked(flip_second(sequence)) for sequence in sequences))
        y_SBLHP = flip_second(y_SBJKHP.flatten(2, 3)[:, :, : x_SBLHP.shape[2]])
        return y_SBLHP + D_SH[:, None, None, :, None] * x_SBLHP


def _chunked(sequence_SBLX: Tensor) -> Tensor:
    """(S, B, J, K, ...), tokens to pass over appended to the last chunk."""
    behind = (0, 0) * (sequence_SBLX.ndim - 3)
    padded = functional.pad(sequence_SBLX, (*behind, 0, -sequence_SBLX.shape[2] % CHUNK_TOKENS))
    return padded.unflatten(2, (-1, CHUNK_TOKENS))


def _scan_chunks(
    entering_SBJKHP: Tensor, log_decay_SBJKH: Tensor, B_SBJKN: Tensor, C_SBJKN: Tensor
) -> Tensor:
    """C h of every token, the state h travelling from the first to the last."""
    log_decay_SBJHK = log_decay_SBJKH.transpose(3, 4)
    decay_SBJHKK = segment_sums(log_decay_SBJHK).exp()
    scores_SBJKK = B_SBJKN @ C_SBJKN.transpose(-1, -2)
    weights_SBJHKK = scores_SBJKK[:, :, :, None] * decay_SBJHKK
    within_SBJHKP = weights_SBJHKK.transpose(-1, -2) @ entering_SBJKHP.transpose(3, 4)

    # The heads share B and C: here they stand side by side as columns of one product.
    to_end_SBJKH = decay_SBJHKK[..., -1].transpose(3, 4)
    left_SBJNY = B_SBJKN.transpose(-1, -2) @ (to_end_SBJKH[..., None] * entering_SBJKHP).flatten(4)
    since_start_SBJKH = log_decay_SBJKH.cumsum(3).exp()
    states_SBJNHP = _carry(
        left_SBJNY.unflatten(4, entering_SBJKHP.shape[4:]), decay_SBJH=since_start_SBJKH[:, :, :, -1]
    )
    before_SBJKHP = (C_SBJKN @ states_SBJNHP.flatten(4)).unflatten(4, entering_SBJKHP.shape[4:])
    return within_SBJHKP.transpose(3, 4) + since_start_SBJKH[..., None] * before_SBJKHP


def segment_sums(values_XK: Tensor) -> Tensor:
    """(..., K, K): at row s and column t the sum of the values s+1 ... t, minus infinity where t < s: its
    exponential is what token t keeps of token s, in the gradient too.
    """
    num_tokens = values_XK.shape[-1]
    rows_XKK = values_XK[..., None, :].expand(*values_XK.shape, num_tokens)
    is_before_KK = torch.ones(num_tokens, num_tokens, dtype=torch.bool, device=values_XK.device).tril(-1)
    return rows_XKK.triu(1).cumsum(-1).masked_fill(is_before_KK, -torch.inf)


def _carry(left_SBJNHP: Tensor, decay_SBJH: Tensor) -> Tensor:
    """The state before each chunk, from what each leaves behind and how it decays what came before."""
    state_SBNHP = torch.zeros_like(left_SBJNHP[:, :, 0])
    states = []
    # Unbound once: indexing inside the loop would give each step a gradient as large as the whole sequence.
    for left_SBNHP, decay_SBH in zip(left_SBJNHP.unbind(2), decay_SBJH.unbind(2), strict=True):
        states.append(state_SBNHP)
        state_SBNHP = torch.addcmul(left_SBNHP, decay_SBH[:, :, None, :, None], state_SBNHP)
    return torch.stack(states, dim=2)
