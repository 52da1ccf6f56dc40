"""How a rank says what went wrong: one marked line of its log, wherever that log is read.

torch elastic's error files stay on the machine or in the pod where they were written; a log reaches whoever
launched the training, and in time to end a job that must not be restarted.
"""

import os
import sys
import time
import traceback
from typing import Literal

from pydantic import Field, ValidationError

from fakesound.core.config import Config
from fakesound.core.errors import UserError

MARK = "fakesound-rank-failure "
ENDED_WITHIN_S = 30.0
MAX_TRACE_CHARS = 8000  # container runtimes split lines of 16 KiB
OF_A_PEER = ("gloo", "NCCL", "Connection closed by peer", "Connection reset by peer", "Broken pipe")


class TrainingFailedError(RuntimeError):
    """A training process failed; the message ends with the traceback of the rank that failed first."""


class RankFailure(Config):
    """What one rank failed of.

    Attributes:
        kind: `user`, a UserError; `peer`, another process went away; `own`, anything else.
        message: type and text of the exception; of a UserError, its text.
        trace: the traceback, its last characters where it is long.
        time_s: since 1970, by the clock of the rank's machine.
        rank: among all processes.
        restart: how often torchrun had restarted its processes before.
    """

    kind: Literal["user", "peer", "own"]
    message: str
    trace: str = ""
    time_s: float
    rank: int = Field(ge=0)
    restart: int = Field(ge=0)

    @classmethod
    def of(cls, error: BaseException) -> "RankFailure":
        """This process's failure."""
        is_user = isinstance(error, UserError)
        trace = "".join(traceback.format_exception(error)).rstrip()
        return cls(
            kind="user" if is_user else "peer" if _is_of_a_peer(error) else "own",
            message=str(error) if is_user else f"{type(error).__name__}: {error}",
            trace="" if is_user else trace[-MAX_TRACE_CHARS:],
            time_s=time.time(),
            rank=int(os.environ.get("RANK", "0")),
            restart=int(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")),
        )

    @classmethod
    def from_line(cls, line: str) -> "RankFailure | None":
        """The failure that a line of a log tells of; None for any other line."""
        _, mark, text = line.partition(MARK)
        if not mark:
            return None
        try:
            return cls.model_validate_json(text)
        except ValidationError:
            return None

    def to_line(self) -> str:
        """For a log; `from_line` reads it, whatever a launcher puts before it."""
        return f"{MARK}{self.model_dump_json()}"

    def to_exception(self) -> Exception:
        """For the process that launched the training."""
        if self.kind == "user":
            return UserError(self.message)
        return TrainingFailedError(f"a training process failed: {self.message}\n\n{self.trace}")


def announce(error: BaseException) -> None:
    """Say what this rank fails of; for its outermost `except`.

    After a user's mistake it waits to be ended by whoever reads that: a rank that ends itself is restarted.
    """
    failure = RankFailure.of(error)
    sys.stdout.write(f"{failure.to_line()}\n")
    sys.stdout.flush()
    if failure.kind == "user":
        time.sleep(ENDED_WITHIN_S)


def _is_of_a_peer(error: BaseException) -> bool:
    if not isinstance(error, RuntimeError | OSError):
        return False
    of_torch = type(error).__module__.startswith("torch.distributed") or type(error).__name__.startswith(
        "Dist"
    )
    return of_torch or any(word in str(error) for word in OF_A_PEER)


class RankFailures:
    """What the ranks of one job said they failed of."""

    def __init__(self) -> None:
        self._told: list[RankFailure] = []

    def take(self, line: str) -> bool:
        """Keep the failure that a line tells of; whether it told of one."""
        failure = RankFailure.from_line(line)
        if failure is not None:
            self._told.append(failure)
        return failure is not None

    @property
    def cause(self) -> RankFailure | None:
        """What failed first, not counting those whom that took along; a user's mistake before all else."""
        causes = [failure for failure in self._told if failure.kind != "peer"]
        return min(causes, key=lambda f: (f.kind != "user", f.restart, f.time_s), default=None)

    @property
    def are_final(self) -> bool:
        """Whether to start again is of no use: a user's mistake, or a failure that a restart did not mend."""
        own: dict[str, int] = {}
        for failure in self._told:
            if failure.kind == "user":
                return True
            if failure.kind == "own" and own.setdefault(failure.message, failure.restart) != failure.restart:
                return True
        return False
