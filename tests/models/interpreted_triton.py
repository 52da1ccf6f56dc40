"""What the Triton kernels compute, by Triton's interpreter on the CPU.

`test_scan_triton.py` runs this file in a process of its own, for TRITON_INTERPRET=1 must be set before triton
is first imported.
"""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from test_scan import assert_close_to_float64, draw_inputs, is_sequence, outputs_and_gradients, scan
from triton.runtime import interpreter

from fakesound.models.config import VisionMambaConfig
from fakesound.models.scan import causal_conv_silu
from fakesound.models.scan import triton as backend
from fakesound.models.vim import BidirectionalMixer

TRUNCATED = 2**-7  # the interpreter cuts off what bfloat16 cannot hold; a GPU rounds


@pytest.fixture(autouse=True, scope="module")
def patched_once():
    """The interpreter patches triton.language anew at every call of a function: most of its time."""
    patch, scopes = interpreter._patch_lang, {}

    class Lasting:
        def restore(self):
            pass

    def patch_once(function):
        if function.__module__ not in scopes:
            scopes[function.__module__] = patch(function)
        return Lasting()

    interpreter._patch_lang = patch_once
    yield
    interpreter._patch_lang = patch


@settings(max_examples=3, deadline=None, derandomize=True)
@given(
    sizes=st.fixed_dictionaries(
        {
            "S": st.integers(1, 2),
            "B": st.integers(1, 2),
            "L": st.integers(1, 12),
            "D": st.integers(1, 9),
            "N": st.integers(1, 2),
        }
    ),
    largest_step=st.sampled_from([0.1, 10.0]),
    seed=st.integers(0, 99),
    masked=st.booleans(),
)
def test_outputs_and_all_gradients_are_those_of_float64(sizes, largest_step, seed, masked):
    tensors = draw_inputs(**sizes, largest_step=largest_step, seed=seed)
    generator = torch.Generator().manual_seed(seed)
    mask = torch.rand(sizes["B"], sizes["L"], generator=generator) > (0.3 if masked else -1)
    assert_close_to_float64(tensors, mask, "triton")


def test_many_channels_several_chunks_and_large_steps():
    tensors = draw_inputs(B=1, L=17, D=66, N=1, largest_step=10)
    assert_close_to_float64(tensors, torch.arange(17)[None] != 11, "triton")


def test_large_state():
    assert_close_to_float64(
        draw_inputs(B=1, L=3, D=2, N=64, largest_step=10), torch.ones(1, 3, dtype=torch.bool), "triton"
    )


def test_small_steps_keep_their_relative_precision():
    tensors = draw_inputs(B=1, L=9, D=3, N=2)
    tensors[1] -= 12.0  # softplus: about 1e-5
    assert_close_to_float64(tensors, torch.ones(1, 9, dtype=torch.bool), "triton")


def test_masked_tokens_influence_nothing_and_get_no_gradient():
    clean = draw_inputs(B=2, L=10, D=5, N=1)
    mask = torch.arange(10) < torch.tensor([[10], [7]])
    dirty = [tensor.clone() for tensor in clean]
    for tensor in dirty:
        if is_sequence(tensor, 2, 10):
            tensor.masked_fill_(~mask[..., None], float("nan"))
    want = outputs_and_gradients(clean, mask, "triton", torch.float32)
    have = outputs_and_gradients(dirty, mask, "triton", torch.float32)
    for w, h in zip(want, have, strict=True):
        assert torch.equal(w, h)
        if is_sequence(w, 2, 10):
            assert (w.masked_fill(mask[..., None], 0) == 0).all()


def test_half_precision_is_read_as_it_comes_and_computed_in_single():
    """Rates, skips and biases stay in single precision, and so do their gradients."""
    single = (2, 5, 6)
    tensors = draw_inputs(B=1, L=12, D=6, N=2)
    leaves = [
        (tensor.float() if k in single else tensor.to(torch.float16 if k == 3 else torch.bfloat16))
        for k, tensor in enumerate(tensors)
    ]
    mask = torch.ones(1, 12, dtype=torch.bool)
    results = []
    for name, dtype in (("triton", None), ("reference", torch.float64)):
        inputs = [leaf.to(dtype or leaf.dtype).requires_grad_() for leaf in leaves]
        y = scan(inputs, mask, name)
        results.append([y, *torch.autograd.grad(y, inputs, torch.ones_like(y))])
    for k, (have, want) in enumerate(zip(*results, strict=True)):
        assert have.dtype == (leaves[k - 1].dtype if k else torch.bfloat16)
        tolerance = 1e-5 if k - 1 in single else TRUNCATED
        assert (have.double() - want).abs().max() <= tolerance * want.abs().max()


