"""FCN-ResNet: residual stages (arXiv 1512.03385) and a fully convolutional frame head (arXiv 1411.4038).

Batch normalisation sees valid time steps only, and every normalisation leaves zeros at padding, as the
convolutions' own padding is: a clip scores the same alone and in a batch of longer ones.

Shapes: B batch, F frames, M mels, C channels, T x W the image in time x mels at any stage.
"""

from typing import Any

import torch
from torch import Tensor, nn

from fakesound.models.config import FCNResNetConfig
from fakesound.models.detector import DetectorOutput
from fakesound.models.patches import read_at_frames

STEM_STRIDE = 2


class TimeMasks:
    """The batch's mask at each time resolution, for layers deep inside torchvision's blocks.

    A layer of stride 2 (odd kernel, padding of half of it) centres its output t on input 2t, so that output t
    is valid when input 2t is.
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


class MaskedBatchNorm(nn.BatchNorm2d):
    """Batch normalisation of (B, C, T, W) over the valid time steps; zero at the others."""

    def __init__(self, num_channels: int, masks: TimeMasks) -> None:
        super().__init__(num_channels)
        self._masks = masks

    def forward(self, input: Tensor) -> Tensor:
        """Same shape and type; statistics over valid (clip, time, mel) positions."""
        if self._masks.all_valid:
            return super().forward(input)
        mask_BT = self._masks.at(input.shape[2])
        if not self.training:
            return super().forward(input).masked_fill(~mask_BT[:, None, :, None], 0)
        rows_BTWC = input.permute(0, 2, 3, 1)
        # Valid rows as one tall image, which the native kernel normalises without knowing of clips.
        valid_NWC = rows_BTWC[mask_BT]
        normed_NWC = super().forward(valid_NWC.permute(2, 0, 1)[None])[0].permute(1, 2, 0)
        out_BTWC = torch.zeros_like(rows_BTWC, dtype=normed_NWC.dtype)
        out_BTWC[mask_BT] = normed_NWC
        return out_BTWC.permute(0, 3, 1, 2)


class FCNResNet(nn.Module):
    """Residual backbone over the mel image with a clip head and a frame head.

    The frame head is a 1x1 convolution over time of the features averaged over mels, interpolated linearly to
    frames. The clip head reads their mean and maximum over the clip's time: the mean alone would dilute a
    short forgery.
    """

    def __init__(self, config: FCNResNetConfig) -> None:
        super().__init__()
        self.masks = TimeMasks()
        self.time_stride = STEM_STRIDE
        width = config.widths[0]
        self.stem = nn.Sequential(
            nn.Conv2d(1, width, kernel_size=7, stride=STEM_STRIDE, padding=3, bias=False),
            MaskedBatchNorm(width, self.masks),
            nn.ReLU(inplace=True),
        )
        blocks = []
        for stage_width, depth, time_stride in zip(
            config.widths, config.depths, config.time_strides, strict=True
        ):
            for index in range(depth):
                stride = (time_stride, 2) if index == 0 else (1, 1)
                blocks.append(self._make_block(width, stage_width, stride))
                width = stage_width
            self.time_stride *= time_stride
        self.blocks = nn.Sequential(*blocks)
        self.dropout = nn.Dropout(config.dropout)
        self.frame_head = nn.Conv1d(width, 1, kernel_size=1)
        self.clip_head = nn.Linear(2 * width, 1)
        self._initialise()

    def _make_block(self, width_in: int, width_out: int, stride: tuple[int, int]) -> nn.Module:
        from torchvision.models.resnet import BasicBlock

        def norm(num_channels: int) -> nn.Module:
            return MaskedBatchNorm(num_channels, self.masks)

        shortcut = None
        if stride != (1, 1) or width_in != width_out:
            shortcut = nn.Sequential(
                nn.Conv2d(width_in, width_out, kernel_size=1, stride=stride, bias=False), norm(width_out)
            )
        pair: Any = stride  # torchvision says int, and hands it to Conv2d as it is
        return BasicBlock(width_in, width_out, stride=pair, downsample=shortcut, norm_layer=norm)

    def _initialise(self) -> None:
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        for weight in (self.frame_head.weight, self.clip_head.weight):
            nn.init.normal_(weight, std=0.01)

    def forward(self, image_BFM: Tensor, mask_BF: Tensor) -> DetectorOutput:
        """Score normalised features that are zero outside the mask; see `Detector.forward`."""
        self.masks.set(mask_BF, num_halvings=self.time_stride.bit_length() - 1)
        image_BCFM = image_BFM[:, None].contiguous(memory_format=torch.channels_last)
        features_BCT = self.blocks(self.stem(image_BCFM)).mean(3)
        mask_BT = self.masks.at(features_BCT.shape[2])
        num_times_B = mask_BT.sum(1)
        # Zero at padding and, after the last ReLU, nowhere below zero: sums and maxima need no mask.
        mean_BC = features_BCT.sum(2) / num_times_B[:, None]
        pooled_B2C = torch.cat([mean_BC, features_BCT.amax(2)], dim=1)
        clip_logits_B = self.clip_head(self.dropout(pooled_B2C)).squeeze(1)
        step_logits_BT = self.frame_head(self.dropout(features_BCT)).squeeze(1)
        position_F = torch.arange(image_BFM.shape[1], device=image_BFM.device) / self.time_stride
        return DetectorOutput(
            clip_logits_B.float(), read_at_frames(step_logits_BT.float(), num_times_B, position_F)
        )
