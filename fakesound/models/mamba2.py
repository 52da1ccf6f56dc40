"""Mamba-2 (arXiv 2405.21060) over patches, in both directions: the rival whose scan is matrix products.

What ViM's v2 block shares between its directions is shared here too: in_proj, gate and out_proj. As in
Mamba-2, in_proj makes x, B, C and the step sizes at once, x, B and C all pass the convolution, and the gated
norm stands before out_proj. Each direction has its own convolution, step sizes, A and D.

Shapes: S directions (forward, backward), B batch, L tokens, E width of the model, D inner channels
(expand * E), H heads, P channels of a head (D / H), N state, X channels of the convolution (D + 2 N), K taps.
"""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

from fakesound.models.config import Mamba2Config
from fakesound.models.scan import causal_conv_silu
from fakesound.models.ssd import state_space_duality
from fakesound.models.token_network import NORM_EPSILON, ResidualBlock, TokenNetwork
from fakesound.models.vim import DIRECTIONS, initial_step_bias, uniform_parameter

DECAY_RATE_RANGE = (1.0, 16.0)


class BidirectionalSSDMixer(nn.Module):
    """out_proj of the gated, normalised mean of a forward and a backward scan with one decay a head."""

    UNDECAYED = ("conv_bias_SX", "step_bias_SH", "A_log_SH", "D_SH")

    def __init__(self, config: Mamba2Config) -> None:
        super().__init__()
        inner, self.num_heads = config.expand * config.embed_dim, config.num_heads
        self.scan_sizes = [inner, config.d_state, config.d_state]
        conv_channels = sum(self.scan_sizes)
        self.in_sizes = [inner, conv_channels, DIRECTIONS * config.num_heads]
        self.in_proj = nn.Linear(config.embed_dim, sum(self.in_sizes), bias=False)
        bound = config.d_conv**-0.5
        self.conv_weight_SXK = uniform_parameter(DIRECTIONS, conv_channels, config.d_conv, bound=bound)
        self.conv_bias_SX = uniform_parameter(DIRECTIONS, conv_channels, bound=bound)
        self.step_bias_SH = nn.Parameter(initial_step_bias(DIRECTIONS, config.num_heads))
        rates_SH = torch.empty(DIRECTIONS, config.num_heads).uniform_(*DECAY_RATE_RANGE)
        self.A_log_SH = nn.Parameter(rates_SH.log())
        self.D_SH = nn.Parameter(torch.ones(DIRECTIONS, config.num_heads))
        self.norm = nn.RMSNorm(inner, eps=NORM_EPSILON)
        self.out_proj = nn.Linear(inner, config.embed_dim, bias=False)
        with torch.no_grad():  # keeps the variance of the sum over layers from growing
            self.out_proj.weight.div_(math.sqrt(config.depth))

    def forward(self, hidden_BLE: Tensor, mask_BL: Tensor) -> Tensor:
        """(B, L, E), zero at masked tokens and blind to what is there; the mask is a run from the start."""
        # in_proj has no bias, so what enters as zero leaves as zero: the convolutions meet zeros at padding,
        # and the gate closes there.
        hidden_BLE = hidden_BLE.masked_fill(~mask_BL[..., None], 0)
        z_BLD, scanned_BLX, step_BLY = self.in_proj(hidden_BLE).split(self.in_sizes, dim=-1)
        convolved_SBLX = causal_conv_silu(scanned_BLX, self.conv_weight_SXK, self.conv_bias_SX)
        x_SBLD, B_SBLN, C_SBLN = convolved_SBLX.split(self.scan_sizes, dim=-1)
        y_SBLHP = state_space_duality(
            x_SBLHP=x_SBLD.unflatten(3, (self.num_heads, -1)),
            delta_SBLH=self._step_sizes(step_BLY, mask_BL),
            A_SH=-torch.exp(self.A_log_SH.float()),
            B_SBLN=B_SBLN,
            C_SBLN=C_SBLN,
            D_SH=self.D_SH,
        )
        gated_BLD = y_SBLHP.mean(0).flatten(2) * functional.silu(z_BLD.float())
        return self.out_proj(self.norm(gated_BLD))

    def _step_sizes(self, step_BLY: Tensor, mask_BL: Tensor) -> Tensor:
        """delta (S, B, L, H) in single precision, zero at masked tokens: the scan passes them over."""
        step_SBLH = step_BLY.unflatten(2, (DIRECTIONS, -1)).permute(2, 0, 1, 3)
        delta_SBLH = functional.softplus(step_SBLH.float() + self.step_bias_SH[:, None, None])
        return delta_SBLH * mask_BL[..., None]


class Mamba2(TokenNetwork):
    """Patch tokens through blocks of one bidirectional mixer each, without MLPs."""

    def __init__(self, config: Mamba2Config, num_mels: int) -> None:
        def block(drop_path: float) -> ResidualBlock:
            mixer = BidirectionalSSDMixer(config)
            return ResidualBlock(mixer, embed_dim=config.embed_dim, drop_path=drop_path)

        super().__init__(config, num_mels, block)
