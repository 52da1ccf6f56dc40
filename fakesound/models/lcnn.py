"""LCNN: the light CNN with max-feature-map activations of anti-spoofing (arXiv 1904.05576).

Its nine convolutions and the order of poolings and normalisations are those of the paper, as the ASVspoof
2021 baseline LFCC-LCNN has them: biases in the convolutions, normalisation without weights. Changed, so that
it takes clips of any length and scores frames: of the four 2x2 poolings the last two leave time alone (a step
is 4 frames, not 16); odd lengths are rounded up; the layers after the convolutions, which tie the paper's
network to one image size and are most of its weights, give way to the heads that all convolutional models
share.

Shapes: B batch, F frames, M mels, C channels, T x W the image in time x mels at any stage.
"""

import math
from collections.abc import Iterator

import torch
from torch import Tensor, nn

from fakesound.models.config import LCNNConfig
from fakesound.models.conv_network import ConvNetwork
from fakesound.models.masked import MaskedBatchNorm, MaskedMaxPool

# (kernel, channels after the activation, what follows), in the paper's order.
_LAYERS = (
    (5, 32, ("pool",)),
    (1, 32, ("norm",)),
    (3, 48, ("pool", "norm")),
    (1, 48, ("norm",)),
    (3, 64, ("pool",)),
    (1, 64, ("norm",)),
    (3, 32, ("norm",)),
    (1, 32, ("norm",)),
    (3, 32, ("pool",)),
)


class MaxFeatureMap(nn.Module):
    """The larger of two candidates for each channel: (B, 2C, T, W) to (B, C, T, W)."""

    def forward(self, candidates: Tensor) -> Tensor:
        """Channel c competes with channel C + c."""
        return torch.maximum(*candidates.chunk(2, dim=1))


class LCNN(ConvNetwork):
    """Convolutions whose channels compete in pairs, with poolings in between."""

    def __init__(self, config: LCNNConfig) -> None:
        time_stride = math.prod(config.time_strides)
        super().__init__(
            num_channels=config.scaled(_LAYERS[-1][1]),
            time_stride=time_stride,
            first_centre_frames=(time_stride - 1) / 2,  # the middle of the frames that are pooled
            dropout=config.dropout,
        )
        self.layers = nn.Sequential(*self._make_layers(config))
        for module in self.layers:
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight)

    def _make_layers(self, config: LCNNConfig) -> Iterator[nn.Module]:
        time_strides = iter(config.time_strides)
        channels_in = 1
        for kernel, width, followers in _LAYERS:
            num_channels = config.scaled(width)
            yield nn.Conv2d(channels_in, 2 * num_channels, kernel, padding=kernel // 2)
            yield MaxFeatureMap()
            for follower in followers:
                if follower == "pool":
                    yield MaskedMaxPool(next(time_strides), self.masks)
                else:
                    yield MaskedBatchNorm(num_channels, self.masks, affine=False)
            channels_in = num_channels

    def extract(self, image_BCFM: Tensor) -> Tensor:
        """See `ConvNetwork.extract`."""
        return self.layers(image_BCFM)
