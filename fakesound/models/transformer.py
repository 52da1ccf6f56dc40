"""A transformer over patches (the audio spectrogram transformer, arXiv 2104.01778): the rival that sees every
token from every other, at a cost quadratic in their number.

Its blocks are the pre-norm ones of ViT (arXiv 2010.11929), with the root-mean-square norm of the other models
here in place of layer norm.

Shapes: B batch, L tokens, E width of the model, H heads, P channels of a head.
"""

from torch import Tensor, nn
from torch.nn import functional

from fakesound.models.config import TransformerConfig
from fakesound.models.token_network import ResidualBlock, TokenNetwork

MLP_RATIO = 4
WEIGHT_STD = 0.02


class Attention(nn.Module):
    """Softmax attention of each token to the valid ones (arXiv 1706.03762)."""

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.num_heads = config.num_heads
        self.in_proj = nn.Linear(config.embed_dim, 3 * config.embed_dim)
        self.out_proj = nn.Linear(config.embed_dim, config.embed_dim)

    def forward(self, hidden_BLE: Tensor, mask_BL: Tensor) -> Tensor:
        """(B, L, E), zero at masked tokens and blind to what is there."""
        hidden_BL1 = ~mask_BL[..., None]
        # A masked value has weight zero, but zero times NaN is NaN.
        packed = self.in_proj(hidden_BLE.masked_fill(hidden_BL1, 0)).unflatten(2, (3, self.num_heads, -1))
        query_BHLP, key_BHLP, value_BHLP = packed.permute(2, 0, 3, 1, 4)
        mixed_BHLP = functional.scaled_dot_product_attention(
            query_BHLP, key_BHLP, value_BHLP, attn_mask=mask_BL[:, None, None]
        )
        return self.out_proj(mixed_BHLP.transpose(1, 2).flatten(2)).masked_fill(hidden_BL1, 0)


class FeedForward(nn.Module):
    """Two layers with a GELU between, of each token by itself."""

    def __init__(self, embed_dim: int) -> None:
        super().__init__()
        self.up = nn.Linear(embed_dim, MLP_RATIO * embed_dim)
        self.down = nn.Linear(MLP_RATIO * embed_dim, embed_dim)

    def forward(self, hidden_BLE: Tensor, mask_BL: Tensor) -> Tensor:
        """(B, L, E), zero at masked tokens."""
        return self.down(functional.gelu(self.up(hidden_BLE))).masked_fill(~mask_BL[..., None], 0)


class TransformerBlock(nn.Module):
    """Attention, then the feed-forward layers, each behind a norm and beside a residual."""

    def __init__(self, config: TransformerConfig, drop_path: float) -> None:
        super().__init__()
        layers = Attention(config), FeedForward(config.embed_dim)
        self.attention, self.feed_forward = (
            ResidualBlock(layer, embed_dim=config.embed_dim, drop_path=drop_path) for layer in layers
        )
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.trunc_normal_(module.weight, std=WEIGHT_STD)
                nn.init.zeros_(module.bias)

    def forward(self, residual_BLE: Tensor, mask_BL: Tensor) -> Tensor:
        """The residual stream (B, L, E) with what both add; the mask is (B, L)."""
        return self.feed_forward(self.attention(residual_BLE, mask_BL), mask_BL)


class Transformer(TokenNetwork):
    """Patch tokens through transformer blocks."""

    def __init__(self, config: TransformerConfig, num_mels: int) -> None:
        def block(drop_path: float) -> TransformerBlock:
            return TransformerBlock(config, drop_path)

        super().__init__(config, num_mels, block)
