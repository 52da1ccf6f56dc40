"""The scans: the reference against its formula in plain loops, every backend against the reference."""

import importlib.util
import sys

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fakesound.core.errors import UserError
from fakesound.models import scan as scan_package
from fakesound.models.scan import (
    _OBSTACLES,
    ScanInputs,
    _check_once,
    _choose,
    causal_conv_silu,
    choose_backend,
    selective_scan,
)

BACKENDS_HERE = ("reference", "portable", "numba")
NAMES = (*ScanInputs._fields, "z_BLD")


def draw_inputs(*, B, L, D, N, S=2, largest_step=1.0, seed=0, dtype=torch.float64):
    """The scan's inputs and the gate, all leaves; step sizes reach `largest_step`."""
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape):
        return torch.randn(*shape, generator=generator, dtype=dtype)

    step = torch.rand(S, B, L, D, generator=generator, dtype=dtype) * largest_step
    A = -torch.rand(S, D, N, generator=generator, dtype=dtype) * N - 0.01
    bias = torch.rand(S, D, generator=generator, dtype=dtype) - 1
    sequences = normal(S, B, L, D), step, A, normal(S, B, L, N), normal(S, B, L, N)
    return [*sequences, normal(S, D), bias, normal(B, L, D)]


def scan(tensors, mask, backend):
    return selective_scan(ScanInputs(*tensors[:7]), tensors[7], mask, backend=backend)


def is_sequence(tensor, B, L):
    return (B, L) in (tensor.shape[:2], tensor.shape[1:3])


