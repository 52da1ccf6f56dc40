"""Vision Mamba (arXiv 2401.09417): blocks of bidirectional selective state spaces over patches.

Built as ViM's v2 block is: one in_proj, gate and out_proj for both directions; own convolution, projections,
A and D for each. What the directions own is held stacked along S, so that both go through every operation in
one call.

Shapes: S directions (forward, backward), B batch, L tokens, E width of the model, D inner channels
(expand * E), N state, R rank of the step size, K taps.
"""

import math

import torch
from torch import Tensor, nn

from fakesound.models.config import VisionMambaConfig
from fakesound.models.scan import ScanInputs, causal_conv_silu, load_backend, selective_scan
from fakesound.models.token_network import ResidualBlock, TokenNetwork

DIRECTIONS = 2
STEP_SIZE_RANGE = (1e-3, 0.1)


class BidirectionalMixer(nn.Module):
    """ViM's v2 mixer: out_proj of the gated mean of a forward and a backward selective scan."""

    UNDECAYED = ("conv_bias_SD", "step_bias_SD", "A_log_SDN", "D_SD")  # decay would pull A's rates to one

    def __init__(self, config: VisionMambaConfig) -> None:
        super().__init__()
        inner, rank = config.expand * config.embed_dim, math.ceil(config.embed_dim / 16)
        self.split_sizes = [rank, config.d_state, config.d_state]
        self.in_proj = nn.Linear(config.embed_dim, 2 * inner, bias=False)
        self.conv_weight_SDK = uniform_parameter(DIRECTIONS, inner, config.d_conv, bound=config.d_conv**-0.5)
        self.conv_bias_SD = uniform_parameter(DIRECTIONS, inner, bound=config.d_conv**-0.5)
        self.x_proj_SXD = uniform_parameter(DIRECTIONS, sum(self.split_sizes), inner, bound=inner**-0.5)
        self.step_proj_SDR = uniform_parameter(DIRECTIONS, inner, rank, bound=rank**-0.5)
        self.step_bias_SD = nn.Parameter(initial_step_bias(DIRECTIONS, inner))
        states_N = torch.arange(1, config.d_state + 1, dtype=torch.float32)
        self.A_log_SDN = nn.Parameter(states_N.log().repeat(DIRECTIONS, inner, 1))
        self.D_SD = nn.Parameter(torch.ones(DIRECTIONS, inner))
        self.out_proj = nn.Linear(inner, config.embed_dim, bias=False)
        with torch.no_grad():  # keeps the variance of the sum over layers from growing
            self.out_proj.weight.div_(math.sqrt(config.depth))

    def forward(self, hidden_BLE: Tensor, mask_BL: Tensor) -> Tensor:
        """(B, L, E), zero at masked tokens and blind to what is there; the mask is a run from the start."""
        # in_proj has no bias, so what enters as zero leaves as zero: the convolutions then meet zeros at
        # padding.
        hidden_BLE = hidden_BLE.masked_fill(~mask_BL[..., None], 0)
        x_BLD, z_BLD = self.in_proj(hidden_BLE).chunk(2, dim=-1)
        u_SBLD = causal_conv_silu(x_BLD, self.conv_weight_SDK, self.conv_bias_SD)
        selected_SBLX = _project(u_SBLD, self.x_proj_SXD)
        step_SBLR, B_SBLN, C_SBLN = selected_SBLX.split(self.split_sizes, dim=-1)
        inputs = ScanInputs(
            u_SBLD=u_SBLD,
            delta_SBLD=_project(step_SBLR, self.step_proj_SDR),
            A_SDN=-torch.exp(self.A_log_SDN.float()),
            B_SBLN=B_SBLN,
            C_SBLN=C_SBLN,
            D_SD=self.D_SD,
            delta_bias_SD=self.step_bias_SD,
        )
        return self.out_proj(selective_scan(inputs, z_BLD, mask_BL))


def uniform_parameter(*shape: int, bound: float) -> nn.Parameter:
    """Drawn as torch draws the weights of a linear layer or a convolution of that many inputs."""
    return nn.Parameter(torch.empty(*shape).uniform_(-bound, bound))


def _project(values_SBLX: Tensor, weight_SYX: Tensor) -> Tensor:
    """(S, B, L, Y): each direction by its own matrix."""
    flat_SJY = torch.bmm(values_SBLX.flatten(1, 2), weight_SYX.transpose(1, 2))
    return flat_SJY.unflatten(1, values_SBLX.shape[1:3])


def initial_step_bias(*shape: int) -> Tensor:
    """softplus^-1 of step sizes drawn log-uniformly from STEP_SIZE_RANGE, so that delta starts there."""
    low, high = (math.log(value) for value in STEP_SIZE_RANGE)
    step = torch.empty(*shape).uniform_(low, high).exp()
    return step + torch.log(-torch.expm1(-step))


class VisionMamba(TokenNetwork):
    """Patch tokens through blocks of one bidirectional mixer each, without MLPs."""

    def __init__(self, config: VisionMambaConfig, num_mels: int) -> None:
        def block(drop_path: float) -> ResidualBlock:
            return ResidualBlock(BidirectionalMixer(config), embed_dim=config.embed_dim, drop_path=drop_path)

        super().__init__(config, num_mels, block)
        if torch.get_default_device().type == "cpu":  # a model that is only counted scans nothing
            load_backend("cpu")
