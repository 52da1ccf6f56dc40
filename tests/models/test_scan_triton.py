"""The Triton kernels: what they compute, by the interpreter; that they compile for GPUs, by the compiler that
comes with triton; and, where there is a GPU, both of its backends for real.
"""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from test_scan import assert_close_to_float64, draw_inputs, outputs_and_gradients, scan

from fakesound.core.errors import UserError
from fakesound.models.config import VisionMambaConfig
from fakesound.models.scan import causal_conv_silu, choose_backend
from fakesound.models.vim import BidirectionalMixer

triton = pytest.importorskip("triton")
GPU_BACKENDS = ("triton", "cuda")
SEQUENCES = {f"{name}_ptr" for name in ("u", "delta", "B", "C", "z", "x", "out", "grad")} | {
    f"grad_{name}_ptr" for name in ("u", "delta", "z", "x")
}


def test_kernels_compute_what_they_should_in_the_interpreter():
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider"]
    environment = {**os.environ, "TRITON_INTERPRET": "1"}
    tests = Path(__file__).with_name("interpreted_triton.py")
    result = subprocess.run([*command, tests], env=environment, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout + result.stderr


def kernels_and_constants():
    from fakesound.models.scan import triton as backend

    scan = {"num_states": 16, "S": 2, "K": backend.CHUNK_TOKENS}
    conv = {"S": 2, "TAPS": 4, "ROWS": backend.CONV_ROWS, "BLOCK": backend.CONV_BLOCK}
    return {
        "scan_summaries": {**scan, "BLOCK": backend.FORWARD_BLOCK},
        "scan_carry": {"AGAINST_TRAVEL": True, "BLOCK": backend.CARRY_BLOCK},
        "scan_output": {**scan, "BLOCK": backend.FORWARD_BLOCK},
        "scan_grad_summaries": {**scan, "BLOCK": backend.BACKWARD_BLOCK},
        "scan_gradients": {**scan, "BLOCK": backend.BACKWARD_BLOCK},
        "conv_output": conv,
        "conv_grad_sums": conv,
        "conv_grad_input": conv,
    }


def compiled(name, constants, sequence_type, capability, *, all_sizes_are_one=False):
    """A kernel as a GPU would run it, for pointers and sizes that are multiples of 16, or for sizes of one,
    which the launcher turns into constants.
    """
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    from fakesound.models.scan import triton_kernels

    kernel = getattr(triton_kernels, name)
    signature, attributes, values = {}, {}, dict(constants)
    for index, parameter in enumerate(kernel.arg_names):
        if parameter in constants:
            signature[parameter] = "constexpr"
            continue
        if not all_sizes_are_one:
            attributes[index,] = [["tt.divisibility", 16]]
        if parameter == "bits_ptr":
            signature[parameter] = "*i32"
        elif parameter.endswith("_ptr"):
            signature[parameter] = f"*{sequence_type if parameter in SEQUENCES else 'fp32'}"
        elif all_sizes_are_one:
            signature[parameter], values[parameter] = "constexpr", 1
        else:
            signature[parameter] = "i32"
    source = ASTSource(kernel, signature, values, attributes)
    return triton.compile(source, target=GPUTarget("cuda", capability, 32), options={"num_warps": 1})


def bytes_of_stack(kernel, folder):
    """Where registers go that do not fit, as the cubin says."""
    from triton.backends.nvidia import compiler

    cubin = folder / "kernel.cubin"
    cubin.write_bytes(kernel.asm["cubin"])
    cuobjdump = Path(compiler.__file__).with_name("bin") / "cuobjdump"
    usage = subprocess.run([cuobjdump, "-res-usage", cubin], capture_output=True, text=True, check=True)
    return int(re.search(r"STACK:(\d+)", usage.stdout)[1])


def assert_compiles_without_spilling(names, sequence_type, capability, folder):
    for name in names:
        kernel = compiled(name, kernels_and_constants()[name], sequence_type, capability)
        assert bytes_of_stack(kernel, folder) == 0, name
        if name.startswith("scan"):  # a warp's states never leave its registers
            assert kernel.metadata.shared == 0, name


def test_forward_kernels_compile_for_a_gpu_without_spilling(tmp_path, monkeypatch):
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path / "cache"))
    names = set(kernels_and_constants()) - {"scan_gradients"}  # which takes as long as all others together
    assert_compiles_without_spilling(names, "bf16", 90, tmp_path)


def test_kernels_compile_for_sizes_of_one(tmp_path, monkeypatch):
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path / "cache"))
    for name, constants in kernels_and_constants().items():
        smallest = {**constants, **({"num_states": 1, "S": 1} if "num_states" in constants else {})}
        assert compiled(name, smallest, "bf16", 90, all_sizes_are_one=True).asm["cubin"]


@pytest.mark.slow
@pytest.mark.parametrize("capability", [80, 90])
@pytest.mark.parametrize("sequence_type", ["fp32", "bf16", "fp16"])
def test_all_kernels_compile_for_gpus_without_spilling(capability, sequence_type, tmp_path, monkeypatch):
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path / "cache"))
    assert_compiles_without_spilling(kernels_and_constants(), sequence_type, capability, tmp_path)