def outputs_and_gradients(tensors, mask, backend, dtype):
    leaves = [tensor.to(dtype).requires_grad_() for tensor in tensors]
    y = scan(leaves, mask, backend)
    weights = torch.randn(y.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    gradients = torch.autograd.grad((y * weights.to(y)).sum(), leaves)
    return [y.detach(), *gradients]


def assert_close_to_float64(tensors, mask, backend, tolerance=1e-5):
    expected = outputs_and_gradients(tensors, mask, "reference", torch.float64)
    found = outputs_and_gradients(tensors, mask, backend, torch.float32)
    for name, want, have in zip(("y", *NAMES), expected, found, strict=True):
        scale = want.abs().max().item() or 1.0
        assert (have.double() - want).abs().max().item() <= tolerance * scale, name


def loop_in_float64(inputs, direction, mask, order):
    """h = exp(delta A) h + delta B u; y = C h + D u, one number at a time."""
    u, raw, A, B, C, D, bias = (tensor[direction].numpy() for tensor in inputs)
    y = np.zeros_like(u)
    for b, d in np.ndindex(u.shape[0], u.shape[2]):
        h = np.zeros(A.shape[1])
        for t in order:
            if not mask[b, t]:
                continue
            delta = np.log1p(np.exp(raw[b, t, d] + bias[d]))
            for n in range(A.shape[1]):
                h[n] = np.exp(delta * A[d, n]) * h[n] + delta * B[b, t, n] * u[b, t, d]
            y[b, t, d] = (C[b, t] * h).sum() + D[d] * u[b, t, d]
    return y


def test_reference_equals_the_formula_in_plain_loops():
    tensors = draw_inputs(B=2, L=9, D=3, N=4, largest_step=10)
    mask = torch.tensor([[True] * 9, [True] * 6 + [False] * 3])
    forward = loop_in_float64(tensors[:7], 0, mask, range(9))
    backward = loop_in_float64(tensors[:7], 1, mask, range(8, -1, -1))
    gate = torch.nn.functional.silu(tensors[7]).numpy()
    np.testing.assert_allclose(scan(tensors, mask, "reference"), (forward + backward) / 2 * gate, atol=1e-12)


@pytest.mark.parametrize("backend", ["reference", "portable"])
def test_gradients_in_float64_equal_finite_differences(backend):
    tensors = [tensor.requires_grad_() for tensor in draw_inputs(B=1, L=4, D=2, N=2)]
    mask = torch.tensor([[True, True, True, False]])
    assert torch.autograd.gradcheck(lambda *leaves: scan(leaves, mask, backend), tensors, fast_mode=True)


@pytest.mark.parametrize("backend", ["portable", "numba"])
@settings(max_examples=12, deadline=None, derandomize=True)
@given(
    sizes=st.fixed_dictionaries(
        {
            "B": st.integers(1, 3),
            "L": st.integers(1, 40),
            "D": st.sampled_from([1, 7, 64, 191, 192, 193]),
            "N": st.integers(1, 17),
        }
    ),
    largest_step=st.sampled_from([0.1, 1.0, 10.0]),
    seed=st.integers(0, 99),
    masked=st.booleans(),
)
def test_outputs_and_all_gradients_are_those_of_float64(backend, sizes, largest_step, seed, masked):
    tensors = draw_inputs(**sizes, largest_step=largest_step, seed=seed)
    generator = torch.Generator().manual_seed(seed)
    mask = torch.rand(sizes["B"], sizes["L"], generator=generator) > (0.3 if masked else -1)
    assert_close_to_float64(tensors, mask, backend)


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("backend", ["portable", "numba"])
def test_long_sequences_keep_their_precision(backend, masked):
    tensors = draw_inputs(B=1, L=4096, D=5, N=16, largest_step=10)
    assert_close_to_float64(tensors, torch.arange(4096)[None] < (3900 if masked else 4096), backend)


@pytest.mark.parametrize("backend", ["portable", "numba"])
def test_states_up_to_64_and_channels_beyond_a_block(backend):
    tensors = draw_inputs(B=2, L=37, D=200, N=64, largest_step=10)
    assert_close_to_float64(tensors, torch.arange(37) < torch.tensor([[37], [20]]), backend)


def test_compiled_operators_keep_torchs_rules():
    """Their shapes without data, their gradients, and no output that is an input."""
    inputs = [tensor.float().requires_grad_() for tensor in draw_inputs(B=2, L=9, D=5, N=3)]
    mask = torch.arange(9) < torch.tensor([[9], [4]])
    scan_cpu = torch.ops.fakesound.selective_scan_cpu
    torch.library.opcheck(scan_cpu, (*inputs, mask, True))
    torch.library.opcheck(scan_cpu, (*(tensor.detach() for tensor in inputs), mask, False))
    conv = [torch.randn(*shape, requires_grad=True) for shape in ((2, 9, 5), (2, 5, 4), (2, 5))]
    torch.library.opcheck(torch.ops.fakesound.causal_conv_silu_cpu, conv)


def test_without_gradients_no_states_are_kept():
    inputs = [tensor.float() for tensor in draw_inputs(B=1, L=9, D=5, N=3)]
    _, starts = torch.ops.fakesound.selective_scan_cpu(*inputs, torch.ones(1, 9, dtype=torch.bool), False)
    assert starts.numel() == 0


@pytest.mark.parametrize("backend", BACKENDS_HERE)
def test_masked_tokens_influence_nothing_and_get_no_gradient(backend):
    clean = draw_inputs(B=2, L=20, D=5, N=3)
    mask = torch.arange(20) < torch.tensor([[20], [11]])
    dirty = [tensor.clone() for tensor in clean]
    for tensor in dirty:
        if is_sequence(tensor, 2, 20):
            tensor.masked_fill_(~mask[..., None], float("nan"))
    want = outputs_and_gradients(clean, mask, backend, torch.float32)
    have = outputs_and_gradients(dirty, mask, backend, torch.float32)
    for w, h in zip(want, have, strict=True):
        assert torch.equal(w, h)
        if is_sequence(w, 2, 20):
            assert (w.masked_fill(mask[..., None], 0) == 0).all()


@pytest.mark.parametrize("backend", BACKENDS_HERE)
def test_second_direction_is_the_first_one_on_flipped_tokens(backend):
    tensors = draw_inputs(B=2, L=12, D=4, N=3)
    whole = torch.ones(2, 12, dtype=torch.bool)
    swapped = [tensor.flip(0, 2) if tensor.ndim == 4 else tensor.flip(0) for tensor in tensors[:7]]
    have = scan([*swapped, tensors[7].flip(1)], whole, backend).flip(1)
    torch.testing.assert_close(have, scan(tensors, whole, backend), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("backend", BACKENDS_HERE)
def test_both_directions_are_the_mean_of_each_alone(backend):
    tensors = draw_inputs(B=2, L=12, D=4, N=3)
    mask = torch.arange(12) < torch.tensor([[12], [7]])
    forward = scan([*(tensor[:1] for tensor in tensors[:7]), tensors[7]], mask, backend)
    none = [torch.zeros_like(tensors[0]), *tensors[1:7], tensors[7]]
    none[0][0] = tensors[0][0]
    torch.testing.assert_close(scan(none, mask, backend), forward / 2, atol=1e-5, rtol=1e-5)


def test_numba_is_deterministic_and_independent_of_the_number_of_threads():
    tensors = draw_inputs(B=3, L=33, D=400, N=16)
    whole = torch.ones(3, 33, dtype=torch.bool)
    before = torch.get_num_threads()
    try:
        results = []
        for threads in (1, 2, 2):
            torch.set_num_threads(threads)
            results.append(outputs_and_gradients(tensors, whole, "numba", torch.float32))
    finally:
        torch.set_num_threads(before)
    for other in results[1:]:
        for one, two in zip(results[0], other, strict=True):
            torch.testing.assert_close(one, two, rtol=1e-6, atol=1e-6)
    assert all(torch.equal(one, two) for one, two in zip(*results[1:], strict=True))


def test_half_precision_inputs_are_scanned_in_single_precision():
    tensors = draw_inputs(B=1, L=30, D=8, N=4)
    mask = torch.ones(1, 30, dtype=torch.bool)
    rounded = [tensor.bfloat16() for tensor in tensors]
    y = scan(rounded, mask, "numba")
    assert y.dtype == torch.bfloat16
    want = scan([tensor.double() for tensor in rounded], mask, "reference")
    assert ((y.double() - want).abs().max() / want.abs().max()).item() < 0.02


@pytest.mark.parametrize(("num_tokens", "num_channels"), [(1, 1), (2, 65), (9, 200)])
def test_compiled_convolution_equals_the_portable_one(num_tokens, num_channels):
    generator = torch.Generator().manual_seed(0)
    shapes = [(3, num_tokens, num_channels), (2, num_channels, 4), (2, num_channels)]
    leaves = [torch.randn(*shape, generator=generator).requires_grad_() for shape in shapes]
    results = []
    for backend in ("portable", "numba"):
        u = causal_conv_silu(*leaves, backend=backend)
        results.append([u, *torch.autograd.grad(u.square().sum(), leaves)])
    for want, have in zip(*results, strict=True):
        torch.testing.assert_close(have, want, atol=1e-5, rtol=1e-5)


def test_convolution_equals_torch_conv1d():
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(2, 7, 3, generator=generator, dtype=torch.float64)
    weight = torch.randn(2, 3, 4, generator=generator, dtype=torch.float64)
    bias = torch.randn(2, 3, generator=generator, dtype=torch.float64)
    have = causal_conv_silu(x, weight, bias, backend="portable")
    for reverse in (False, True):
        seen = x.flip(1) if reverse else x
        padded = torch.nn.functional.pad(seen.transpose(1, 2), (3, 0))
        want = torch.nn.functional.conv1d(padded, weight[int(reverse), :, None], bias[int(reverse)], groups=3)
        want = torch.nn.functional.silu(want).transpose(1, 2)
        torch.testing.assert_close(have[int(reverse)], want.flip(1) if reverse else want)
    leaves = [tensor.requires_grad_() for tensor in (x, weight, bias)]
    assert torch.autograd.gradcheck(lambda *args: causal_conv_silu(*args, backend="portable"), leaves)


def test_choice_of_backend_can_be_forced(monkeypatch):
    monkeypatch.delenv("FAKESOUND_SCAN_BACKEND", raising=False)
    assert choose_backend("cpu").name == "numba"
    assert choose_backend("cpu", "reference").name == "reference"
    monkeypatch.setenv("FAKESOUND_SCAN_BACKEND", "portable")
    assert choose_backend(torch.device("cpu")).name == "portable"
    monkeypatch.setenv("FAKESOUND_SCAN_BACKEND", "abacus")
    with pytest.raises(UserError, match="known: reference, portable, numba, cuda, triton"):
        choose_backend("cpu")


@pytest.mark.skipif(torch.cuda.is_available(), reason="says what happens without CUDA")
def test_cuda_backend_is_refused_without_cuda():
    _choose.cache_clear()  # another test may have asked while it pretended to have a GPU
    with pytest.raises(UserError, match="cannot run on cpu here: it needs a CUDA device"):
        choose_backend("cpu", "cuda")
    choice = choose_backend("cuda")
    assert choice.name == "portable"
    assert "no CUDA device" in choice.reason
    assert "mamba-ssm" in choice.faster_hint
    assert "mamba_ssm" not in sys.modules


@pytest.fixture
def imaginary_gpu(monkeypatch):
    monkeypatch.delenv("FAKESOUND_SCAN_BACKEND", raising=False)
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    monkeypatch.setenv("CC", "cc")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(scan_package.Path, "exists", lambda path: True)  # Python.h
    monkeypatch.setitem(_OBSTACLES, "cuda", lambda _: "mamba-ssm does not import")
    _choose.cache_clear()
    yield monkeypatch
    _choose.cache_clear()  # what was chosen for the imaginary GPU must not outlive it


def test_triton_runs_on_a_gpu_that_has_no_mamba_ssm(imaginary_gpu):
    choice = choose_backend("cuda")
    assert choice.name == "triton"
    assert "mamba-ssm does not import" in choice.reason
    assert "mamba-ssm" in choice.faster_hint
    imaginary_gpu.setitem(_OBSTACLES, "cuda", lambda _: None)
    _choose.cache_clear()
    assert choose_backend("cuda") == ("cuda", "the fastest on cuda", "")


@pytest.mark.parametrize("missing", ["triton", "a C compiler", "Python.h"])
def test_without_what_triton_needs_a_gpu_gets_the_portable_scan(imaginary_gpu, missing):
    if missing == "triton":
        imaginary_gpu.setattr(importlib.util, "find_spec", lambda name: None)
    elif missing == "a C compiler":
        imaginary_gpu.delenv("CC")
        imaginary_gpu.setenv("PATH", "")
    else:
        imaginary_gpu.setattr(scan_package.Path, "exists", lambda path: False)
    choice = choose_backend("cuda")
    assert choice.name == "portable"
    assert "mamba-ssm does not import; triton cannot be used:" in choice.reason
    assert missing.removeprefix("a ") in choice.reason
    with pytest.raises(UserError, match="scan backend 'triton' cannot run on cuda here"):
        choose_backend("cuda", "triton")


def test_triton_on_a_cpu_needs_the_interpreter(monkeypatch):
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    _choose.cache_clear()
    with pytest.raises(UserError, match="'triton' cannot run on cpu here: it needs a CUDA device"):
        choose_backend("cpu", "triton")
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    assert choose_backend("cpu", "triton").name == "triton"
    assert choose_backend("cpu").name == "numba"
    _choose.cache_clear()


def test_kernels_compile_where_no_cache_folder_can_be_written(monkeypatch):
    from fakesound.models.scan import cpu_kernels

    calls = []

    def njit(_signature, *, cache=False, **_options):
        calls.append(cache)
        if cache:
            raise RuntimeError("cannot cache function: no locator available")
        return lambda function: function

    monkeypatch.setattr(cpu_kernels, "njit", njit)
    assert cpu_kernels._compiled("void()")(len) is len
    assert calls == [True, False]


def test_only_kernels_that_were_chosen_are_tried(monkeypatch):
    monkeypatch.setitem(sys.modules, "triton", None)
    monkeypatch.delitem(sys.modules, "fakesound.models.scan.triton", raising=False)
    _check_once.cache_clear()
    _check_once("portable")
    with pytest.raises(ImportError):
        _check_once("triton")
    _check_once.cache_clear()


def test_an_empty_batch_has_empty_gradients():
    tensors = [tensor.float().requires_grad_() for tensor in draw_inputs(B=0, L=5, D=3, N=2)]
    y = scan(tensors, torch.ones(0, 5, dtype=torch.bool), "numba")
    gradients = torch.autograd.grad(y.sum(), tensors)
    assert y.shape == (0, 5, 3)
    assert all((gradient == 0).all() for gradient in gradients)
