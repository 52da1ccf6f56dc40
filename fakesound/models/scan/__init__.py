"""The bidirectional selective scan: one signature, several backends that agree, one place that chooses.

A backend is a module with `selective_scan(direction, mask_BL, reverse=) -> y_BLD`.

Shapes: B batch, L tokens, D inner channels, N state, K taps.
"""

import importlib.util
import os
from collections.abc import Callable
from functools import lru_cache
from types import ModuleType
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from fakesound.core.errors import UserError
from fakesound.models.scan.types import Direction

__all__ = ["BackendChoice", "Direction", "causal_conv_silu", "choose_backend", "selective_scan_bidirectional"]

BACKEND_VARIABLE = "FAKESOUND_SCAN_BACKEND"


class BackendChoice(NamedTuple):
    """Which backend, why, and what would be faster here ("" when nothing would)."""

    name: str
    reason: str
    faster_hint: str


def selective_scan_bidirectional(
    forward: Direction, backward: Direction, z_BLD: Tensor, mask_BL: Tensor, *, backend: str | None = None
) -> Tensor:
    """(forward scan + backward scan) / 2, gated by silu(z): ViM's v2 block between its convolutions and
    out_proj.

    Args:
        forward: scanned from the first token to the last.
        backward: its own inputs, in the same order of tokens, scanned from the last valid token to the first.
        z_BLD: (B, L, D) the gate of both directions.
        mask_BL: (B, L) bool, False for tokens that must influence nothing.
        backend: force one; otherwise `choose_backend` decides.

    Returns:
        (B, L, D) in z's type; zero at masked tokens. Computed in single precision at least.

    Raises:
        UserError: the backend asked for is unknown or cannot run here.
    """
    scan = _load(choose_backend(z_BLD.device, backend).name).selective_scan
    if z_BLD.dtype != torch.float64:
        forward, backward = forward.float(), backward.float()
    with torch.autocast(z_BLD.device.type, enabled=False):
        y_BLD = scan(forward, mask_BL, reverse=False) + scan(backward, mask_BL, reverse=True)
    gate_BLD = functional.silu(z_BLD.masked_fill(~mask_BL[..., None], 0))
    return y_BLD.mul(0.5).to(z_BLD.dtype) * gate_BLD


def causal_conv_silu(
    x_BLD: Tensor, weight_DK: Tensor, bias_D: Tensor, *, reverse: bool, backend: str | None = None
) -> Tensor:
    """Depthwise causal convolution, then SiLU, by the fastest means here; `scan/conv.py` has the formula."""
    name = choose_backend(x_BLD.device, backend).name
    if name == "cuda" or (name == "numba" and x_BLD.dtype == torch.float32):
        convolve = _load(name).causal_conv_silu
    else:
        convolve = importlib.import_module("fakesound.models.scan.conv").causal_conv_silu
    return convolve(x_BLD, weight_DK, bias_D, reverse=reverse)


def choose_backend(device: torch.device | str, name: str | None = None) -> BackendChoice:
    """The backend for tensors on `device`: `name` or the variable FAKESOUND_SCAN_BACKEND if given, else the
    fastest.

    Raises:
        UserError: the backend asked for is unknown or cannot run here.
    """
    return _choose(torch.device(device).type, name or os.environ.get(BACKEND_VARIABLE) or None)


@lru_cache
def _choose(device_type: str, forced: str | None) -> BackendChoice:
    obstacle = _OBSTACLES.get(forced or "")
    if forced is not None:
        if obstacle is None:
            raise UserError(
                f"no scan backend {forced!r}; known: {', '.join(_OBSTACLES)} ({BACKEND_VARIABLE})"
            )
        if problem := obstacle(device_type):
            raise UserError(f"scan backend {forced!r} cannot run on {device_type} here: {problem}")
        return BackendChoice(forced, f"asked for by name or {BACKEND_VARIABLE}", "")
    fastest = {"cpu": "numba", "cuda": "cuda"}.get(device_type)
    if fastest is None:
        return BackendChoice("portable", f"the only one for {device_type}", "")
    if problem := _OBSTACLES[fastest](device_type):
        return BackendChoice("portable", f"{fastest} cannot be used: {problem}", _HINTS[fastest])
    return BackendChoice(fastest, f"the fastest on {device_type}", "")


def _cuda_obstacle(device_type: str) -> str | None:
    if device_type != "cuda":
        return "it needs a CUDA device"
    from fakesound.models.scan import cuda

    return cuda.why_unavailable()


def _numba_obstacle(device_type: str) -> str | None:
    if device_type != "cpu":
        return "it runs on the CPU alone"
    return None if importlib.util.find_spec("numba") else "numba is not installed"


_OBSTACLES: dict[str, Callable[[str], str | None]] = {
    "reference": lambda _: None,
    "portable": lambda _: None,
    "numba": _numba_obstacle,
    "cuda": _cuda_obstacle,
}

_HINTS = {
    "numba": "pip install numba",
    "cuda": "install the wheels of mamba-ssm and causal-conv1d that images/Dockerfile.cuda names",
}


def _load(name: str) -> ModuleType:
    return importlib.import_module(f"fakesound.models.scan.{'cpu' if name == 'numba' else name}")
