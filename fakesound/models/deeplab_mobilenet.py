"""DeepLabV3 on MobileNetV3-Large (arXiv 1706.05587, 1905.02244): what the original study ran as its baseline.

The parts are those of torchvision's `deeplabv3_mobilenet_v3_large`: the same dilated backbone, atrous spatial
pyramid (ASPP) and decoder, weight for weight, with fresh weights. Its whole network cannot be used as it
stands: its normalisations, squeeze-and-excitation and ASPP's global pooling all average over padding, and
`mask_layers` puts ours in their place. The stem reads one channel, not three. The decoder's last layer, 1x1
to one logit, is our frame head: averaging its logits over mels is the same as averaging what it reads.

A time step is 16 frames, as in the original; its atrous rates of 12, 24 and 36 steps reach 1.9, 3.8 and 5.8 s
at 10 ms frames. On mels they reach past the image when that has less than 192 bands.

Shapes: B batch, F frames, M mels, C channels, T x W the image in time x mels.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

from torch import Tensor, nn

from fakesound.models.config import DeepLabMobileNetConfig
from fakesound.models.conv_network import ConvNetwork
from fakesound.models.masked import ClipBatchNorm, mask_layers

STEM_CHANNELS = 16
ATROUS_RATES = (12, 24, 36)
DECODER_CHANNELS = 256
TIME_STRIDE = 16
BACKBONE_NORM_EPSILON = 1e-3


class DeepLabMobileNet(ConvNetwork):
    """Dilated backbone, then a pyramid of atrous convolutions and one 3x3 convolution."""

    def __init__(self, config: DeepLabMobileNetConfig) -> None:
        num_channels = config.scaled(DECODER_CHANNELS)
        super().__init__(num_channels=num_channels, time_stride=TIME_STRIDE, dropout=config.dropout)
        self.backbone = _backbone(config)
        last: Any = self.backbone[-1]
        self.decoder = nn.Sequential(
            _pyramid(last.out_channels, num_channels, config.aspp_dropout),
            nn.Conv2d(num_channels, num_channels, kernel_size=3, padding=1, bias=False),
            nn.BatchNorm2d(num_channels),
            nn.ReLU(),
        )
        mask_layers(self, self.masks)

    def extract(self, image_BCFM: Tensor) -> Tensor:
        """See `ConvNetwork.extract`."""
        return self.decoder(self.backbone(image_BCFM))


def _backbone(config: DeepLabMobileNetConfig) -> nn.Sequential:
    """MobileNetV3-Large without its classifier, its last stage dilated."""
    from torchvision.models.mobilenetv3 import InvertedResidual, InvertedResidualConfig, mobilenet_v3_large

    def scaled_block(setting: InvertedResidualConfig, norm_layer: Callable[..., nn.Module]) -> nn.Module:
        # torchvision's own width_mult rounds to multiples of eight: too coarse to match another model's size.
        for name in ("input_channels", "expanded_channels", "out_channels"):
            setattr(setting, name, config.scaled(getattr(setting, name)))
        return InvertedResidual(setting, norm_layer)

    norm = partial(nn.BatchNorm2d, eps=BACKBONE_NORM_EPSILON)
    layers = mobilenet_v3_large(weights=None, dilated=True, block=scaled_block, norm_layer=norm).features
    num_channels = config.scaled(STEM_CHANNELS)
    stem = nn.Conv2d(1, num_channels, kernel_size=3, stride=2, padding=1, bias=False)
    nn.init.kaiming_normal_(stem.weight, mode="fan_out")
    layers[0] = nn.Sequential(stem, norm(num_channels), nn.Hardswish())
    return layers


def _pyramid(channels_in: int, channels_out: int, dropout: float) -> nn.Module:
    from torchvision.models.segmentation.deeplabv3 import ASPP

    pyramid = ASPP(channels_in, ATROUS_RATES, channels_out)
    global_branch: Any = pyramid.convs[-1]
    global_branch[2] = ClipBatchNorm(channels_out)
    pyramid.project[3] = nn.Dropout(dropout)
    return pyramid
