"""Progress of long work: a rich bar on a terminal, plain lines at a steady pace elsewhere."""

import sys
import time
from collections.abc import Iterable, Iterator, Sized
from typing import TypeVar

T = TypeVar("T")

PLAIN_LINE_EVERY_S = 5.0


def say(text: str) -> None:
    """One plain line, flushed at once so that a log reader sees it as it happens."""
    print(text, flush=True)


def track(items: Iterable[T], description: str, total: int | None = None) -> Iterator[T]:
    """Yield `items` while showing how far along they are."""
    if total is None and isinstance(items, Sized):
        total = len(items)
    if sys.stdout.isatty():
        from rich.progress import track as rich_track

        yield from rich_track(items, description=description, total=total)
        return
    yield from _plain(items, description, total)


def _plain(items: Iterable[T], description: str, total: int | None) -> Iterator[T]:
    started_s = last_s = time.monotonic()
    done = 0
    for done, item in enumerate(items, start=1):
        yield item
        now_s = time.monotonic()
        if now_s - last_s >= PLAIN_LINE_EVERY_S:
            say(f"{description}: {done}{f'/{total}' if total else ''}, {now_s - started_s:.0f} s")
            last_s = now_s
    say(f"{description}: {done} done in {time.monotonic() - started_s:.1f} s")
