"""Time and peak memory of the selective scan: every backend that runs here against two peers.

    python benchmarks/scan.py --json scan.json [--lengths 64 256 1024 4096] [--repeats 5] [--device cpu]

The peers are what people run where the CUDA kernels do not load: mamba-ssm's `selective_scan_ref` (written
here from its formula, in its operations and its channels-first layout, but for the quadratic backward pass,
which is mended), and the parallel scan of the package mambapy. All scan one direction in single precision,
with softplus and gate, as a block of ViM does; `--directions 2` scans both, the peers on flipped copies.
`--dtype bfloat16` gives them half precision, which `cuda` and `triton` take as it is.

Implementations are checked for equality first, warmed up, and then take turns, so that whatever else the
machine does falls on all of them. Memory is what the pass needs at its peak beyond its inputs. One whose turn
takes longer than TURN_LIMIT_S gets no more turns at that length.
"""

import argparse
import json
import platform
import statistics
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import NamedTuple

import torch
from mambapy.pscan import pscan
from torch import Tensor
from torch.nn import functional

from fakesound.core import memory
from fakesound.core.errors import UserError
from fakesound.models.scan import ScanInputs, choose_backend, selective_scan

BATCH, CHANNELS, STATES = 8, 384, 16
BACKENDS = ("reference", "portable", "numba", "triton", "cuda")
TOO_LARGE_BEYOND = {"selective_scan_ref": 4096, "mambapy": 4096, "reference": 4096}
TURN_LIMIT_S = 20.0


class Implementation(NamedTuple):
    """A scan of u, delta, A, B, C, D, delta_bias, z and mask, whose sequences lie as `layout` lays them."""

    scan: Callable[..., Tensor]
    layout: Callable[[Tensor], Tensor]


def as_is(sequence: Tensor) -> Tensor:
    return sequence


def channels_first(sequence: Tensor) -> Tensor:
    """(..., L, X) to (..., X, L), and back."""
    return sequence.transpose(-1, -2).contiguous()


def scan_with_backend(name: str, *tensors: Tensor) -> Tensor:
    return selective_scan(ScanInputs(*tensors[:7]), *tensors[7:], backend=name)


def selective_scan_ref(*tensors: Tensor) -> Tensor:
    """mamba-ssm's reference: all decays first, then a loop; it knows no mask. Sequences are (.., X, L)."""
    return by_direction(_ref_of_one_direction, 2, *tensors)


def mambapy_scan(*tensors: Tensor) -> Tensor:
    """The selective scan of mambapy's block; it knows no mask."""
    return by_direction(_mambapy_of_one_direction, 1, *tensors)


def by_direction(one_direction: Callable[..., Tensor], token_dim: int, *tensors: Tensor) -> Tensor:
    """The gated mean of a peer's scans, the second on flipped copies; tokens lie along `token_dim`."""
    u_S, raw_S, A_SDN, B_S, C_S, D_SD, bias_SD, z, _ = tensors
    total = torch.zeros_like(z)
    for s in range(len(u_S)):
        sequences = (u_S[s], raw_S[s], B_S[s], C_S[s])
        u, raw, B, C = (sequence.flip(token_dim) if s == 1 else sequence for sequence in sequences)
        delta = functional.softplus(raw + bias_SD[s].unsqueeze(token_dim - 1))
        y = one_direction(u, delta, A_SDN[s], B, C) + D_SD[s].unsqueeze(token_dim - 1) * u
        total = total + (y.flip(token_dim) if s == 1 else y)
    return total / len(u_S) * functional.silu(z)


def _ref_of_one_direction(
    u_BDL: Tensor, delta_BDL: Tensor, A_DN: Tensor, B_BNL: Tensor, C_BNL: Tensor
) -> Tensor:
    decays_BDLN = torch.exp(torch.einsum("bdl,dn->bdln", delta_BDL, A_DN))
    entering_BDLN = torch.einsum("bdl,bnl,bdl->bdln", delta_BDL, B_BNL, u_BDL)
    h_BDN = torch.zeros_like(decays_BDLN[:, :, 0])
    ys = []
    steps = zip(decays_BDLN.unbind(2), entering_BDLN.unbind(2), C_BNL.unbind(2), strict=True)
    for decay_BDN, entered_BDN, C_BN in steps:
        h_BDN = decay_BDN * h_BDN + entered_BDN
        ys.append(torch.einsum("bdn,bn->bd", h_BDN, C_BN))
    return torch.stack(ys, dim=2)


def _mambapy_of_one_direction(
    u_BLD: Tensor, delta_BLD: Tensor, A_DN: Tensor, B_BLN: Tensor, C_BLN: Tensor
) -> Tensor:
    decays_BLDN = torch.exp(delta_BLD[..., None] * A_DN)
    h_BLDN = pscan(decays_BLDN, delta_BLD[..., None] * B_BLN[:, :, None] * u_BLD[..., None])
    return (h_BLDN @ C_BLN[..., None]).squeeze(3)


def available(device: str) -> dict[str, Implementation]:
    found = {
        "selective_scan_ref": Implementation(selective_scan_ref, channels_first),
        "mambapy": Implementation(mambapy_scan, as_is),
    }
    for name in BACKENDS:
        try:
            choose_backend(device, name)
        except UserError as error:
            print(f"left out: {error}", file=sys.stderr)
            continue
        found[name] = Implementation(partial(scan_with_backend, name), as_is)
    return found


