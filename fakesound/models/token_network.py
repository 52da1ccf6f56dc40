"""What every model over patches shares: the embedding, the class token, the heads; only the blocks differ.

Clips may have any length: the class token sits in the middle of each clip's own valid tokens, and padding
stays exactly zero in the residual stream from the embedding to the last block.

Shapes: B batch, F frames, M mels, T x H the grid of patches in time x frequency, L tokens (T * H, one more
with the class token), E width of the model.
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from fakesound.core.errors import UserError
from fakesound.models.config import TokenNetworkConfig
from fakesound.models.detector import DetectorOutput
from fakesound.models.patches import patches_needed, read_at_frames, to_patches

NORM_EPSILON = 1e-5
EMBEDDING_STD = 0.02


def drop_clips(values: Tensor, rate: float, *, training: bool) -> Tensor:
    """Stochastic depth (arXiv 1603.09382): zero whole clips with probability `rate`, scale the others up."""
    if not training or rate == 0:
        return values
    kept = torch.empty(len(values), *[1] * (values.ndim - 1), device=values.device, dtype=values.dtype)
    return values * kept.bernoulli_(1 - rate).div_(1 - rate)


class ResidualBlock(nn.Module):
    """Add -> RMSNorm -> layer; the residual stream stays in single precision whatever the layer computes in.

    Args:
        layer: from (B, L, E) and the mask (B, L) to (B, L, E), zero at masked tokens and blind to them.
        embed_dim: E.
        drop_path: probability that a clip skips the layer in training.
    """

    def __init__(self, layer: nn.Module, *, embed_dim: int, drop_path: float) -> None:
        super().__init__()
        self.norm = nn.RMSNorm(embed_dim, eps=NORM_EPSILON)
        self.layer = layer
        self.drop_path = drop_path

    def forward(self, residual_BLE: Tensor, mask_BL: Tensor) -> Tensor:
        """The stream with this layer's contribution, left out for whole clips at random in training."""
        added_BLE = self.layer(self.norm(residual_BLE), mask_BL)
        return residual_BLE + drop_clips(added_BLE, self.drop_path, training=self.training).float()


class PatchEmbedding(nn.Module):
    """Patches as vectors, with learned positions.

    A patch's position is the sum of one vector for its place in time and one for its place in frequency, so
    that a short clip reads the same time vectors as the start of a long one. The class token has a vector of
    its own.
    """

    UNDECAYED = ("time_TE", "frequency_HE", "class_E")

    def __init__(self, config: TokenNetworkConfig, num_mels: int) -> None:
        super().__init__()
        self.patch_frames, self.patch_mels = config.patch_frames, config.patch_mels
        self.max_frames = config.max_frames
        self.grid_height = patches_needed(num_mels, config.patch_mels)
        # The same as a convolution whose kernel and stride are the patch.
        self.proj = nn.Linear(config.patch_frames * config.patch_mels, config.embed_dim)
        num_times = patches_needed(config.max_frames, config.patch_frames)
        self.time_TE = nn.Parameter(torch.empty(num_times, config.embed_dim))
        self.frequency_HE = nn.Parameter(torch.empty(self.grid_height, config.embed_dim))
        self.class_E = nn.Parameter(torch.empty(config.embed_dim))
        for embedding in (self.time_TE, self.frequency_HE, self.class_E):
            nn.init.trunc_normal_(embedding, std=EMBEDDING_STD)

    def forward(self, image_BFM: Tensor) -> Tensor:
        """Tokens (B, T * H, E), along frequency first.

        Raises:
            UserError: more than `max_frames` frames.
        """
        num_frames = image_BFM.shape[1]
        if num_frames > self.max_frames:
            raise UserError(
                f"a clip of {num_frames} frames, but the model takes {self.max_frames}: "
                "cut it into windows, or train with a larger max_frames"
            )
        grid_BTHE = self.proj(to_patches(image_BFM, self.patch_frames, self.patch_mels)).float()
        positions_THE = self.time_TE[: grid_BTHE.shape[1], None] + self.frequency_HE
        return (grid_BTHE + positions_THE).flatten(1, 2)


def insert_at(tokens_BLE: Tensor, inserted_E: Tensor, index_B: Tensor) -> Tensor:
    """(B, L + 1, E) with `inserted_E` at each clip's own index."""
    place_L = torch.arange(tokens_BLE.shape[1] + 1, device=tokens_BLE.device)
    offset_BL1 = (place_L - index_B[:, None])[..., None]
    before_BLE = nn.functional.pad(tokens_BLE, (0, 0, 0, 1))
    after_BLE = nn.functional.pad(tokens_BLE, (0, 0, 1, 0))
    return torch.where(offset_BL1 == 0, inserted_E, torch.where(offset_BL1 < 0, before_BLE, after_BLE))


