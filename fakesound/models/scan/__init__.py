"""The selective scan and its convolution: one signature, several backends that agree, one place that chooses.

A backend is a module with `selective_scan(inputs, z_BLD, mask_BL) -> y_BLD` and
`causal_conv_silu(x_BLD, weight_SDK, bias_SD) -> u_SBLD`.

Shapes: S directions, B batch, L tokens, D inner channels, N state, K taps.
"""

import importlib.util
import os
import shutil
import sysconfig
from collections.abc import Callable
from contextlib import suppress
from functools import lru_cache
from pathlib import Path
from types import ModuleType
from typing import NamedTuple

import torch
from torch import Tensor

from fakesound.core.errors import UserError
from fakesound.models.scan.types import ScanInputs

__all__ = [
    "BackendChoice",
    "ScanInputs",
    "causal_conv_silu",
    "choose_backend",
    "load_backend",
    "selective_scan",
]

BACKEND_VARIABLE = "FAKESOUND_SCAN_BACKEND"


class BackendChoice(NamedTuple):
    """Which backend, why, and what would be faster here ("" when nothing would)."""

    name: str
    reason: str
    faster_hint: str


def selective_scan(
    inputs: ScanInputs, z_BLD: Tensor, mask_BL: Tensor, *, backend: str | None = None
) -> Tensor:
    """The mean of the scans of one or two directions, gated by silu(z): the inside of ViM's v2 block.

    Args:
        inputs: of each direction; `ScanInputs` has the formula.
        z_BLD: (B, L, D) the gate of all directions.
        mask_BL: (B, L) bool, False for tokens that must influence nothing.
        backend: force one; otherwise `choose_backend` decides.

    Returns:
        (B, L, D) in z's type; zero at masked tokens. Computed in single precision at least.

    Raises:
        UserError: the backend asked for is unknown or cannot run here.
    """
    with torch.autocast(z_BLD.device.type, enabled=False):
        return _backend(z_BLD.device.type, backend).selective_scan(inputs, z_BLD, mask_BL)


def causal_conv_silu(
    x_BLD: Tensor, weight_SDK: Tensor, bias_SD: Tensor, *, backend: str | None = None
) -> Tensor:
    """Depthwise causal convolution of each direction, then SiLU: u (S, B, L, D) in the type of x;
    `scan/conv.py` has the formula.
    """
    with torch.autocast(x_BLD.device.type, enabled=False):
        return _backend(x_BLD.device.type, backend).causal_conv_silu(x_BLD, weight_SDK, bias_SD)


def load_backend(device: torch.device | str) -> None:
    """Import what scans on `device` will use. torch.export traces with functions of Python's math module
    replaced, and numba cannot be imported then: who builds a model calls this before.
    """
    with suppress(UserError):  # one that was asked for may be for another device
        _backend(torch.device(device).type, None)


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
    candidates = _FASTEST_FIRST.get(device_type)
    if candidates is None:
        return BackendChoice("portable", f"the only one for {device_type}", "")
    problems: list[str] = []
    for name in candidates:
        problem = _OBSTACLES[name](device_type)
        if problem is None:
            break
        problems.append(f"{name} cannot be used: {problem}")
    else:
        name = "portable"
    if not problems:
        return BackendChoice(name, f"the fastest on {device_type}", "")
    return BackendChoice(name, "; ".join(problems), _HINTS[candidates[0]])


def _cuda_obstacle(device_type: str) -> str | None:
    if device_type != "cuda":
        return "it needs a CUDA device"
    from fakesound.models.scan import cuda

    return cuda.why_unavailable()


def _numba_obstacle(device_type: str) -> str | None:
    if device_type != "cpu":
        return "it runs on the CPU alone"
    return None if importlib.util.find_spec("numba") else "numba is not installed"


def _triton_obstacle(device_type: str) -> str | None:
    if not importlib.util.find_spec("triton"):
        return "triton is not installed"
    if os.environ.get("TRITON_INTERPRET") == "1":
        return None
    if device_type != "cuda":
        return (
            "it needs a CUDA device (TRITON_INTERPRET=1 in the environment runs it on the CPU, very slowly)"
        )
    return _compiler_obstacle() if torch.cuda.is_available() else "no CUDA device"


def _compiler_obstacle() -> str | None:
    """Triton brings its own compiler of kernels, but compiles what launches them with the machine's."""
    if not (os.environ.get("CC") or shutil.which("gcc") or shutil.which("clang")):
        return "triton finds no C compiler for its launcher (install gcc, or set CC)"
    if not Path(sysconfig.get_path("include", "posix_prefix"), "Python.h").exists():
        return "triton finds no Python.h for its launcher (install python3-dev)"
    return None


_OBSTACLES: dict[str, Callable[[str], str | None]] = {
    "reference": lambda _: None,
    "portable": lambda _: None,
    "numba": _numba_obstacle,
    "cuda": _cuda_obstacle,
    "triton": _triton_obstacle,
}

_FASTEST_FIRST = {"cpu": ("numba",), "cuda": ("cuda", "triton")}

_HINTS = {
    "numba": "pip install numba",
    "cuda": "install the wheels of mamba-ssm and causal-conv1d that images/Dockerfile.cuda names",
}


@torch.compiler.assume_constant_result  # torch.compile need not, and cannot, trace the choice itself
def _chosen_name(device_type: str, asked_for: str | None) -> str:
    name = choose_backend(device_type, asked_for).name
    if device_type == "cuda":
        _check_once(name)
    return name


@lru_cache
def _check_once(name: str) -> None:
    """Before any work on a GPU, kernels are tried against the reference; UserError if they are wrong."""
    # Only what was chosen is imported: where that is `portable`, triton may be missing or broken.
    if name == "cuda":
        from fakesound.models.scan import cuda as kernels
    elif name == "triton":
        from fakesound.models.scan import triton as kernels
    else:
        return
    from fakesound.models.scan import first_use, reference

    first_use.check_backend(name, kernels, reference, "cuda")


def _backend(device_type: str, asked_for: str | None) -> ModuleType:
    # Statements, and not a table of names, since torch.compile follows those alone.
    match _chosen_name(device_type, asked_for):
        case "reference":
            from fakesound.models.scan import reference as module
        case "portable":
            from fakesound.models.scan import portable as module
        case "numba":
            from fakesound.models.scan import cpu as module
        case "triton":
            from fakesound.models.scan import triton as module
        case _:
            from fakesound.models.scan import cuda as module
    return module
