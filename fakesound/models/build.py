"""From a configuration to a detector: the one place that knows all models."""

from torch import nn

from fakesound.models.config import (
    DeepLabMobileNetConfig,
    FCNResNetConfig,
    LCNNConfig,
    Mamba2Config,
    ModelConfig,
    TransformerConfig,
    VisionMambaConfig,
)
from fakesound.models.detector import Detector


def build_detector(config: ModelConfig, num_mels: int) -> Detector:
    """A detector with fresh weights, drawn from torch's global generator."""
    return Detector(_build_network(config, num_mels), num_mels)


def _build_network(config: ModelConfig, num_mels: int) -> nn.Module:
    # Imported on demand: torchvision alone takes seconds, and ViM does not need it.
    match config:
        case VisionMambaConfig():
            from fakesound.models.vim import VisionMamba

            return VisionMamba(config, num_mels)
        case TransformerConfig():
            from fakesound.models.transformer import Transformer

            return Transformer(config, num_mels)
        case Mamba2Config():
            from fakesound.models.mamba2 import Mamba2

            return Mamba2(config, num_mels)
        case FCNResNetConfig():
            from fakesound.models.fcn_resnet import FCNResNet

            return FCNResNet(config)
        case DeepLabMobileNetConfig():
            from fakesound.models.deeplab_mobilenet import DeepLabMobileNet

            return DeepLabMobileNet(config)
        case LCNNConfig():
            from fakesound.models.lcnn import LCNN

            return LCNN(config)
