"""The transformer's attention against torch's own module, and what it must not see."""

import pytest
import torch

from fakesound.models.config import TransformerConfig
from fakesound.models.transformer import Attention, FeedForward, TransformerBlock

CONFIG = TransformerConfig(embed_dim=12, depth=1, num_heads=3)


def drawn():
    torch.manual_seed(0)
    return torch.randn(2, 9, 12), torch.arange(9) < torch.tensor([[9], [5]])


def test_attention_is_torchs():
    hidden, mask = drawn()
    ours, theirs = Attention(CONFIG), torch.nn.MultiheadAttention(12, 3, batch_first=True)
    theirs.load_state_dict(
        {
            "in_proj_weight": ours.in_proj.weight,
            "in_proj_bias": ours.in_proj.bias,
            "out_proj.weight": ours.out_proj.weight,
            "out_proj.bias": ours.out_proj.bias,
        }
    )
    want, _ = theirs(hidden, hidden, hidden, key_padding_mask=~mask)
    have = ours(hidden, mask)
    torch.testing.assert_close(have[mask], want[mask])
    assert not have[~mask].any()


def test_what_stands_at_masked_tokens_is_not_read_not_even_nan():
    hidden, mask = drawn()
    spoilt = hidden.masked_fill(~mask[..., None], float("nan"))
    for layer in (Attention(CONFIG), FeedForward(12)):
        have = layer(spoilt, mask)
        torch.testing.assert_close(have[mask], layer(hidden, mask)[mask])
        assert not have[~mask].any()


def test_a_block_has_the_parameters_of_vit():
    """12 E^2 weights, 9 E biases, and the two norms' 2 E."""
    block = TransformerBlock(CONFIG, drop_path=0.0)
    assert sum(parameter.numel() for parameter in block.parameters()) == 12 * 12**2 + 9 * 12 + 2 * 12


def test_weights_start_as_vits_do():
    block = TransformerBlock(TransformerConfig(embed_dim=96), drop_path=0.0)
    layer = block.feed_forward.layer
    assert layer.up.weight.std().item() == pytest.approx(0.02, rel=0.05)
    assert not layer.up.bias.any()
