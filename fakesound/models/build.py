"""From a configuration to a detector: the one place that knows all models."""

from fakesound.models.config import FCNResNetConfig, VisionMambaConfig
from fakesound.models.detector import Detector


def build_detector(config: VisionMambaConfig | FCNResNetConfig, num_mels: int) -> Detector:
    """A detector with fresh weights, drawn from torch's global generator."""
    # Imported on demand: torchvision alone takes seconds, and ViM does not need it.
    if isinstance(config, VisionMambaConfig):
        from fakesound.models.vim import VisionMamba

        return Detector(VisionMamba(config, num_mels), num_mels)
    from fakesound.models.fcn_resnet import FCNResNet

    return Detector(FCNResNet(config), num_mels)
