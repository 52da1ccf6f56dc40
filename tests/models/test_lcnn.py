"""LCNN against the published widths, and its activation."""

import torch
from torch import nn

from fakesound.models.config import LCNNConfig
from fakesound.models.lcnn import LCNN, MaxFeatureMap

# Conv2d(in, out, kernel) of the ASVspoof 2021 baseline LFCC-LCNN, each followed by the max of two halves.
PUBLISHED = [
    *((1, 64, 5), (32, 64, 1), (32, 96, 3), (48, 96, 1), (48, 128, 3)),
    *((64, 128, 1), (64, 64, 3), (32, 64, 1), (32, 64, 3)),
]


def test_convolutions_are_the_published_ones():
    convolutions = [module for module in LCNN(LCNNConfig()).modules() if isinstance(module, nn.Conv2d)]
    assert [(c.in_channels, c.out_channels, *set(c.kernel_size)) for c in convolutions] == PUBLISHED
    num_weights = sum(p.numel() for c in convolutions for p in c.parameters())
    assert num_weights == sum(out * (channels * kernel**2 + 1) for channels, out, kernel in PUBLISHED)


def test_only_convolutions_and_heads_have_weights():
    network = LCNN(LCNNConfig())
    others = {name for name, _ in network.named_parameters() if not name.startswith("layers.")}
    assert others == {"frame_head.weight", "frame_head.bias", "clip_head.weight", "clip_head.bias"}


def test_each_channel_is_the_larger_of_its_two_candidates():
    candidates = torch.tensor([1.0, -5.0, -2.0, 3.0]).reshape(1, 4, 1, 1)
    assert MaxFeatureMap()(candidates).flatten().tolist() == [1, 3]


def test_time_steps_are_as_long_as_the_strides_say():
    for strides, length in (((2, 2, 1, 1), 4), ((2, 2, 2, 2), 16), ((1, 1, 1, 1), 1)):
        network = LCNN(LCNNConfig(width_multiplier=0.1, time_strides=strides))
        assert network.time_stride == length
        network.masks.set(torch.ones(1, 33, dtype=torch.bool), num_halvings=4)
        assert network.extract(torch.randn(1, 1, 33, 20)).shape[2:] == (-(-33 // length), 2)
