"""Work spread over processes, with progress; results come in the order of the items."""

import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import get_context
from typing import TypeVar

from threadpoolctl import threadpool_limits

from fakesound.core.errors import UserError
from fakesound.core.lifetime import end_with_parent
from fakesound.core.progress import track

Item = TypeVar("Item")
Result = TypeVar("Result")

MIN_ITEMS_PER_PROCESS = 8  # a process takes a second or two to start


def map_parallel(
    function: Callable[[Item], Result],
    items: Sequence[Item],
    *,
    description: str,
    jobs: int | None = None,
    min_items_per_process: int = MIN_ITEMS_PER_PROCESS,
) -> Iterator[Result]:
    """Yield `function(item)` for each item, in order, while showing progress.

    Linear algebra runs on one thread everywhere: results do not depend on the number of cores, and processes
    do not fight over them.

    Args:
        function: a module-level function (it is sent to other processes by name).
        items: what to work on.
        description: shown beside the progress.
        jobs: number of processes; default: one a core.
        min_items_per_process: with fewer there are fewer processes; 1 where one item takes many seconds.

    Raises:
        UserError: a worker was killed from outside, as the kernel does when memory runs out.
    """
    wanted = min(jobs or os.cpu_count() or 1, len(items) // min_items_per_process)
    if wanted <= 1:
        with threadpool_limits(1):
            yield from track((function(item) for item in items), description, total=len(items))
        return
    with ProcessPoolExecutor(wanted, get_context("spawn"), initializer=_start_worker) as pool:
        chunk = max(1, min(16, len(items) // (4 * wanted)))
        try:
            yield from track(pool.map(function, items, chunksize=chunk), description, total=len(items))
        except BrokenProcessPool:
            raise UserError(
                f"{description}: a worker process was killed, most often because memory ran out. Free some, "
                "then run the same command again: what was finished is kept, and it goes on from there"
            ) from None
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def _start_worker() -> None:
    end_with_parent()
    threadpool_limits(1)
