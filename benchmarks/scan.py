"""Time and peak memory of every selective-scan backend that runs here, one direction, float32.

    python benchmarks/scan.py --json scan.json [--lengths 256 1024] [--repeats 5] [--device cpu]

Backends are checked for equality first, warmed up, and then take turns, so that whatever else the machine
does falls on all of them. Memory is what the pass needs at its peak beyond its inputs.
"""

import argparse
import ctypes
import importlib
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

from fakesound.core.errors import UserError
from fakesound.models.scan import Direction, choose_backend

BATCH, CHANNELS, STATES = 8, 384, 16
MODULES = {"reference": "reference", "portable": "portable", "numba": "cpu", "cuda": "cuda"}
Scan = Callable[[list[Tensor], Tensor], Tensor]


def available(device: str) -> dict[str, Scan]:
    scans: dict[str, Scan] = {}
    for name, module in MODULES.items():
        try:
            choose_backend(device, name)
        except UserError as error:
            print(f"left out: {error}", file=sys.stderr)
            continue
        function = importlib.import_module(f"fakesound.models.scan.{module}").selective_scan
        scans[name] = lambda tensors, mask, scan=function: scan(Direction(*tensors), mask, reverse=False)
    return scans


def draw_inputs(length: int, device: str) -> tuple[list[Tensor], Tensor]:
    torch.manual_seed(0)
    states = torch.arange(1.0, STATES + 1).repeat(CHANNELS, 1)
    tensors = [
        torch.randn(BATCH, length, CHANNELS),
        torch.rand(BATCH, length, CHANNELS) - 3,
        -states,
        torch.randn(BATCH, length, STATES),
        torch.randn(BATCH, length, STATES),
        torch.ones(CHANNELS),
        torch.rand(CHANNELS),
    ]
    leaves = [tensor.to(device).requires_grad_() for tensor in tensors]
    return leaves, torch.ones(BATCH, length, dtype=torch.bool, device=device)


def forward(scan: Scan, tensors: list[Tensor], mask: Tensor) -> list[Tensor]:
    with torch.no_grad():
        return [scan(tensors, mask)]


def forward_backward(scan: Scan, tensors: list[Tensor], mask: Tensor) -> list[Tensor]:
    y = scan(tensors, mask)
    return [y.detach(), *torch.autograd.grad(y, tensors, torch.ones_like(y))]


PASSES = {"forward": forward, "forward_backward": forward_backward}


def check_equal(scans: dict[str, Scan], tensors: list[Tensor], mask: Tensor) -> None:
    """Every backend against the reference on a short stretch; this also compiles what has to be."""
    short = [tensor[:1, :64].contiguous() if tensor.ndim == 3 else tensor for tensor in tensors]
    want = forward_backward(scans["reference"], short, mask[:1, :64])
    for name, scan in scans.items():
        for one, other in zip(want, forward_backward(scan, short, mask[:1, :64]), strict=True):
            if (one - other).abs().max() > 1e-5 * one.abs().max():
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


def measure(scans: dict[str, Scan], length: int, repeats: int, device: str) -> list[dict[str, object]]:
    tensors, mask = draw_inputs(length, device)
    check_equal(scans, tensors, mask)
    rows = []
    for name_of_pass, run in PASSES.items():
        calls = {name: partial(run, scan, tensors, mask) for name, scan in scans.items()}
        peaks = {name: peak_mib(call, device) for name, call in calls.items()}  # the warm-up as well
        times: dict[str, list[float]] = {name: [] for name in calls}
        for _ in range(repeats):
            for name, call in calls.items():
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
    parser.add_argument("--lengths", type=int, nargs="+", default=[256, 1024])
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    arguments = parser.parse_args()
    threads = torch.get_num_threads()
    shape = f"B={BATCH} D={CHANNELS} N={STATES}"
    print(f"{platform.machine()}, {threads} threads, {shape}, torch {torch.__version__}")
    scans = available(arguments.device)
    rows = [
        row
        for length in arguments.lengths
        for row in measure(scans, length, arguments.repeats, arguments.device)
    ]
    arguments.json.write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()
