"""Processes that never outlive the one they work for: an orphan would race with its successor."""

import os
import select
import signal
import threading


def end_with(pid: int) -> None:
    """Kill this process as soon as process `pid` has ended, even if it was killed itself (Linux)."""
    try:
        watched = os.pidfd_open(pid)
    except ProcessLookupError:
        os.kill(os.getpid(), signal.SIGKILL)
        return

    def watch() -> None:
        select.select([watched], [], [])
        os.kill(os.getpid(), signal.SIGKILL)

    threading.Thread(target=watch, name=f"end-with-{pid}", daemon=True).start()


def end_with_parent() -> None:
    """For workers of a pool: kill this process as soon as the one that started it has ended."""
    end_with(os.getppid())