def draw_inputs(length: int, directions: int, device: str, dtype: torch.dtype) -> list[Tensor]:
    """The seven inputs of the scan, z and the mask."""
    torch.manual_seed(0)
    sequences = [
        torch.randn(directions, BATCH, length, size) for size in (CHANNELS, CHANNELS, STATES, STATES)
    ]
    u, delta, B, C = (tensor.to(device, dtype) for tensor in sequences)
    A = -torch.arange(1.0, STATES + 1).repeat(directions, CHANNELS, 1)
    D, bias = torch.ones(directions, CHANNELS), torch.rand(directions, CHANNELS) - 4
    z = torch.randn(BATCH, length, CHANNELS).to(device, dtype)
    mask = torch.ones(BATCH, length, dtype=torch.bool, device=device)
    return [u, delta, A.to(device), B, C, D.to(device), bias.to(device), z, mask]


def laid_out(tensors: list[Tensor], layout: Callable[[Tensor], Tensor]) -> list[Tensor]:
    """Leaves, sequences as `layout` lays them; what has no tokens (A, D, delta_bias, mask) as it is."""
    is_sequence = [True, True, False, True, True, False, False, True, False]
    chosen = (
        layout(tensor) if is_seq else tensor for tensor, is_seq in zip(tensors, is_sequence, strict=True)
    )
    return [tensor.detach().requires_grad_(tensor.is_floating_point()) for tensor in chosen]


def forward(scan: Callable[..., Tensor], tensors: list[Tensor], arriving: Tensor) -> list[Tensor]:
    del arriving
    with torch.no_grad():
        return [scan(*tensors)]


def forward_backward(scan: Callable[..., Tensor], tensors: list[Tensor], arriving: Tensor) -> list[Tensor]:
    """The output, and the gradients given the one that arrives at it."""
    y = scan(*tensors)
    return [y.detach(), *torch.autograd.grad(y, tensors[:8], arriving)]


PASSES = {"forward": forward, "forward_backward": forward_backward}


def check_equal(implementations: dict[str, Implementation], tensors: list[Tensor]) -> None:
    """Everything against the reference on a short stretch; this also compiles what has to be."""
    short = [
        tensor[:, :1, :64] if tensor.ndim == 4 else tensor[:1, :64] if len(tensor) == BATCH else tensor
        for tensor in tensors
    ]
    tolerance = 1e-5 if tensors[0].dtype == torch.float32 else 2e-2
    arriving = torch.ones_like(short[7])
    inputs = laid_out(short, torch.Tensor.contiguous)
    want = forward_backward(implementations["reference"].scan, inputs, arriving)
    for name, (scan, layout) in implementations.items():
        y, *gradients = forward_backward(scan, laid_out(short, layout), layout(arriving))
        found = [layout(y), *laid_out([*gradients, short[8]], layout)[:8]]
        for one, other in zip(want, found, strict=True):
            if (one - other).abs().max() > tolerance * one.abs().max():
                raise SystemExit(f"{name} does not compute what the reference computes")


def timed_ms(call: Callable[[], list[Tensor]], device: str) -> float:
    started_s = time.perf_counter()
    call()
    if device == "cuda":
        torch.cuda.synchronize()
    return (time.perf_counter() - started_s) * 1e3


def peak_mib(call: Callable[[], list[Tensor]], device: str) -> float:
    if device == "cuda":
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        call()
        return (torch.cuda.max_memory_allocated() - before) / 2**20
    return memory.peak_mib(call)


def measure(
    implementations: dict[str, Implementation], tensors: list[Tensor], repeats: int, device: str
) -> list[dict[str, object]]:
    length = tensors[0].shape[2]
    rows = []
    for name_of_pass, run in PASSES.items():
        calls = {
            name: partial(run, scan, laid_out(tensors, layout), torch.ones_like(layout(tensors[7])))
            for name, (scan, layout) in implementations.items()
        }
        peaks = {name: peak_mib(call, device) for name, call in calls.items()}  # the warm-up as well
        times: dict[str, list[float]] = {name: [] for name in calls}
        for _ in range(repeats):
            for name, call in calls.items():
                if not times[name] or times[name][-1] < TURN_LIMIT_S * 1e3:
                    times[name].append(timed_ms(call, device))
        for name in calls:
            rows.append(
                {
                    "implementation": name,
                    "pass": name_of_pass,
                    "length": length,
                    "median_ms": round(statistics.median(times[name]), 2),
                    "peak_mib": round(peaks[name], 1),
                }
            )
            print(rows[-1], flush=True)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--json", type=Path, required=True, help="where to write the list of rows")
    parser.add_argument("--lengths", type=int, nargs="+", default=[64, 256, 1024, 4096, 16384])
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--directions", type=int, choices=[1, 2], default=1)
    parser.add_argument("--dtype", choices=["float32", "bfloat16"], default="float32")
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    arguments = parser.parse_args()
    shape = f"S={arguments.directions} B={BATCH} D={CHANNELS} N={STATES} {arguments.dtype}"
    print(f"{platform.machine()}, {torch.get_num_threads()} threads, {shape}, torch {torch.__version__}")
    implementations = available(arguments.device)
    rows = []
    for length in arguments.lengths:
        dtype = getattr(torch, arguments.dtype)
        tensors = draw_inputs(length, arguments.directions, arguments.device, dtype)
        check_equal(implementations, tensors)
        taking_part = {
            name: implementation
            for name, implementation in implementations.items()
            if length <= TOO_LARGE_BEYOND.get(name, length)
        }
        rows += measure(taking_part, tensors, arguments.repeats, arguments.device)
    arguments.json.write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()