def on_gpu(backend):
    try:
        choose_backend("cuda", backend)
    except UserError as error:
        pytest.skip(str(error))


def moved(tensors, dtype=torch.float32):
    return [tensor.to("cuda", dtype) for tensor in tensors]


@pytest.mark.gpu
@pytest.mark.parametrize("backend", GPU_BACKENDS)
@pytest.mark.parametrize(
    "sizes",
    [
        {"B": 8, "L": 1024, "D": 384, "N": 16},
        {"B": 1, "L": 4096, "D": 65, "N": 16},
        {"B": 3, "L": 203, "D": 130, "N": 7, "S": 1},
        {"B": 2, "L": 100, "D": 33, "N": 64},
    ],
)
def test_gpu_outputs_and_all_gradients_are_those_of_float64(backend, sizes):
    on_gpu(backend)
    tensors = moved(draw_inputs(**sizes, largest_step=10), torch.float64)
    whole = torch.ones(sizes["B"], sizes["L"], dtype=torch.bool, device="cuda")
    assert_close_to_float64(tensors, whole, backend)
    assert_close_to_float64(tensors, torch.rand(whole.shape, device="cuda") > 0.3, backend)


@pytest.mark.gpu
@pytest.mark.parametrize("backend", GPU_BACKENDS)
def test_gpu_masked_tokens_influence_nothing(backend):
    on_gpu(backend)
    tensors = moved(draw_inputs(B=2, L=100, D=40, N=16))
    mask = torch.arange(100, device="cuda") < torch.tensor([[100], [61]], device="cuda")
    dirty = [tensor.clone() for tensor in tensors]
    for k in (0, 1, 3, 4, 7):
        dirty[k].masked_fill_(~mask[..., None], float("nan"))
    want = outputs_and_gradients(tensors, mask, backend, torch.float32)
    have = outputs_and_gradients(dirty, mask, backend, torch.float32)
    for one, other in zip(want, have, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-6, atol=1e-6)


@pytest.mark.gpu
def test_gpu_results_repeat_bit_for_bit():
    tensors = moved(draw_inputs(B=4, L=500, D=200, N=16))
    mask = torch.ones(4, 500, dtype=torch.bool, device="cuda")
    results = [outputs_and_gradients(tensors, mask, "triton", torch.float32) for _ in range(2)]
    assert all(torch.equal(one, two) for one, two in zip(*results, strict=True))


@pytest.mark.gpu
@pytest.mark.parametrize("backend", GPU_BACKENDS)
def test_gpu_half_precision_is_scanned_in_single(backend):
    on_gpu(backend)
    rounded = moved(draw_inputs(B=2, L=300, D=64, N=16), torch.bfloat16)
    mask = torch.ones(2, 300, dtype=torch.bool, device="cuda")
    y = scan(rounded, mask, backend)
    assert y.dtype == torch.bfloat16
    want = scan([tensor.double() for tensor in rounded], mask, "reference")
    assert (y.double() - want).abs().max() <= 2**-7 * want.abs().max()


@pytest.mark.gpu
@pytest.mark.parametrize("backend", GPU_BACKENDS)
@pytest.mark.parametrize("shape", [(8, 1024, 384), (1, 4096, 65), (2, 3, 130)])
def test_gpu_convolution_equals_the_float64_one(backend, shape):
    on_gpu(backend)
    generator = torch.Generator().manual_seed(0)
    shapes = [(*shape[:2], 2 * shape[2]), (2, shape[2], 4), (2, shape[2])]
    leaves = [torch.randn(*of, generator=generator, dtype=torch.float64) for of in shapes]
    results = []
    for name, dtype in (("reference", torch.float64), (backend, torch.float32)):
        inputs = [leaf.requires_grad_() for leaf in moved(leaves, dtype)]
        u = causal_conv_silu(inputs[0].chunk(2, dim=-1)[0], *inputs[1:], backend=name)
        results.append([u, *torch.autograd.grad(u.square().sum(), inputs)])
    for want, have in zip(*results, strict=True):
        assert (have.double() - want).abs().max() <= 1e-5 * want.abs().max()


@pytest.mark.gpu
def test_gpu_mixer_compiles_whole_and_agrees_under_autocast(monkeypatch):
    torch.manual_seed(0)
    mixer = BidirectionalMixer(VisionMambaConfig(embed_dim=64, depth=1)).cuda()
    hidden = torch.randn(2, 201, 64, device="cuda")
    mask = torch.arange(201, device="cuda") < torch.tensor([[201], [150]], device="cuda")
    results = []
    for name, call in (("portable", mixer), ("triton", torch.compile(mixer, fullgraph=True))):
        monkeypatch.setenv("FAKESOUND_SCAN_BACKEND", name)
        with torch.autocast("cuda", torch.bfloat16):
            y = call(hidden, mask)
        results.append([y, *torch.autograd.grad(y.float().square().sum(), list(mixer.parameters()))])
    for want, have in zip(*results, strict=True):
        assert (have - want).abs().max() <= 0.05 * want.abs().max()
