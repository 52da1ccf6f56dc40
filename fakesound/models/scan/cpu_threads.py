"""Runs compiled kernels on torch's own OpenMP threads.

Threads of our own would compete with them: after each of torch's operations its idle workers spin for some
milliseconds before they sleep, on the cores that our threads would wake up on. A scan that comes right after
a matrix product took up to twice as long that way (docs/decisions/0007-selective-scan.md).
"""

import ctypes
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache, lru_cache
from pathlib import Path
from typing import Any

import torch

Kernel = Callable[..., None]
_Body = ctypes.CFUNCTYPE(None, ctypes.c_void_p)


def run_on_threads(kernel: Kernel, num_tasks: int, *arguments: Any) -> None:
    """Call `kernel(*arguments, first, stride)` on each of as many threads as torch uses, this one among them.

    Each does the tasks first, first + stride, ..., without the interpreter's lock; interleaved, they keep
    threads evenly busy when clips differ in length. As with torch's own operations, a process forked after
    several threads were used must use one (`torch.set_num_threads(1)`).

    Args:
        kernel: compiled; may be called on any thread.
        num_tasks: no more threads than these take part.
        arguments: of the kernel.

    Raises:
        BaseException: what the kernel raised on one of the threads.
    """
    threads = max(1, min(torch.get_num_threads(), num_tasks))
    openmp = _torch_openmp()
    if threads == 1:
        kernel(*arguments, 0, 1)
    elif openmp is not None:
        _run_on_team(openmp, kernel, threads, arguments)
    else:
        _run_on_pool(kernel, threads, arguments)


def _run_on_team(openmp: ctypes.CDLL, kernel: Kernel, threads: int, arguments: tuple[Any, ...]) -> None:
    failures: list[BaseException] = []

    def body(_: int | None) -> None:
        try:
            # The team may be smaller than asked for, so it is the team that says how large it is.
            kernel(*arguments, openmp.omp_get_thread_num(), openmp.omp_get_num_threads())
        except BaseException as error:  # it would be lost on its way through OpenMP
            failures.append(error)

    openmp.GOMP_parallel(_Body(body), None, threads, 0)
    if failures:
        raise failures[0]


def _run_on_pool(kernel: Kernel, threads: int, arguments: tuple[Any, ...]) -> None:
    pool = _pool(os.getpid(), torch.get_num_threads())
    others = [pool.submit(kernel, *arguments, first, threads) for first in range(1, threads)]
    kernel(*arguments, 0, threads)
    for other in others:
        other.result()


@cache
def _torch_openmp() -> ctypes.CDLL | None:
    """GNU OpenMP as it came with torch and is loaded already; None where torch uses another library."""
    package = Path(torch.__file__).parent
    for folder in (package / "lib", package.with_name("torch.libs")):
        for path in sorted(folder.glob("libgomp*")):
            library = ctypes.CDLL(str(path))
            library.GOMP_parallel.argtypes = (_Body, ctypes.c_void_p, ctypes.c_uint, ctypes.c_uint)
            library.GOMP_parallel.restype = None
            return library
    return None


@lru_cache(maxsize=1)
def _pool(process_id: int, threads: int) -> ThreadPoolExecutor:
    """One pool a process: threads do not survive a fork."""
    return ThreadPoolExecutor(max_workers=threads, thread_name_prefix=f"scan-{process_id}")
