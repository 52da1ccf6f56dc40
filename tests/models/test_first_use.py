"""The check before a GPU's first work, on backends that run here: good ones pass, wrong ones are named."""

from types import SimpleNamespace

import pytest
import torch

from fakesound.core.errors import UserError
from fakesound.models.scan import conv, cpu, portable, reference
from fakesound.models.scan.first_use import check_backend, check_kernels


@pytest.mark.parametrize("backend", [portable, cpu, reference], ids=lambda module: module.__name__)
def test_backends_that_agree_pass(backend):
    check_backend("good", backend, reference, "cpu")


def test_it_works_inside_inference_and_autocast_and_leaves_the_seed_alone():
    torch.manual_seed(5)
    want = torch.randn(3)
    torch.manual_seed(5)
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
        check_backend("good", portable, reference, "cpu")
    assert torch.equal(torch.randn(3), want)


def wrong(**functions):
    good = {"selective_scan": portable.selective_scan, "causal_conv_silu": conv.causal_conv_silu}
    return SimpleNamespace(**(good | functions))


class WrongGradient(torch.autograd.Function):
    """The identity, but for a gradient that lacks its last token."""

    @staticmethod
    def forward(ctx, x_BLD):
        return x_BLD.clone()

    @staticmethod
    def backward(ctx, grad_BLD):
        grad_BLD = grad_BLD.clone()
        grad_BLD[:, -1] = 0
        return grad_BLD


@pytest.mark.parametrize(
    ("candidate", "message"),
    [
        (
            wrong(selective_scan=lambda inputs, z, mask: 1.01 * portable.selective_scan(inputs, z, mask)),
            "cuda: scan is wrong on this device: the output differs from the reference by 1e-02",
        ),
        (
            wrong(selective_scan=lambda inputs, z, mask: portable.selective_scan(inputs, z, mask | True)),
            "cuda: scan is wrong on this device: the output",
        ),
        (
            wrong(
                selective_scan=lambda inputs, z, mask: portable.selective_scan(inputs, z, mask) * torch.nan
            ),
            "the output differs from the reference by nan",
        ),
        (
            wrong(causal_conv_silu=lambda x, w, b: conv.causal_conv_silu(WrongGradient.apply(x), w, b)),
            "cuda: convolution is wrong on this device: the gradient of x differs",
        ),
    ],
)
def test_a_wrong_backend_is_refused_with_what_is_wrong(candidate, message):
    with pytest.raises(UserError, match=message) as caught:
        check_backend("cuda", candidate, reference, "cpu")
    assert "fakesound doctor" in str(caught.value) and "FAKESOUND_SCAN_BACKEND" in str(caught.value)


def test_a_backend_that_fails_is_refused_with_its_words():
    def fail(*_):
        raise TypeError("causal_conv1d_fwd(): incompatible function arguments.")

    with pytest.raises(
        UserError, match=r"convolution fails .*TypeError: causal_conv1d_fwd\(\): incompatible"
    ):
        check_backend("cuda", wrong(causal_conv_silu=fail), reference, "cpu")


def test_any_two_functions_can_be_compared():
    inputs = {"x": torch.tensor([0.5, 2.0]), "y": torch.tensor([3.0, -1.0])}
    check_kernels("product", lambda xy: xy[0] * xy[1], lambda xy: xy[1] * xy[0], inputs)
    with pytest.raises(UserError, match="product is wrong on this device: the gradient of y"):
        check_kernels(
            "product", lambda xy: xy[0] * xy[1].detach() + 0 * xy[1], lambda xy: xy[0] * xy[1], inputs
        )
