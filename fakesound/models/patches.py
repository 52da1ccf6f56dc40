"""The rule that lays a mel image out on the grid of patches, and reads frames back from it.

The rule: along each axis patches of one length start every `stride` places, at most their length apart, so
that they may overlap but leave nothing out. There are as many as it takes to cover the axis; zeros (the mean
of the normalised features) are appended after the last frame and above the highest mel band until the last
one is whole. A patch is valid when it covers a frame of the clip that no patch before it covers: a clip thus
has the same valid patches alone and in a batch of longer ones, and they cover its every frame. Tokens run
along frequency first: token t * H + h is patch t in time and h in frequency, so that what is near in time
stays together and the valid tokens of a clip are a run from the start.

Shapes: B batch, F frames, M mels, T patches in time, H patches in frequency, P values of one patch.
"""

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional


class PatchAxis(NamedTuple):
    """One axis: patches of `length` frames or mels, one every `stride` (1 <= stride <= length)."""

    length: int
    stride: int

    def count(self, size: int) -> int:
        """Patches that cover `size` frames or mels."""
        return 1 - min(0, self.length - size) // self.stride

    def counts(self, size_B: Tensor) -> Tensor:
        """`count` of every element."""
        return 1 - (self.length - size_B).clamp_max(0) // self.stride

    def missing(self, size: int) -> int:
        """Zeros to append to `size` frames or mels to make the last patch whole."""
        return (self.count(size) - 1) * self.stride + self.length - size

    def positions(self, place_F: Tensor) -> Tensor:
        """Where the centre of each frame or mel lies, counted in patches: 0.0 is the centre of patch 0."""
        return (place_F + 0.5 - self.length / 2) / self.stride


def to_patches(image_BFM: Tensor, time: PatchAxis, frequency: PatchAxis) -> Tensor:
    """Cut (B, F, M) into (B, T, H, P), P running over frames, then mels."""
    _, num_frames, num_mels = image_BFM.shape
    padded = functional.pad(image_BFM, (0, frequency.missing(num_mels), 0, time.missing(num_frames)))
    return padded.unfold(1, *time).unfold(2, *frequency).flatten(3)


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
