"""Makes items ahead on a thread of their own, so that who takes them seldom waits."""

from collections import deque
from collections.abc import Generator
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

T = TypeVar("T")


def prefetched(items: Generator[T, None, None], ahead: int) -> Generator[T, None, None]:
    """The items, in their order, up to `ahead` of them made before they are asked for.

    All are made on one thread. When this iterator is exhausted or closed it has ended, and `items` is closed.

    Args:
        items: made one after another; what it raises is raised where that item would have come.
        ahead: at least 1.
    """
    with ThreadPoolExecutor(1, "prefetch") as maker:
        coming = deque(maker.submit(_next_of, items) for _ in range(ahead))
        try:
            while made := coming.popleft().result():
                coming.append(maker.submit(_next_of, items))
                yield made[0]
        finally:
            for future in coming:
                future.cancel()
            maker.submit(items.close).result()


def _next_of(items: Generator[T, None, None]) -> tuple[T] | None:
    """The next item in a tuple, which is true whatever the item is; None when there is no more."""
    for item in items:
        return (item,)
    return None
