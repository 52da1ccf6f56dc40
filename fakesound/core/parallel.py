"""Work spread over processes, with progress; results come in the order of the items."""

import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from typing import TypeVar

from threadpoolctl import threadpool_limits

from fakesound.core.lifetime import end_with_parent
from fakesound.core.progress import track

Item = TypeVar("Item")
Result = TypeVar("Result")

MIN_ITEMS_PER_PROCESS = 8  # a process takes about a second to start


def map_parallel(
    function: Callable[[Item], Result], items: Sequence[Item], *, description: str, jobs: int | None = None
) -> Iterator[Result]:
    """Yield `function(item)` for each item, in order, while showing progress.

    Linear algebra runs on one thread everywhere: results do not depend on the number of cores, and processes
    do not fight over them.

    Args:
        function: a module-level function (it is sent to other processes by name).
        items: what to work on.
        description: shown beside the progress.
        jobs: number of processes; default: one a core.
    """
    wanted = min(jobs or os.cpu_count() or 1, len(items) // MIN_ITEMS_PER_PROCESS)
    if wanted <= 1:
        with threadpool_limits(1):
            yield from track((function(item) for item in items), description, total=len(items))
        return
    with ProcessPoolExecutor(wanted, get_context("spawn"), initializer=_start_worker) as pool:
        chunk = max(1, min(16, len(items) // (4 * wanted)))
        try:
            yield from track(pool.map(function, items, chunksize=chunk), description, total=len(items))
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def _start_worker() -> None:
    end_with_parent()
    threadpool_limits(1)