def remove_at(tokens_BLE: Tensor, index_B: Tensor) -> tuple[Tensor, Tensor]:
    """The inverse of `insert_at`: what is left (B, L, E) and what was taken out (B, E)."""
    place_L = torch.arange(tokens_BLE.shape[1] - 1, device=tokens_BLE.device)
    is_before_BL1 = (place_L < index_B[:, None])[..., None]
    taken_BE = tokens_BLE[torch.arange(len(tokens_BLE), device=tokens_BLE.device), index_B]
    return torch.where(is_before_BL1, tokens_BLE[:, :-1], tokens_BLE[:, 1:]), taken_BE


class TokenNetwork(nn.Module):
    """Blocks over patch tokens, and two heads: clip from the class token, frames from the grid of patches.

    The frame head takes the mean over frequency of the patches of each time step, then one linear layer, and
    interpolates linearly to frames. (The linear layer commutes with the interpolation, and is cheaper before
    it.)

    Args:
        config: all but the blocks.
        num_mels: M.
        make_block: the block of one layer, given its stochastic depth: from the residual stream (B, L, E) and
            the mask (B, L), a run of True from the start, to the residual stream.
    """

    UNDECAYED = ("class_token_E",)

    def __init__(
        self, config: TokenNetworkConfig, num_mels: int, make_block: Callable[[float], nn.Module]
    ) -> None:
        super().__init__()
        self.embedding = PatchEmbedding(config, num_mels)
        self.class_token_E = nn.Parameter(torch.empty(config.embed_dim))
        rates = torch.linspace(0, config.drop_path, config.depth).tolist()
        self.blocks = nn.ModuleList(make_block(rate) for rate in rates)
        self.norm = nn.RMSNorm(config.embed_dim, eps=NORM_EPSILON)
        self.dropout = nn.Dropout(config.dropout)
        self.clip_head = nn.Linear(config.embed_dim, 1)
        self.frame_head = nn.Linear(config.embed_dim, 1)
        nn.init.trunc_normal_(self.class_token_E, std=EMBEDDING_STD)
        for head in (self.clip_head, self.frame_head):
            nn.init.trunc_normal_(head.weight, std=EMBEDDING_STD)
            nn.init.zeros_(head.bias)

    def hidden_states(self, image_BFM: Tensor, mask_BF: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Final states of all tokens, kept on the grid.

        Returns:
            class token (B, E); patches (B, T, H, E), zero where invalid; valid time steps of each clip (B,).
        """
        tokens_BLE = self.embedding(image_BFM)
        height, patch_frames = self.embedding.grid_height, self.embedding.patch_frames
        num_times_B = -(-mask_BF.sum(1) // patch_frames)
        num_tokens_B = num_times_B * height
        class_index_B = num_tokens_B // 2
        class_E = self.class_token_E + self.embedding.class_E
        residual_BLE = insert_at(tokens_BLE, class_E, class_index_B)
        place_L = torch.arange(residual_BLE.shape[1], device=residual_BLE.device)
        mask_BL = place_L <= num_tokens_B[:, None]
        residual_BLE = residual_BLE.masked_fill(~mask_BL[..., None], 0)
        for block in self.blocks:
            residual_BLE = block(residual_BLE, mask_BL)
        patches_BLE, class_BE = remove_at(self.norm(residual_BLE), class_index_B)
        return class_BE, patches_BLE.unflatten(1, (-1, height)), num_times_B

    def forward(self, image_BFM: Tensor, mask_BF: Tensor) -> DetectorOutput:
        """Score normalised features that are zero outside the mask; see `Detector.forward`."""
        class_BE, grid_BTHE, num_times_B = self.hidden_states(image_BFM, mask_BF)
        clip_logits_B = self.clip_head(self.dropout(class_BE)).squeeze(-1)
        step_logits_BT = self.frame_head(self.dropout(grid_BTHE.mean(2))).squeeze(-1)
        frames_F = torch.arange(image_BFM.shape[1], device=image_BFM.device)
        position_F = (frames_F + 0.5) / self.embedding.patch_frames - 0.5
        return DetectorOutput(
            clip_logits_B.float(), read_at_frames(step_logits_BT.float(), num_times_B, position_F)
        )
