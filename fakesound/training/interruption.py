"""Being asked to stop: by a node that goes away, a scheduler that preempts, a user who has had enough.

A signal to any one process is enough. The processes agree on the step after which they stop, write a
checkpoint, and end with INTERRUPTED_EXIT_CODE; started again, the training goes on from that step.
"""

import signal
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from types import FrameType

from fakesound.training.ranks import Ranks

SIGNALS = (signal.SIGTERM, signal.SIGUSR1)  # SIGUSR1: what spot notices and batch systems send ahead of time
INTERRUPTED_EXIT_CODE = 128 + signal.SIGTERM  # 143, as a shell says of a process that SIGTERM ended
CHECKS_PER_NOTICE = 10
MOST_STEPS_BETWEEN_CHECKS = 1000


class InterruptedTrainingError(Exception):
    """The training was asked to stop and did, with a checkpoint to go on from. Nobody's mistake."""


class Interruption:
    """Whether this process was asked to stop."""

    def __init__(self) -> None:
        self.is_asked = False

    @contextmanager
    def on_signals(self, signals: Iterable[signal.Signals] = SIGNALS) -> Iterator[None]:
        """For the time of the block, these signals ask instead of killing. Main thread only."""

        def ask(number: int, frame: FrameType | None) -> None:
            self.is_asked = True

        before = {number: signal.signal(number, ask) for number in signals}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)


class Agreement:
    """Whether any process was asked, as all processes come to know it after the same step.

    To ask each other costs a reduction and, on a GPU, a wait for it. They do so CHECKS_PER_NOTICE times in a
    notice period, by the clock of the slowest, and after every step where steps take longer than that.

    Args:
        interruption: of this process.
        ranks: this process among the others.
        notice_s: how long after a signal the process may still run.
    """

    def __init__(self, interruption: Interruption, ranks: Ranks, notice_s: float) -> None:
        self._interruption = interruption
        self._ranks = ranks
        self._notice_s = notice_s
        self._steps_to_go = 1
        self._interval = 1
        self._since_s = time.monotonic()

    @property
    def is_asked_here(self) -> bool:
        """Whether this very process was asked; the others need not know yet."""
        return self._interruption.is_asked

    def after_step(self) -> bool:
        """Whether to stop; to be called after every step, by every process."""
        if self._ranks.world_size == 1:
            return self.is_asked_here
        self._steps_to_go -= 1
        return self._steps_to_go == 0 and self.now()

    def now(self) -> bool:
        """Whether to stop; every process must call this at the same point."""
        if self._ranks.world_size == 1:
            return self.is_asked_here
        step_s = (time.monotonic() - self._since_s) / self._interval
        is_asked, slowest_step_s = self._ranks.largest([float(self.is_asked_here), step_s])
        # From figures that all processes share, or they would ask each other after different steps.
        interval = int(self._notice_s / CHECKS_PER_NOTICE / max(slowest_step_s, 1e-9))
        self._interval = self._steps_to_go = min(max(1, interval), MOST_STEPS_BETWEEN_CHECKS)
        self._since_s = time.monotonic()
        return bool(is_asked)
