"""`fakesound doctor`: what this machine has, and what that means for speed. Never a traceback."""

import os
import platform
import re
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from fakesound.models.scan import BackendChoice

PACKAGES = (
    "torch",
    "torchaudio",
    "triton",
    "mamba-ssm",
    "causal-conv1d",
    "numba",
    "kfp",
    "torchx-nightly",
    "mlflow",
    "optuna",
)


def diagnose() -> str:
    """The report, as text. Versions are read from metadata: CUDA packages are never imported without CUDA."""
    rows = [("python", platform.python_version()), ("cpu", _guarded(describe_cpu)), ("gpu", _guarded(_gpu))]
    rows += [(name, _guarded(_version(name))) for name in PACKAGES]
    rows += [
        ("cuda kernels", _guarded(_kernels)),
        ("scan backend", _guarded(_backend)),
        ("faster", _guarded(_advice)),
    ]
    width = max(len(name) for name, _ in rows)
    return "\n".join(f"{name:<{width}}  {text}" for name, text in rows)


def kernel_problems() -> list[str]:
    """Why installed CUDA kernels cannot work, each with what to do, from metadata alone; on any machine."""
    from fakesound.models.scan.cuda_pairs import TorchBuild, find_problems

    return find_problems(TorchBuild.installed())


def _guarded(answer: Callable[[], str]) -> str:
    """A broken installation is a finding, not a failure of this command."""
    try:
        return answer()
    except metadata.PackageNotFoundError:
        return "not installed"
    except Exception as error:
        return f"broken: {type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"


def _version(name: str) -> Callable[[], str]:
    return lambda: metadata.version(name)


def describe_cpu() -> str:
    """The processor and how many cores of it this process may use."""
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    info = Path("/proc/cpuinfo")
    found = re.search(r"model name\s*:\s*(.+)", info.read_text() if info.exists() else "")
    return f"{found[1] if found else platform.machine()}, {usable} usable cores"


def _gpu() -> str:
    import torch

    if not torch.cuda.is_available():
        return f"none usable (torch built for CUDA {torch.version.cuda or 'nothing'})"
    names = [torch.cuda.get_device_name(k) for k in range(torch.cuda.device_count())]
    return f"{', '.join(names)} (CUDA {torch.version.cuda})"


def _kernels() -> str:
    if problems := kernel_problems():
        return "; ".join(problems)
    metadata.version("mamba-ssm")  # raises where there are none
    return "fit each other and this torch"


def _backend() -> str:
    choice = _choice()
    return f"{choice.name} ({choice.reason})"


def _advice() -> str:
    return _choice().faster_hint or "nothing to install: this is the fastest for this machine"


def _choice() -> "BackendChoice":
    import torch

    from fakesound.models.scan import choose_backend

    return choose_backend("cuda" if torch.cuda.is_available() else "cpu")
