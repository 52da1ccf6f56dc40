"""What every convolutional model shares: the two heads, and the way from the mel image to them.

Shapes: B batch, F frames, M mels, C channels, T x W the trunk's image in time x mels.
"""

from abc import ABC, abstractmethod

import torch
from torch import Tensor, nn

from fakesound.models.detector import DetectorOutput
from fakesound.models.masked import TimeMasks
from fakesound.models.patches import read_at_frames


class ConvNetwork(nn.Module, ABC):
    """A trunk, fully convolutional over time, with a clip head and a frame head (arXiv 1411.4038).

    The frame head is a 1x1 convolution over time of the features averaged over mels, interpolated linearly to
    frames. The clip head reads their mean and maximum over the clip's time: the mean alone would dilute a
    short forgery.

    Args:
        num_channels: C, what the trunk gives out.
        time_stride: frames of one of its time steps, a power of two.
        first_centre_frames: where the first step's centre lies; strided convolutions centre it on frame 0.
        dropout: on what the heads read.
    """

    def __init__(
        self, *, num_channels: int, time_stride: int, dropout: float, first_centre_frames: float = 0.0
    ) -> None:
        super().__init__()
        self.masks = TimeMasks()
        self.time_stride = time_stride
        self.first_centre_frames = first_centre_frames
        self.dropout = nn.Dropout(dropout)
        self.frame_head = nn.Conv1d(num_channels, 1, kernel_size=1)
        self.clip_head = nn.Linear(2 * num_channels, 1)
        for weight in (self.frame_head.weight, self.clip_head.weight):
            nn.init.normal_(weight, std=0.01)

    @abstractmethod
    def extract(self, image_BCFM: Tensor) -> Tensor:
        """Features (B, C, T, W) of the mel image (B, 1, F, M), zero at padding; `self.masks` is set."""

    def forward(self, image_BFM: Tensor, mask_BF: Tensor) -> DetectorOutput:
        """Score normalised features that are zero outside the mask; see `Detector.forward`."""
        self.masks.set(mask_BF, num_halvings=self.time_stride.bit_length() - 1)
        image_BCFM = image_BFM[:, None].contiguous(memory_format=torch.channels_last)
        features_BCT = self.extract(image_BCFM).mean(3)
        mask_BT = self.masks.at(features_BCT.shape[2])
        num_times_B = mask_BT.sum(1)
        mean_BC = features_BCT.sum(2) / num_times_B[:, None]
        max_BC = features_BCT.masked_fill(~mask_BT[:, None], -torch.inf).amax(2)
        pooled_B2C = torch.cat([mean_BC, max_BC], dim=1)
        clip_logits_B = self.clip_head(self.dropout(pooled_B2C)).squeeze(1)
        step_logits_BT = self.frame_head(self.dropout(features_BCT)).squeeze(1)
        frames_F = torch.arange(image_BFM.shape[1], device=image_BFM.device)
        position_F = (frames_F - self.first_centre_frames) / self.time_stride
        return DetectorOutput(
            clip_logits_B.float(), read_at_frames(step_logits_BT.float(), num_times_B, position_F)
        )
