"""The selective scan in plain torch: any device, any floating type, bounded memory.

Chunks of tokens are streamed through; each keeps only the state it starts from, and is computed again in the
backward pass. The recurrence itself is stepped: the cumulative-sum and log-space rewritings lose all
precision at large delta.

Shapes: S directions, B batch, L tokens, K tokens of a chunk, D inner channels, N state.
"""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from fakesound.models.scan.conv import causal_conv_silu
from fakesound.models.scan.types import ScanInputs, flip_second, mean_gated

__all__ = ["causal_conv_silu", "selective_scan"]

CHUNK_TOKENS = 16


def selective_scan(inputs: ScanInputs, z_BLD: Tensor, mask_BL: Tensor) -> Tensor:
    """y (B, L, D), zero at masked tokens; see `ScanInputs`. Half precision is scanned in single."""
    if z_BLD.dtype != torch.float64:
        inputs = inputs.float()
    inputs = inputs.zeroed(mask_BL)
    # delta = 0 leaves the state as it is: decay exp(0) = 1 and nothing enters.
    delta_SBLD = inputs.step_sizes() * mask_BL[..., None]
    sequences = (delta_SBLD, inputs.u_SBLD, inputs.B_SBLN, inputs.C_SBLN)
    flipped = [flip_second(sequence) for sequence in sequences]
    y_SBLD: Tensor = _StreamedScan.apply(inputs.A_SDN, *flipped)  # pyright: ignore
    y_SBLD = flip_second(y_SBLD) + inputs.D_SD[:, None, None] * inputs.u_SBLD
    return mean_gated(y_SBLD, z_BLD, mask_BL)


class _StreamedScan(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, *inputs: Tensor) -> Tensor:
        A_SDN, *sequences = inputs
        delta_SBLD = sequences[0]
        S, B, L, _ = delta_SBLD.shape
        h_SBDN = delta_SBLD.new_zeros(S, B, *A_SDN.shape[1:])
        y_SBLD = torch.empty_like(delta_SBLD)
        starts = []
        for chunk in _chunks(L):
            starts.append(h_SBDN)
            pieces = (sequence[:, :, chunk] for sequence in sequences)
            y_SBLD[:, :, chunk], h_SBDN = _scan_chunk(h_SBDN, A_SDN, *pieces)
        ctx.save_for_backward(*inputs, *starts)
        return y_SBLD

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor, ...]:  # pyright: ignore
        (A_SDN, *sequences), starts = ctx.saved_tensors[:5], ctx.saved_tensors[5:]
        grad_A_SDN = torch.zeros_like(A_SDN)
        grads = [torch.empty_like(sequence) for sequence in sequences]
        grad_h_SBDN = torch.zeros_like(starts[0])
        for h_SBDN, chunk in reversed(list(zip(starts, _chunks(sequences[0].shape[2]), strict=True))):
            pieces = [h_SBDN, A_SDN, *(sequence[:, :, chunk] for sequence in sequences)]
            with torch.enable_grad():
                leaves = [piece.detach().requires_grad_() for piece in pieces]
                replayed = _scan_chunk(*leaves)
                grad_h_SBDN, grad_A, *grads_of_chunk = torch.autograd.grad(
                    replayed, leaves, (grad_outputs[0][:, :, chunk], grad_h_SBDN)
                )
            grad_A_SDN += grad_A
            for whole, part in zip(grads, grads_of_chunk, strict=True):
                whole[:, :, chunk] = part
        return grad_A_SDN, *grads


def _chunks(num_tokens: int) -> list[slice]:
    return [slice(start, start + CHUNK_TOKENS) for start in range(0, num_tokens, CHUNK_TOKENS)]


def _scan_chunk(  # noqa: PLR0917 - unpacked from lists by position
    h_SBDN: Tensor, A_SDN: Tensor, delta_SBKD: Tensor, u_SBKD: Tensor, B_SBKN: Tensor, C_SBKN: Tensor
) -> tuple[Tensor, Tensor]:
    """y of the chunk, and the state after it."""
    decay_SBKDN = torch.exp(delta_SBKD[..., None] * A_SDN[:, None, None])
    entered_SBKDN = (delta_SBKD * u_SBKD)[..., None] * B_SBKN[:, :, :, None]
    states = []
    for decay_SBDN, entered_SBDN in zip(decay_SBKDN.unbind(2), entered_SBKDN.unbind(2), strict=True):
        h_SBDN = torch.addcmul(entered_SBDN, decay_SBDN, h_SBDN)
        states.append(h_SBDN)
    y_SBKD = (torch.stack(states, dim=2) @ C_SBKN[..., None]).squeeze(-1)
    return y_SBKD, h_SBDN
