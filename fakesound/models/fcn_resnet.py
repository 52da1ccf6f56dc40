"""FCN-ResNet: residual stages (arXiv 1512.03385) and a fully convolutional frame head (arXiv 1411.4038).

Differences from torchvision's resnet18 and resnet50: the stem reads one channel, not three; there is no
max-pool, and the first stage halves the mel axis in its stead (which costs resnet18 one projection shortcut);
time is divided by 8, not 32, so that frames stay readable; batch normalisation sees valid time steps only.

Shapes: B batch, F frames, M mels, C channels, T x W the image in time x mels at any stage.
"""

import math
from typing import Any

from torch import Tensor, nn

from fakesound.models.config import FCNResNetConfig
from fakesound.models.conv_network import ConvNetwork
from fakesound.models.masked import MaskedBatchNorm

STEM_STRIDE = 2


class FCNResNet(ConvNetwork):
    """Stem and residual stages over the mel image."""

    def __init__(self, config: FCNResNetConfig) -> None:
        from torchvision.models.resnet import BasicBlock, Bottleneck

        block = {"basic": BasicBlock, "bottleneck": Bottleneck}[config.block]
        widths = [config.scaled(width) for width in config.widths]
        super().__init__(
            num_channels=widths[-1] * block.expansion,
            time_stride=STEM_STRIDE * math.prod(config.time_strides),
            dropout=config.dropout,
        )
        num_channels = widths[0]
        self.stem = nn.Sequential(
            nn.Conv2d(1, num_channels, kernel_size=7, stride=STEM_STRIDE, padding=3, bias=False),
            self._norm(num_channels),
            nn.ReLU(inplace=True),
        )
        blocks = []
        for width, depth, time_stride in zip(widths, config.depths, config.time_strides, strict=True):
            for index in range(depth):
                stride = (time_stride, 2) if index == 0 else (1, 1)
                blocks.append(self._make_block(block, num_channels, width, stride))
                num_channels = width * block.expansion
        self.blocks = nn.Sequential(*blocks)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def _norm(self, num_channels: int) -> nn.Module:
        return MaskedBatchNorm(num_channels, self.masks)

    def _make_block(self, block: Any, channels_in: int, width: int, stride: tuple[int, int]) -> nn.Module:
        # torchvision says that the stride is an int, and hands it to Conv2d as it is.
        channels_out = width * block.expansion
        shortcut = None
        if stride != (1, 1) or channels_in != channels_out:
            shortcut = nn.Sequential(
                nn.Conv2d(channels_in, channels_out, kernel_size=1, stride=stride, bias=False),
                self._norm(channels_out),
            )
        return block(channels_in, width, stride=stride, downsample=shortcut, norm_layer=self._norm)

    def extract(self, image_BCFM: Tensor) -> Tensor:
        """See `ConvNetwork.extract`."""
        return self.blocks(self.stem(image_BCFM))
