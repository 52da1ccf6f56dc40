"""Layers that average and pool over valid steps only, against loops over clips cut to their length."""

import pytest
import torch
from torch import nn

from fakesound.models.masked import (
    ClipBatchNorm,
    MaskedBatchNorm,
    MaskedMaxPool,
    MaskedMean,
    TimeMasks,
    mask_layers,
)

LENGTHS = [7, 1, 4, 5]


@pytest.fixture
def masks():
    masks = TimeMasks()
    masks.set(torch.arange(7) < torch.tensor(LENGTHS)[:, None], num_halvings=1)
    return masks


def image(masks, num_channels=3):
    """Drawn below zero, so that a padding of zeros would win every maximum."""
    torch.manual_seed(0)
    return torch.randn(4, num_channels, 7, 5).sub(9).masked_fill(masks.padding_at(7), 0)


def test_batch_norm_sees_what_all_valid_steps_together_give(masks):
    drawn = image(masks)
    valid = torch.cat([drawn[i, :, :length] for i, length in enumerate(LENGTHS)], dim=1)[None]
    ours, theirs = MaskedBatchNorm(3, masks), nn.BatchNorm2d(3)
    want = theirs(valid)[0].split(LENGTHS, dim=1)
    have = ours(drawn)
    for index, length in enumerate(LENGTHS):
        torch.testing.assert_close(have[index, :, :length], want[index])
        assert not have[index, :, length:].any()
    torch.testing.assert_close(ours.running_var, theirs.running_var)


def test_mean_is_each_clips_own(masks):
    drawn = image(masks)
    want = torch.stack([drawn[i, :, :length].mean((1, 2)) for i, length in enumerate(LENGTHS)])
    torch.testing.assert_close(MaskedMean(masks)(drawn)[..., 0, 0], want)


@pytest.mark.parametrize("time_stride", [1, 2])
def test_max_pool_takes_the_largest_of_the_clips_own(masks, time_stride):
    drawn = image(masks)
    have = MaskedMaxPool(time_stride, masks)(drawn)
    assert have.shape == (4, 3, -(-7 // time_stride), 3)
    for index, length in enumerate(LENGTHS):
        steps = -(-length // time_stride)
        for t in range(steps):
            for w in range(3):
                own = drawn[index, :, :length][:, t * time_stride : (t + 1) * time_stride, 2 * w : 2 * w + 2]
                assert torch.equal(have[index, :, t, w], own.amax((1, 2)))
        assert not have[index, :, steps:].any()


def test_one_clip_is_normalised_by_the_running_statistics():
    norm, values = ClipBatchNorm(3), torch.randn(1, 3, 1, 1)
    norm(torch.randn(8, 3, 1, 1) + 5)
    want = (values[0, :, 0, 0] - norm.running_mean) / (norm.running_var + norm.eps).sqrt()
    torch.testing.assert_close(norm(values)[0, :, 0, 0], want)
    torch.testing.assert_close(norm.eval()(values)[0, :, 0, 0], want)


def test_layers_of_others_are_replaced_in_place_and_ours_are_left(masks):
    ours = ClipBatchNorm(2)
    network = nn.Sequential(
        nn.Conv2d(1, 2, 1), nn.Sequential(nn.BatchNorm2d(2, eps=0.25), nn.AdaptiveAvgPool2d(1)), ours
    )
    mask_layers(network, masks)
    norm, mean = network[1]
    assert isinstance(norm, MaskedBatchNorm)
    assert norm.eps == 0.25
    assert isinstance(mean, MaskedMean)
    assert network[2] is ours
