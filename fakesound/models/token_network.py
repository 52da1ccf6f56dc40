"""What every model over patches shares: the embedding, the class token or what stands for it, the heads; only
the blocks differ.

Clips may have any length: the class token sits in the middle of each clip's own valid tokens, and padding
stays exactly zero in the residual stream from the embedding to the last block.

Shapes: B batch, F frames, M mels, T x H the grid of patches in time x frequency, L tokens (T * H, one more
with the class token), E width of the model.
"""

from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor, nn

from fakesound.core.errors import UserError
from fakesound.models.config import TokenNetworkConfig
from fakesound.models.detector import DetectorOutput
from fakesound.models.patches import PatchAxis, read_at_frames, to_patches

NORM_EPSILON = 1e-5
EMBEDDING_STD = 0.02


def drop_clips(values: Tensor, rate: float, *, training: bool) -> Tensor:
    """Stochastic depth (arXiv 1603.09382): zero whole clips with probability `rate`, scale the others up."""
    if not training or rate == 0:
        return values
    kept = torch.empty(values.shape[0], *[1] * (values.ndim - 1), device=values.device, dtype=values.dtype)
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


def _embedding(*shape: int) -> nn.Parameter:
    return nn.Parameter(nn.init.trunc_normal_(torch.empty(*shape), std=EMBEDDING_STD))


class PatchEmbedding(nn.Module):
    """Patches as vectors, with learned positions.

    A patch's position is the sum of one vector for its place in time and one for its place in frequency, so
    that a short clip reads the same time vectors as the start of a long one. The class token, where there is
    one, has a vector of its own.
    """

    UNDECAYED = ("time_TE", "frequency_HE")

    def __init__(self, config: TokenNetworkConfig, num_mels: int) -> None:
        super().__init__()
        self.time = PatchAxis(config.patch_frames, config.step_frames)
        self.frequency = PatchAxis(config.patch_mels, config.step_mels)
        self.max_frames = config.max_frames
        self.grid_height = self.frequency.count(num_mels)
        # The same as a convolution whose kernel is the patch.
        self.proj = nn.Linear(config.patch_frames * config.patch_mels, config.embed_dim)
        self.time_TE = _embedding(self.time.count(config.max_frames), config.embed_dim)
        self.frequency_HE = _embedding(self.grid_height, config.embed_dim)
        self.class_E = _embedding(config.embed_dim) if config.clip_pooling == "class_token" else None

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
        grid_BTHE = self.proj(to_patches(image_BFM, self.time, self.frequency)).float()
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
    taken_BE = tokens_BLE[torch.arange(tokens_BLE.shape[0], device=tokens_BLE.device), index_B]
    return torch.where(is_before_BL1, tokens_BLE[:, :-1], tokens_BLE[:, 1:]), taken_BE


class PooledPatches(nn.Module):
    """One vector a clip of its valid patches: their mean, their maximum, or a mean weighted by a softmax over
    learned scores, which starts as the plain mean.
    """

    def __init__(self, pooling: Literal["mean", "max", "attention"], embed_dim: int) -> None:
        super().__init__()
        self.pooling = pooling
        if pooling == "attention":
            self.score = nn.Linear(embed_dim, 1, bias=False)  # a softmax is blind to a bias
            nn.init.zeros_(self.score.weight)

    def forward(self, patches_BLE: Tensor, mask_BL: Tensor) -> Tensor:
        """(B, E); of the masked patches, which must be zero, nothing is read."""
        hidden_BL1 = ~mask_BL[..., None]
        if self.pooling == "max":
            return patches_BLE.masked_fill(hidden_BL1, -torch.inf).amax(1)
        if self.pooling == "mean":
            return patches_BLE.sum(1) / mask_BL.sum(1)[:, None]
        weights_BL1 = self.score(patches_BLE).float().masked_fill(hidden_BL1, -torch.inf).softmax(1)
        return (weights_BL1 * patches_BLE).sum(1)


def _blocks(make_block: Callable[[float], nn.Module], depth: int, drop_path: float) -> nn.ModuleList:
    """`depth` blocks whose stochastic depth rises linearly from zero to `drop_path`."""
    return nn.ModuleList(
        make_block(rate) for rate in torch.linspace(0, drop_path, depth, device="cpu").tolist()
    )


