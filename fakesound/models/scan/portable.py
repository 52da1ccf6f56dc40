"""The selective scan in plain torch: any device, any floating type, bounded memory.

Chunks of tokens are streamed through; each keeps only the state it starts from, and is computed again in the
backward pass. The recurrence itself is stepped: the cumulative-sum and log-space rewritings lose all
precision at large delta.

Shapes: B batch, L tokens, K tokens of a chunk, D inner channels, N state.
"""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

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
    y_BLD: Tensor = _StreamedScan.apply(direction.A_DN, *sequences)  # pyright: ignore
    return (y_BLD.flip(1) if reverse else y_BLD) + direction.D_D * direction.u_BLD


class _StreamedScan(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, *inputs: Tensor) -> Tensor:
        A_DN, *sequences = inputs
        delta_BLD = sequences[0]
        h_BDN = delta_BLD.new_zeros(len(delta_BLD), *A_DN.shape)
        y_BLD = torch.empty_like(delta_BLD)
        starts = []
        for chunk in _chunks(delta_BLD.shape[1]):
            starts.append(h_BDN)
            y_BLD[:, chunk], h_BDN = _scan_chunk(h_BDN, A_DN, *(sequence[:, chunk] for sequence in sequences))
        ctx.save_for_backward(*inputs, *starts)
        return y_BLD

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor, ...]:  # pyright: ignore
        (A_DN, *sequences), starts = ctx.saved_tensors[:5], ctx.saved_tensors[5:]
        grad_A_DN = torch.zeros_like(A_DN)
        grads = [torch.empty_like(sequence) for sequence in sequences]
        grad_h_BDN = torch.zeros_like(starts[0])
        for h_BDN, chunk in reversed(list(zip(starts, _chunks(sequences[0].shape[1]), strict=True))):
            pieces = [h_BDN, A_DN, *(sequence[:, chunk] for sequence in sequences)]
            with torch.enable_grad():
                leaves = [piece.detach().requires_grad_() for piece in pieces]
                replayed = _scan_chunk(*leaves)
                grad_h_BDN, grad_A, *grads_of_chunk = torch.autograd.grad(
                    replayed, leaves, (grad_outputs[0][:, chunk], grad_h_BDN)
                )
            grad_A_DN += grad_A
            for whole, part in zip(grads, grads_of_chunk, strict=True):
                whole[:, chunk] = part
        return grad_A_DN, *grads


def _chunks(num_tokens: int) -> list[slice]:
    return [slice(start, start + CHUNK_TOKENS) for start in range(0, num_tokens, CHUNK_TOKENS)]


def _scan_chunk(  # noqa: PLR0917 - unpacked from lists by position
    h_BDN: Tensor, A_DN: Tensor, delta_BKD: Tensor, u_BKD: Tensor, B_BKN: Tensor, C_BKN: Tensor
) -> tuple[Tensor, Tensor]:
    """y of the chunk, and the state after it."""
    decay_BKDN = torch.exp(delta_BKD[..., None] * A_DN)
    entered_BKDN = (delta_BKD * u_BKD)[..., None] * B_BKN[:, :, None, :]
    states = []
    for decay_BDN, entered_BDN in zip(decay_BKDN.unbind(1), entered_BKDN.unbind(1), strict=True):
        h_BDN = torch.addcmul(entered_BDN, decay_BDN, h_BDN)
        states.append(h_BDN)
    y_BKD = (torch.stack(states, dim=1) @ C_BKN[..., None]).squeeze(-1)
    return y_BKD, h_BDN
