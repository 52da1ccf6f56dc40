"""Time and peak memory of the selective scan: every backend that runs here against two peers.

    python benchmarks/scan.py --json scan.json [--lengths 64 256 1024 4096] [--repeats 5] [--device cpu]

The peers are what people run where the CUDA kernels do not load: mamba-ssm's `selective_scan_ref` (written here
from its formula, in the same operations, but for the quadratic backward pass, which is mended), and the
parallel scan of the package mambapy. All scan one direction in single precision, with softplus and gate, as a
block of ViM does (`--directions 2`: both, for the peers on flipped copies). `--dtype bfloat16` gives them half
precision, which `cuda` and `triton` take as it is.

Implementations are checked for equality first, warmed up, and then take turns, so that whatever else the
machine does falls on all of them. Memory is what the pass needs at its peak beyond its inputs. One that has
taken more than TURN_LIMIT_S for a turn gets no further turns.
"""

import argparse
import ctypes
import json
import platform
import statistics
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional

from fakesound.core.errors import UserError
from fakesound.models.scan import ScanInputs, choose_backend, selective_scan

BATCH, CHANNELS, STATES = 8, 384, 16
BACKENDS = ("reference", "portable", "numba", "triton", "cuda")
PEERS = ("selective_scan_ref", "mambapy")
PEER_LENGTH_LIMIT = 4096  # beyond it both need more memory than a laptop has
TURN_LIMIT_S = 20.0
Scan = Callable[[ScanInputs, Tensor, Tensor], Tensor]


def one_direction_ref(u: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor) -> Tensor:
    """C h (B, L, D) as mamba-ssm's `selective_scan_ref` computes it: all decays first, then a loop."""
    decays = torch.exp(torch.einsum("bld,dn->bldn", delta, A))
    entering = torch.einsum("bld,bln,bld->bldn", delta, B, u)
    h = torch.zeros_like(decays[:, 0])
    ys = []
    for decay, entered, C_token in zip(decays.unbind(1), entering.unbind(1), C.unbind(1), strict=True):
        h = decay * h + entered
        ys.append(torch.einsum("bdn,bn->bd", h, C_token))
    return torch.stack(ys, dim=1)


def one_direction_mambapy(u: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor) -> Tensor:
    """C h (B, L, D) as mambapy's block computes it."""
    from mambapy.pscan import pscan

    decays = torch.exp(delta[..., None] * A)
    h = pscan(decays, delta[..., None] * B[:, :, None] * u[..., None])
    return (h @ C[..., None]).squeeze(3)


def peer(one_direction: Callable[..., Tensor], inputs: ScanInputs, z: Tensor, mask: Tensor) -> Tensor:
    """A peer as a user would call it for one or two directions; it knows no mask."""
    delta = inputs.step_sizes()
    total = torch.zeros_like(z)
    for s in range(len(inputs.u_SBLD)):
        sequences = [tensor[s] for tensor in (inputs.u_SBLD, delta, inputs.B_SBLN, inputs.C_SBLN)]
        u, step, B, C = (sequence.flip(1) if s == 1 else sequence for sequence in sequences)
        y = one_direction(u, step, inputs.A_SDN[s], B, C) + inputs.D_SD[s] * u
        total = total + (y.flip(1) if s == 1 else y)
    return total / len(inputs.u_SBLD) * functional.silu(z)


def available(device: str) -> dict[str, Scan]:
    scans: dict[str, Scan] = {
        "selective_scan_ref": partial(peer, one_direction_ref),
        "mambapy": partial(peer, one_direction_mambapy),
    }
    for name in BACKENDS:
        try:
            choose_backend(device, name)
        except UserError as error:
            print(f"left out: {error}", file=sys.stderr)
            continue
        scans[name] = partial(selective_scan, backend=name)
    return scans


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
    leaves = [u, delta, A.to(device), B, C, D.to(device), bias.to(device), z]
    mask = torch.ones(BATCH, length, dtype=torch.bool, device=device)
    return [*(tensor.requires_grad_() for tensor in leaves), mask]


def forward(scan: Scan, tensors: list[Tensor]) -> list[Tensor]:
    with torch.no_grad():
        return [scan(ScanInputs(*tensors[:7]), *tensors[7:])]


def forward_backward(scan: Scan, tensors: list[Tensor]) -> list[Tensor]:
    y = scan(ScanInputs(*tensors[:7]), *tensors[7:])
    return [y.detach(), *torch.autograd.grad(y, tensors[:8], torch.ones_like(y))]


PASSES = {"forward": forward, "forward_backward": forward_backward}


def check_equal(scans: dict[str, Scan], tensors: list[Tensor]) -> None:
    """Everything against the reference on a short stretch; this also compiles what has to be."""
    short = [
        tensor[:, :1, :64] if tensor.ndim == 4 else tensor[:1, :64] if len(tensor) == BATCH else tensor
        for tensor in tensors
    ]
    short = [tensor.detach().contiguous().requires_grad_(tensor.is_floating_point()) for tensor in short]
    tolerance = 1e-5 if tensors[0].dtype == torch.float32 else 2e-2
    want = forward_backward(scans["reference"], short)
    for name, scan in scans.items():
        for one, other in zip(want, forward_backward(scan, short), strict=True):
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
    ctypes.CDLL(None).malloc_trim(0)  # glibc: hand back what earlier calls freed
    Path("/proc/self/clear_refs").write_text("5")  # Linux: forget the peak so far
    before = _status_mib("VmRSS")
    call()
    return max(0.0, _status_mib("VmHWM") - before)


def _status_mib(field: str) -> float:
    line = next(row for row in Path("/proc/self/status").read_text().splitlines() if row.startswith(field))
    return int(line.split()[1]) / 1024


def measure(
    scans: dict[str, Scan], tensors: list[Tensor], repeats: int, device: str
) -> list[dict[str, object]]:
    length = tensors[0].shape[2]
    rows = []
    for name_of_pass, run in PASSES.items():
        calls = {name: partial(run, scan, tensors) for name, scan in scans.items()}
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
    scans = available(arguments.device)
    rows = []
    for length in arguments.lengths:
        dtype = getattr(torch, arguments.dtype)
        tensors = draw_inputs(length, arguments.directions, arguments.device, dtype)
        taking_part = dict(scans)
        check_equal(taking_part, tensors)
        if length > PEER_LENGTH_LIMIT:
            for name in (*PEERS, "reference"):
                del taking_part[name]
        rows += measure(taking_part, tensors, arguments.repeats, arguments.device)
    arguments.json.write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()
