# ruff: noqa: PLR0917 - scans take their tensors one by one
"""The `cuda` backend's own arithmetic and operators, with stand-ins for the packages, which need a GPU."""

import sys
from concurrent.futures import ThreadPoolExecutor
from types import ModuleType

import pytest
import torch

from fakesound.models.scan import ScanInputs, cuda, portable


def opaque(function):
    """As an autograd function whose inside torch does not record, as it does not record a CUDA kernel's.

    Another thread computes: torch's state is a thread's own, and what an operator switches off is on there.
    """

    def gradients(inputs, grad_y):
        leaves = [tensor.detach().requires_grad_() for tensor in inputs]
        return torch.autograd.grad(function(*leaves), leaves, grad_y)

    class Opaque(torch.autograd.Function):
        @staticmethod
        def forward(ctx, *inputs):
            ctx.save_for_backward(*inputs)
            with ThreadPoolExecutor(1) as other:
                return other.submit(function, *[tensor.detach() for tensor in inputs]).result().detach()

        @staticmethod
        def backward(ctx, grad_y):
            with ThreadPoolExecutor(1) as other:
                return other.submit(gradients, ctx.saved_tensors, grad_y).result()

    return Opaque.apply


@opaque
def scan_of_one_direction(u, delta, A, B, C, D, delta_bias):
    step = torch.nn.functional.softplus(delta + delta_bias[:, None])
    h, ys = torch.zeros(len(u), *A.shape), []
    for t in range(u.shape[2]):
        entering = (step[..., t] * u[..., t])[..., None] * B[:, None, :, t]
        h = torch.exp(step[..., t, None] * A) * h + entering
        ys.append((h * C[:, None, :, t]).sum(2))
    return torch.stack(ys, 2) + D[:, None] * u


@opaque
def conv_of_one_direction(x, weight, bias):
    padded = torch.nn.functional.pad(x, (weight.shape[1] - 1, 0))
    return torch.nn.functional.silu(
        torch.nn.functional.conv1d(padded, weight[:, None], bias, groups=len(weight))
    )


@pytest.fixture(autouse=True)
def _packages(monkeypatch):
    interface = ModuleType("mamba_ssm.ops.selective_scan_interface")
    conv1d = ModuleType("causal_conv1d")

    def selective_scan_fn(*, u, delta, A, B, C, D, z, delta_bias, delta_softplus):
        assert z is None and delta_softplus
        return scan_of_one_direction(u, delta, A, B, C, D, delta_bias)

    def causal_conv1d_fn(*, x, weight, bias, activation):
        assert activation == "silu"
        return conv_of_one_direction(x, weight, bias)

    interface.selective_scan_fn = selective_scan_fn
    conv1d.causal_conv1d_fn = causal_conv1d_fn
    for name in ("mamba_ssm", "mamba_ssm.ops"):
        monkeypatch.setitem(sys.modules, name, ModuleType(name))
    monkeypatch.setitem(sys.modules, interface.__name__, interface)
    monkeypatch.setitem(sys.modules, "causal_conv1d", conv1d)


def mixed(backend, x, z, weight, conv_bias, delta, A, B, C, D, delta_bias, mask):
    """Convolution and scan, one after the other."""
    u = backend.causal_conv_silu(x.masked_fill(~mask[..., None], 0), weight, conv_bias)
    return backend.selective_scan(ScanInputs(u, delta, A, B, C, D, delta_bias), z, mask)


def outputs_and_gradients(function, tensors, mask):
    leaves = [tensor.clone().requires_grad_() for tensor in tensors]
    y = function(*leaves, mask)
    return [y, *torch.autograd.grad(y.square().sum(), leaves)]


def draw(S=2, B=2, L=9, D=4, N=3):
    torch.manual_seed(0)
    shapes = [(B, L, D), (B, L, D), (S, D, 4), (S, D), (S, B, L, D), (S, D, N), (S, B, L, N), (S, B, L, N)]
    tensors = [torch.randn(shape) for shape in [*shapes, (S, D), (S, D)]]
    tensors[5] = -tensors[5].abs()
    return tensors, torch.arange(L) < torch.tensor([[L], [L - 3]])


@pytest.mark.parametrize("compiled", [False, True])
def test_it_computes_what_the_portable_scan_computes(compiled):
    tensors, mask = draw()

    def function(*tensors):
        return mixed(cuda, *tensors)

    if compiled:
        function = torch.compile(function, backend="aot_eager", fullgraph=True)
    want = outputs_and_gradients(lambda *tensors: mixed(portable, *tensors), tensors, mask)
    have = outputs_and_gradients(function, tensors, mask)
    for one, other in zip(want, have, strict=True):
        torch.testing.assert_close(other, one, atol=1e-5, rtol=1e-4)


def test_the_operators_keep_torchs_rules():
    (x, _, weight, bias, delta, A, B, C, D, delta_bias), _ = draw(S=1)
    first = [tensor.transpose(1, 2).contiguous() for tensor in (x, delta[0], B[0], C[0])]
    u, delta, B, C = (tensor.requires_grad_() for tensor in first)
    torch.library.opcheck(cuda._scan_operator, (u, delta, A[0], B, C, D[0], delta_bias[0]))
    torch.library.opcheck(cuda._conv_operator, (u, weight[0].requires_grad_(), bias[0]))