class SequenceHead(nn.Module):
    """Further blocks over the patches, for the frame head only, with a residual stream of their own.

    Args:
        blocks: as those of `TokenNetwork`.
        embed_dim: E.
        residual: whether the patch embedding is added to what enters.
    """

    def __init__(self, blocks: nn.ModuleList, *, embed_dim: int, residual: bool) -> None:
        super().__init__()
        self.blocks = blocks
        self.norm = nn.RMSNorm(embed_dim, eps=NORM_EPSILON)
        self.residual = residual

    def forward(self, patches_BLE: Tensor, embedded_BLE: Tensor, mask_BL: Tensor) -> Tensor:
        """(B, L, E), zero at masked tokens, where the patches' states and their embeddings must be zero."""
        stream_BLE = patches_BLE + embedded_BLE if self.residual else patches_BLE
        for block in self.blocks:
            stream_BLE = block(stream_BLE, mask_BL)
        return self.norm(stream_BLE)


class TokenNetwork(nn.Module):
    """Blocks over patch tokens, and two heads: clip from the class token or from all patches, frames from the
    grid of patches.

    The frame head takes the mean over frequency of the patches of each time step, then one linear layer, and
    interpolates linearly to frames. (The linear layer commutes with the interpolation, and is cheaper before
    it.)

    Args:
        config: all but the blocks.
        num_mels: M.
        make_block: the block of one layer, given its stochastic depth: from the residual stream (B, L, E) and
            the mask (B, L), a run of True from the start, to the residual stream.
    """

    def __init__(
        self, config: TokenNetworkConfig, num_mels: int, make_block: Callable[[float], nn.Module]
    ) -> None:
        super().__init__()
        width = config.embed_dim
        self.embedding = PatchEmbedding(config, num_mels)
        self.blocks = _blocks(make_block, config.depth, config.drop_path)
        self.norm = nn.RMSNorm(width, eps=NORM_EPSILON)
        self.dropout = nn.Dropout(config.dropout)
        self.clip_head = nn.Linear(width, 1)
        self.frame_head = nn.Linear(width, 1)
        pooling = config.clip_pooling
        self.class_token_E = _embedding(width) if pooling == "class_token" else None
        self.pool = None if pooling == "class_token" else PooledPatches(pooling, width)
        for head in (self.clip_head, self.frame_head):
            nn.init.trunc_normal_(head.weight, std=EMBEDDING_STD)
            nn.init.zeros_(head.bias)
        self.sequence_head = None
        if config.sequence_head_depth:
            blocks = _blocks(make_block, config.sequence_head_depth, config.drop_path)
            self.sequence_head = SequenceHead(blocks, embed_dim=width, residual=config.sequence_head_residual)

    def forward(self, image_BFM: Tensor, mask_BF: Tensor) -> DetectorOutput:
        """Score normalised features that are zero outside the mask; see `Detector.forward`."""
        time, height = self.embedding.time, self.embedding.grid_height
        num_times_B = time.counts(mask_BF.sum(1))
        embedded_BLE = self.embedding(image_BFM)
        place_L = torch.arange(embedded_BLE.shape[1], device=embedded_BLE.device)
        mask_BL = place_L < height * num_times_B[:, None]
        embedded_BLE = embedded_BLE.masked_fill(~mask_BL[..., None], 0)

        clip_BE, patches_BLE = self._encode(embedded_BLE, mask_BL)
        clip_logits_B = self.clip_head(self.dropout(clip_BE)).squeeze(-1)
        if self.sequence_head is not None:
            patches_BLE = self.sequence_head(patches_BLE, embedded_BLE, mask_BL)
        steps_BTE = patches_BLE.unflatten(1, (-1, height)).mean(2)
        step_logits_BT = self.frame_head(self.dropout(steps_BTE)).squeeze(-1)
        position_F = time.positions(torch.arange(image_BFM.shape[1], device=image_BFM.device))
        return DetectorOutput(
            clip_logits_B.float(), read_at_frames(step_logits_BT.float(), num_times_B, position_F)
        )

    def _encode(self, embedded_BLE: Tensor, mask_BL: Tensor) -> tuple[Tensor, Tensor]:
        """What the clip head reads (B, E), and the final states of the patches (B, L, E), zero if masked."""
        if self.pool is not None:
            patches_BLE = self._run_blocks(embedded_BLE, mask_BL)
            return self.pool(patches_BLE, mask_BL), patches_BLE
        index_B = mask_BL.sum(1) // 2
        class_E = self.class_token_E + self.embedding.class_E  # pyright: ignore[reportOperatorIssue]
        tokens_BLE = insert_at(embedded_BLE, class_E, index_B)
        one_longer_BL = nn.functional.pad(mask_BL, (1, 0), value=True)
        patches_BLE, class_BE = remove_at(self._run_blocks(tokens_BLE, one_longer_BL), index_B)
        return class_BE, patches_BLE

    def _run_blocks(self, residual_BLE: Tensor, mask_BL: Tensor) -> Tensor:
        for block in self.blocks:
            residual_BLE = block(residual_BLE, mask_BL)
        return self.norm(residual_BLE)
