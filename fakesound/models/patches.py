"""The rule that lays a mel image out on the grid of patches, and reads frames back from it.

The rule: zeros (the mean of the normalised features) are appended after the last frame and above the highest
mel band until both fill whole patches. A patch is valid when any frame that it covers is. Tokens run along
frequency first: token t * H + h is patch t in time and h in frequency, so that what is near in time stays
together and the valid tokens of a clip are a run from the start.

Shapes: B batch, F frames, M mels, T patches in time, H patches in frequency, P values of one patch.
"""

import torch
from torch import Tensor
from torch.nn import functional


def patches_needed(length: int, patch_length: int) -> int:
    """Patches that cover `length`."""
    return -(-length // patch_length)


def to_patches(image_BFM: Tensor, patch_frames: int, patch_mels: int) -> Tensor:
    """Cut (B, F, M) into (B, T, H, P), P running over frames, then mels."""
    _, num_frames, num_mels = image_BFM.shape
    padded = functional.pad(image_BFM, (0, -num_mels % patch_mels, 0, -num_frames % patch_frames))
    return padded.unflatten(2, (-1, patch_mels)).unflatten(1, (-1, patch_frames)).transpose(2, 3).flatten(3)


def read_at_frames(values_BT: Tensor, num_valid_B: Tensor, position_F: Tensor) -> Tensor:
    """Interpolate linearly over time, each clip held constant outside the centres of its first and last valid
    step.

    Args:
        values_BT: (B, T) one value a time step.
        num_valid_B: (B,) time steps that belong to each clip, at least one.
        position_F: (F,) where each frame's centre lies, counted in steps: 0.0 is the centre of step 0.

    Returns:
        (B, F).
    """
    last_B1 = (num_valid_B - 1)[:, None]
    position_BF = position_F.clamp_min(0).minimum(last_B1)
    before_BF = position_BF.floor().long()
    after_BF = (before_BF + 1).minimum(last_B1)
    return torch.lerp(values_BT.gather(1, before_BF), values_BT.gather(1, after_BF), position_BF - before_BF)
