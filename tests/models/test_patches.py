"""The rule of the grid: covering, counting and cutting patches, overlapping or not; reading frames back."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fakesound.models.patches import PatchAxis, read_at_frames, to_patches

axes = st.integers(1, 40).flatmap(
    lambda length: st.builds(PatchAxis, st.just(length), st.integers(1, length))
)


@given(axis=axes, size=st.integers(1, 300))
def test_patches_cover_an_axis_and_none_is_without_something_of_its_own(axis, size):
    count = axis.count(size)
    end = (count - 1) * axis.stride + axis.length
    assert end == size + axis.missing(size)
    assert end >= size
    assert count == 1 or end - axis.stride < size
    assert axis.counts(torch.tensor([size, size + 1])).tolist() == [count, axis.count(size + 1)]


@given(axis=axes, size=st.integers(1, 300))
def test_a_frame_in_the_middle_of_a_patch_reads_that_patch(axis, size):
    centres = torch.arange(axis.count(size)) * axis.stride + axis.length / 2 - 0.5
    torch.testing.assert_close(axis.positions(centres), torch.arange(axis.count(size)).float())


@pytest.mark.parametrize(("num_frames", "num_mels"), [(1, 1), (4, 3), (5, 4), (23, 17)])
def test_overlapping_patches_are_what_a_strided_convolution_sees(num_frames, num_mels):
    image = torch.randn(2, num_frames, num_mels)
    time, frequency = PatchAxis(4, 3), PatchAxis(5, 2)
    kernels = torch.randn(6, 4, 5)
    have = to_patches(image, time, frequency) @ kernels.flatten(1).T
    padded = torch.nn.functional.pad(image, (0, frequency.missing(num_mels), 0, time.missing(num_frames)))
    want = torch.nn.functional.conv2d(padded[:, None], kernels[:, None], stride=(3, 2))
    torch.testing.assert_close(have.permute(0, 3, 1, 2), want, atol=1e-5, rtol=1e-5)


def test_patches_run_along_frequency_first_and_frames_read_their_own_patch():
    image = torch.arange(7.0)[None, :, None] * 100 + torch.arange(5.0)
    grid = to_patches(image, PatchAxis(4, 4), PatchAxis(3, 3))
    assert grid.shape == (1, 2, 2, 12)
    assert grid[0, 0, 0].tolist() == [0, 1, 2, 100, 101, 102, 200, 201, 202, 300, 301, 302]
    assert grid[0, 1, 1].tolist() == [403, 404, 0, 503, 504, 0, 603, 604, 0, 0, 0, 0]


def test_interpolation_is_linear_and_constant_beyond_the_last_valid_step():
    values = torch.tensor([[0.0, 10.0, 20.0, 99.0]])
    position = torch.tensor([-0.4, 0.0, 0.5, 1.75, 2.0, 2.6, 3.0])
    have = read_at_frames(values, torch.tensor([3]), position)
    torch.testing.assert_close(have, torch.tensor([[0.0, 0.0, 5.0, 17.5, 20.0, 20.0, 20.0]]))


def test_interpolation_equals_torch_interpolate_on_whole_patches():
    values = torch.randn(2, 5)
    position = (torch.arange(40) + 0.5) / 8 - 0.5
    want = torch.nn.functional.interpolate(values[:, None], size=40, mode="linear", align_corners=False)
    torch.testing.assert_close(read_at_frames(values, torch.tensor([5, 5]), position), want[:, 0])
