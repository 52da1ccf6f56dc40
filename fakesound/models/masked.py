"""Layers over images of clips of unequal length, blind to padding.

The rule that they keep: what a convolution meets at padded time steps is zero, as its own padding beyond the
image is. Every normalisation and pooling here leaves zeros there, and averages over valid steps only, so that
a clip scores the same alone and in a batch of longer ones.

Shapes: B batch, F frames, C channels, T x W the image in time x mels at any stage.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional


class TimeMasks:
    """The batch's mask at each time resolution, for layers deep inside torchvision's blocks.

    A convolution of stride 2 (odd kernel, padding of half of it) centres its output t on input 2t; a pooling
    of two steps reads inputs 2t and 2t + 1. Either way output t is valid when input 2t is.
    """

    def __init__(self) -> None:
        self._masks_by_length: dict[int, Tensor] = {}
        self.all_valid = True

    def set(self, mask_BF: Tensor, num_halvings: int) -> None:
        """Derive the masks of one batch at every resolution down to `num_halvings`."""
        self._masks_by_length = {}
        self.all_valid = bool(mask_BF.all())
        for _ in range(num_halvings + 1):
            # A length of one stays one when halved: the mask is then the same.
            self._masks_by_length[mask_BF.shape[1]] = mask_BF
            mask_BF = mask_BF[:, ::2]

    def at(self, num_times: int) -> Tensor:
        """(B, T) for T time steps."""
        return self._masks_by_length[num_times]

    def padding_at(self, num_times: int) -> Tensor:
        """(B, 1, T, 1), True at padding: what to fill in an image of T time steps."""
        return ~self.at(num_times)[:, None, :, None]


class MaskedBatchNorm(nn.BatchNorm2d):
    """Batch normalisation of (B, C, T, W) over the valid time steps; zero at the others."""

    def __init__(
        self, num_channels: int, masks: TimeMasks, *, eps: float = 1e-5, affine: bool = True
    ) -> None:
        super().__init__(num_channels, eps=eps, affine=affine)
        self._masks = masks

    def forward(self, input: Tensor) -> Tensor:
        """Same shape and type; statistics over valid (clip, time, mel) positions."""
        if self._masks.all_valid:
            return super().forward(input)
        if not self.training:
            return super().forward(input).masked_fill(self._masks.padding_at(input.shape[2]), 0)
        mask_BT = self._masks.at(input.shape[2])
        rows_BTWC = input.permute(0, 2, 3, 1)
        # Valid rows as one tall image, which the native kernel normalises without knowing of clips.
        valid_NWC = rows_BTWC[mask_BT]
        normed_NWC = super().forward(valid_NWC.permute(2, 0, 1)[None])[0].permute(1, 2, 0)
        out_BTWC = torch.zeros_like(rows_BTWC, dtype=normed_NWC.dtype)
        out_BTWC[mask_BT] = normed_NWC
        return out_BTWC.permute(0, 3, 1, 2)


class ClipBatchNorm(nn.BatchNorm2d):
    """Batch normalisation of (B, C, 1, 1), one value a clip.

    A batch of one clip has no variance, and torch refuses it: the running statistics stand in.
    """

    def forward(self, input: Tensor) -> Tensor:
        """Same shape and type."""
        if len(input) > 1:
            return super().forward(input)
        return functional.batch_norm(
            input, self.running_mean, self.running_var, self.weight, self.bias, eps=self.eps
        )


class MaskedMean(nn.Module):
    """Each clip's mean over its valid time steps and all mels."""

    def __init__(self, masks: TimeMasks) -> None:
        super().__init__()
        self._masks = masks

    def forward(self, image_BCTW: Tensor) -> Tensor:
        """(B, C, 1, 1) of (B, C, T, W) that is zero at padding."""
        if self._masks.all_valid:
            return image_BCTW.mean((2, 3), keepdim=True)
        num_times_B = self._masks.at(image_BCTW.shape[2]).sum(1)
        return image_BCTW.mean(3, keepdim=True).sum(2, keepdim=True) / num_times_B[:, None, None, None]


class MaskedMaxPool(nn.Module):
    """The maximum over `time_stride` steps x 2 mels of (B, C, T, W) that lie in the clip; zero at padding.

    Odd lengths are rounded up: the last window is smaller, and no frame goes unread.
    """

    def __init__(self, time_stride: int, masks: TimeMasks) -> None:
        super().__init__()
        self._window = (time_stride, 2)
        self._masks = masks

    def forward(self, image_BCTW: Tensor) -> Tensor:
        """(B, C, ceil(T / time_stride), ceil(W / 2))."""
        if self._masks.all_valid:
            return functional.max_pool2d(image_BCTW, self._window, ceil_mode=True)
        image_BCTW = image_BCTW.masked_fill(self._masks.padding_at(image_BCTW.shape[2]), -torch.inf)
        pooled_BCTW = functional.max_pool2d(image_BCTW, self._window, ceil_mode=True)
        return pooled_BCTW.masked_fill(self._masks.padding_at(pooled_BCTW.shape[2]), 0)


def mask_layers(module: nn.Module, masks: TimeMasks) -> None:
    """Replace, in place, each plain batch normalisation and global average pooling inside `module`.

    For networks made by others, which take no layers of ours. Fresh statistics and weights: to be called
    before any are loaded. Momentum becomes torch's own: torchvision's 0.01 of MobileNet is meant for hundreds
    of thousands of steps, and after a few hundred would still score with the initial statistics.
    """
    for name, child in module.named_children():
        if type(child) is nn.BatchNorm2d:
            setattr(module, name, MaskedBatchNorm(child.num_features, masks, eps=child.eps))
        elif isinstance(child, nn.AdaptiveAvgPool2d):
            setattr(module, name, MaskedMean(masks))
        else:
            mask_layers(child, masks)
