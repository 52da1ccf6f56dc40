"""The heads that all convolutional models share, against their definition on clips cut to their length."""

import torch

from fakesound.models.conv_network import ConvNetwork
from fakesound.models.patches import read_at_frames


class EverySecondFrame(ConvNetwork):
    """Its features are the mel image below zero, so that a padding of zeros would win every maximum."""

    def __init__(self):
        super().__init__(num_channels=1, time_stride=2, dropout=0.0)

    def extract(self, image_BCFM):
        image = image_BCFM[:, :, ::2] - 9
        return image.masked_fill(self.masks.padding_at(image.shape[2]), 0)


def test_heads_read_each_clips_own_steps():
    torch.manual_seed(0)
    network = EverySecondFrame()
    lengths = [9, 1, 6]
    image = torch.randn(3, 9, 4)
    clip_logits, frame_logits = network(image, torch.arange(9) < torch.tensor(lengths)[:, None])
    for index, length in enumerate(lengths):
        steps = (image[index, :length:2] - 9).mean(1)
        pooled = torch.stack([steps.mean(), steps.max()])
        torch.testing.assert_close(clip_logits[index], network.clip_head(pooled)[0])
        logits = steps * network.frame_head.weight.squeeze() + network.frame_head.bias
        frames = read_at_frames(logits[None], torch.tensor([len(steps)]), torch.arange(length) / 2)[0]
        torch.testing.assert_close(frame_logits[index, :length], frames)


class PairsOfFrames(ConvNetwork):
    """Its steps are means of two frames, which lie between the two."""

    def __init__(self):
        super().__init__(num_channels=1, time_stride=2, dropout=0.0, first_centre_frames=0.5)

    def extract(self, image_BCFM):
        return image_BCFM.unflatten(2, (-1, 2)).mean(3)


def test_pooled_steps_are_read_at_the_middle_of_what_was_pooled():
    network = PairsOfFrames()
    ramp = torch.arange(8.0)[None, :, None]
    _, frame_logits = network(ramp, torch.ones(1, 8, dtype=torch.bool))
    want = torch.arange(8.0).clamp(0.5, 6.5) * network.frame_head.weight.squeeze() + network.frame_head.bias
    torch.testing.assert_close(frame_logits[0], want)
