"""FCN-ResNet's sizes against torchvision's networks."""

import pytest
import torch
from torchvision.models import resnet18, resnet50

from fakesound.models.config import FCNResNetConfig
from fakesound.models.detector import count_parameters
from fakesound.models.fcn_resnet import FCNResNet

# The first stage halves the mel axis where torchvision's max-pool would, hence a projection of 64 to 64
# channels and its normalisation; resnet50 has a projection there anyway.
SHORTCUT_OF_THE_FIRST_STAGE = 64 * 64 + 2 * 64


@pytest.mark.parametrize(
    ("size", "published", "width", "added"),
    [("18", resnet18, 512, SHORTCUT_OF_THE_FIRST_STAGE), ("50", resnet50, 2048, 0)],
)
def test_parameters_are_torchvisions_but_for_stem_heads_and_one_shortcut(size, published, width, added):
    with torch.device("meta"):
        ours = count_parameters(FCNResNet(FCNResNetConfig.of_size(size)))
        theirs = count_parameters(published(weights=None))
    classifier = 1000 * (width + 1)
    two_colours_of_the_stem = 2 * 64 * 7 * 7
    heads = (width + 1) + (2 * width + 1)
    assert ours == theirs - classifier - two_colours_of_the_stem + heads + added


@pytest.mark.parametrize("size", FCNResNetConfig.SIZES)
def test_a_step_is_eight_frames_in_every_size(size):
    with torch.device("meta"):
        assert FCNResNet(FCNResNetConfig.of_size(size)).time_stride == 8


def test_micro_is_the_default():
    assert FCNResNetConfig.of_size("micro") == FCNResNetConfig()


def test_width_multiplier_scales_every_layer():
    with torch.device("meta"):
        doubled = FCNResNet(FCNResNetConfig(width_multiplier=2.0))
        wide = FCNResNet(FCNResNetConfig(widths=(32, 64, 128, 256)))
    assert [p.shape for p in doubled.parameters()] == [p.shape for p in wide.parameters()]
