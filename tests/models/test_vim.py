"""ViM's block: against two explicit passes, and as it is initialised."""

import torch

from fakesound.models.config import VisionMambaConfig
from fakesound.models.scan import ScanInputs, causal_conv_silu, selective_scan
from fakesound.models.vim import BidirectionalMixer


def test_mixer_equals_two_explicit_passes_with_flips():
    """ViM's v2 forward, written out: the backward branch runs on the flipped sequence, gate flipped too."""
    torch.manual_seed(0)
    mixer = BidirectionalMixer(VisionMambaConfig(embed_dim=16, depth=2, d_state=4))
    hidden = torch.randn(2, 11, 16)

    def branch(s, x, z):
        u = causal_conv_silu(x, mixer.conv_weight_SDK[s : s + 1], mixer.conv_bias_SD[s : s + 1])
        step, B, C = (u @ mixer.x_proj_SXD[s].T).split(mixer.split_sizes, dim=-1)
        delta = step @ mixer.step_proj_SDR[s].T
        own = [parameter[s : s + 1] for parameter in (mixer.D_SD, mixer.step_bias_SD)]
        inputs = ScanInputs(u, delta, -mixer.A_log_SDN[s : s + 1].exp(), B, C, *own)
        return selective_scan(inputs, z, torch.ones(2, x.shape[1], dtype=torch.bool), backend="reference")

    x, z = mixer.in_proj(hidden).chunk(2, dim=-1)
    forward = branch(0, x, z)
    backward = branch(1, x.flip(1), z.flip(1)).flip(1)
    want = mixer.out_proj((forward + backward) / 2)
    torch.testing.assert_close(mixer(hidden, torch.ones(2, 11, dtype=torch.bool)), want, atol=1e-5, rtol=1e-4)


def test_initial_values_are_those_of_mamba():
    torch.manual_seed(0)
    mixer = BidirectionalMixer(VisionMambaConfig(embed_dim=64, depth=16))
    torch.testing.assert_close(mixer.A_log_SDN.exp(), torch.arange(1.0, 17.0).expand(2, 128, 16))
    assert torch.equal(mixer.D_SD, torch.ones(2, 128))
    steps = torch.nn.functional.softplus(mixer.step_bias_SD)
    assert steps.min() > 0.99e-3
    assert steps.max() < 0.101
    bound = 128**-0.5 / 16**0.5
    assert 0.9 * bound < mixer.out_proj.weight.abs().max() <= bound