def test_views_are_read_where_they_lie():
    """As the mixer passes them: z half of one projection, B and C parts of another; gradients expanded."""
    tensors = draw_inputs(B=2, L=8, D=6, N=2, dtype=torch.float32)
    mask = torch.ones(2, 8, dtype=torch.bool)
    views = list(tensors)
    views[3], views[4] = torch.cat([tensors[3], tensors[4]], dim=-1).split(2, dim=-1)
    views[7] = torch.cat([tensors[0][0], tensors[7]], dim=-1).chunk(2, dim=-1)[1]
    results = []
    for inputs in (tensors, views):
        leaves = [tensor.detach().requires_grad_() for tensor in inputs]
        results.append(torch.autograd.grad(scan(leaves, mask, "triton").sum(), leaves))
    for one, other in zip(*results, strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize(
    ("directions", "num_tokens", "num_channels", "taps"), [(2, 1, 1, 4), (1, 9, 5, 3), (2, 19, 130, 4)]
)
def test_convolution_equals_the_float64_one(directions, num_tokens, num_channels, taps):
    generator = torch.Generator().manual_seed(0)
    shapes = [(2, num_tokens, 2 * num_channels), (directions, num_channels, taps), (directions, num_channels)]
    leaves = [torch.randn(*shape, generator=generator, dtype=torch.float64) for shape in shapes]
    results = []
    for name, dtype in (("reference", torch.float64), ("triton", torch.float32)):
        inputs = [leaf.to(dtype).requires_grad_() for leaf in leaves]
        x = inputs[0].chunk(2, dim=-1)[0]
        u = causal_conv_silu(x, *inputs[1:], backend=name)
        results.append([u, *torch.autograd.grad(u.square().sum(), inputs)])
    for want, have in zip(*results, strict=True):
        assert (have.double() - want).abs().max() <= 1e-5 * want.abs().max()


def test_convolution_of_half_precision_is_summed_in_single():
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(1, 9, 5, generator=generator).bfloat16()
    weight, bias = torch.randn(2, 5, 4, generator=generator), torch.randn(2, 5, generator=generator)
    u = causal_conv_silu(x, weight, bias, backend="triton")
    want = causal_conv_silu(x.double(), weight.double(), bias.double(), backend="reference")
    assert u.dtype == torch.bfloat16
    assert (u.double() - want).abs().max() <= TRUNCATED * want.abs().max()


def test_operators_are_registered_as_torch_compile_wants_them():
    inputs = draw_inputs(B=1, L=5, D=3, N=2, dtype=torch.float32)
    mask = torch.tensor([[True, True, False, True, True]])
    leaves = [tensor.requires_grad_() for tensor in inputs]
    torch.library.opcheck(backend._scan, (*leaves, mask))
    conv = [torch.randn(1, 5, 3), torch.randn(2, 3, 4), torch.randn(2, 3)]
    torch.library.opcheck(backend._conv, tuple(tensor.requires_grad_() for tensor in conv))


def test_mixer_compiles_without_a_graph_break(monkeypatch):
    torch.manual_seed(0)
    mixer = BidirectionalMixer(VisionMambaConfig(embed_dim=8, d_state=2, depth=1))
    hidden, mask = torch.randn(1, 6, 8), torch.tensor([[True] * 5 + [False]])
    results = []
    for name, call in (
        ("portable", mixer),
        ("triton", torch.compile(mixer, backend="aot_eager", fullgraph=True)),
    ):
        monkeypatch.setenv("FAKESOUND_SCAN_BACKEND", name)
        y = call(hidden, mask)
        results.append([y, *torch.autograd.grad(y.square().sum(), list(mixer.parameters()))])
    for want, have in zip(*results, strict=True):
        torch.testing.assert_close(have, want, rtol=1e-4, atol=1e-6)


def test_empty_batches_pass():
    tensors = draw_inputs(B=0, L=3, D=2, N=2, dtype=torch.float32)
    assert scan(tensors, torch.ones(0, 3, dtype=torch.bool), "triton").shape == (0, 3, 2)
