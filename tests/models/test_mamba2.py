"""Mamba-2's block: against two explicit passes, what it must not see, and as it is initialised."""

import torch
from torch.nn import functional

from fakesound.models.config import Mamba2Config
from fakesound.models.mamba2 import BidirectionalSSDMixer

CONFIG = Mamba2Config(embed_dim=12, depth=2, num_heads=3, d_state=4)


def explicit(mixer, hidden_LE):
    """Of one clip without padding, token by token; the backward branch runs on the flipped clip."""
    z, scanned, steps = mixer.in_proj(hidden_LE).split(mixer.in_sizes, dim=-1)
    branches = []
    for s in range(2):
        inputs = [one.flip(0) if s == 1 else one for one in (scanned, steps.chunk(2, dim=-1)[s])]
        padded = functional.pad(inputs[0].T, (3, 0))[None]
        weight = mixer.conv_weight_SXK[s][:, None]
        convolved = functional.conv1d(padded, weight, mixer.conv_bias_SX[s], groups=len(weight))[0].T
        x, B, C = functional.silu(convolved).split(mixer.scan_sizes, dim=-1)
        delta = functional.softplus(inputs[1] + mixer.step_bias_SH[s])
        state = torch.zeros(3, 8, 4)
        ys = []
        for t in range(len(x)):
            x_HP = x[t].view(3, 8)
            decay = torch.exp(-delta[t] * mixer.A_log_SH[s].exp())
            state = decay[:, None, None] * state + (delta[t][:, None] * x_HP)[..., None] * B[t]
            ys.append((state @ C[t] + mixer.D_SH[s][:, None] * x_HP).flatten())
        branches.append(torch.stack(ys).flip(0) if s == 1 else torch.stack(ys))
    gated = (branches[0] + branches[1]) / 2 * functional.silu(z)
    return mixer.out_proj(gated / (gated.square().mean(-1, keepdim=True) + 1e-5).sqrt() * mixer.norm.weight)


def drawn():
    torch.manual_seed(0)
    mixer = BidirectionalSSDMixer(CONFIG)
    torch.nn.init.normal_(mixer.norm.weight)
    torch.nn.init.normal_(mixer.D_SH)
    return mixer, torch.randn(2, 70, 12), torch.arange(70) < torch.tensor([[70], [31]])


def test_mixer_equals_two_explicit_passes_with_flips():
    mixer, hidden, mask = drawn()
    have = mixer(hidden, mask)
    for clip, length in enumerate(mask.sum(1)):
        want = explicit(mixer, hidden[clip, :length])
        torch.testing.assert_close(have[clip, :length], want, atol=1e-5, rtol=1e-4)


def test_what_stands_at_masked_tokens_is_not_read_not_even_nan():
    mixer, hidden, mask = drawn()
    have = mixer(hidden.masked_fill(~mask[..., None], float("nan")), mask)
    assert torch.equal(have, mixer(hidden, mask))
    assert not have[~mask].any()


def test_initial_values_are_those_of_mamba2():
    torch.manual_seed(0)
    mixer = BidirectionalSSDMixer(Mamba2Config(embed_dim=256, depth=16, num_heads=128))
    assert mixer.A_log_SH.exp().min() > 0.999
    assert mixer.A_log_SH.exp().max() < 16.001
    assert torch.equal(mixer.D_SH, torch.ones(2, 128))
    steps = functional.softplus(mixer.step_bias_SH)
    assert steps.min() > 0.99e-3
    assert steps.max() < 0.101
    bound = 512**-0.5 / 16**0.5
    assert 0.9 * bound < mixer.out_proj.weight.abs().max() <= bound
