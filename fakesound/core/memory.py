"""How much memory a piece of work needs at its peak, as Linux counts it for this process."""

import ctypes
from collections.abc import Callable
from pathlib import Path

FORGET_PEAK = "5"  # proc(5), clear_refs: the high-water mark becomes what is resident now


def peak_mib(call: Callable[[], object], *, above_mib: float | None = None) -> float:
    """How far resident memory rises while `call` runs: above what it is before, or above `above_mib`."""
    resident = resident_mib()
    Path("/proc/self/clear_refs").write_text(FORGET_PEAK)
    before_mib = resident if above_mib is None else above_mib
    call()
    return max(0.0, _status_mib("VmHWM") - before_mib)


def resident_mib() -> float:
    """Memory of this process that is in use now, without what it has freed."""
    ctypes.CDLL(None).malloc_trim(0)  # glibc: hand back what earlier calls freed
    return _status_mib("VmRSS")


def _status_mib(field: str) -> float:
    line = next(row for row in Path("/proc/self/status").read_text().splitlines() if row.startswith(field))
    return int(line.split()[1]) / 1024
