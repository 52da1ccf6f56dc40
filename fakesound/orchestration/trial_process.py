"""A trial in a process of its own: one that is killed, or out of memory, is one failed trial and no more."""

import io
import math
import os
import sys
import threading
import time
import traceback
from multiprocessing import get_context
from multiprocessing.connection import Connection

from fakesound.core.lifetime import end_with
from fakesound.core.progress import say
from fakesound.orchestration.sweep import Objective, Trial, TrialRecord, TrialStoppedError

POLL_S = 0.2
LEAVE_S = 10.0  # for a process that has said all it had to say


def run_in_process(objective: Objective, trial: Trial, run: str, cancelled: threading.Event) -> TrialRecord:
    """Run a trial to its end, or until `cancelled`; what it prints is shown behind its number."""
    started_s = time.monotonic()
    context = get_context("spawn")
    ours, theirs = context.Pipe(duplex=False)
    process = context.Process(target=_work, args=(objective, trial, run, theirs, os.getpid()))
    process.start()
    theirs.close()
    record: TrialRecord | None = None
    try:
        while not cancelled.is_set():
            if not ours.poll(POLL_S):
                continue
            try:
                message = ours.recv()
            except (EOFError, OSError):
                break
            if isinstance(message, TrialRecord):
                record = message
            else:
                say(f"[trial {trial.number}] {message}")
    finally:
        if cancelled.is_set():
            process.kill()
        process.join(LEAVE_S)
        if process.is_alive():
            process.kill()
            process.join()
        ours.close()
    if record is None:
        record = TrialRecord(trial.number, trial.parameters, state="failed", error=_death(process.exitcode))
    record.seconds = round(time.monotonic() - started_s, 3)
    return record


def attempt(objective: Objective, trial: Trial, run: str) -> TrialRecord:
    """Run a trial in this process; whatever it raises is its failure."""
    record = TrialRecord(trial.number, trial.parameters)

    def report(epoch: int, score: float) -> None:
        record.steps[str(epoch)] = score
        if trial.rule is not None and trial.rule.stops(record.scores):
            raise TrialStoppedError

    try:
        record.value = objective(trial, run, report)
        if not math.isfinite(record.value):
            raise ValueError(f"it ended with score {record.value}")
    except TrialStoppedError:
        record.state, record.value = "stopped", record.scores[-1]
    except Exception as error:
        traceback.print_exc()
        record.state, record.value, record.error = "failed", None, str(error) or type(error).__name__
    return record


def _work(objective: Objective, trial: Trial, run: str, pipe: Connection, parent: int) -> None:
    end_with(parent)
    sys.stdout = _Lines(pipe)
    record = attempt(objective, trial, run)
    pipe.send(record)


def _death(code: int | None) -> str:
    if code is not None and code < 0:
        return f"its process was killed by signal {-code}: most often because memory ran out"
    return f"its process ended with exit code {code} before it could say why"


class _Lines(io.TextIOBase):
    """Sends whole lines to the process that started this one."""

    def __init__(self, pipe: Connection) -> None:
        self._pipe = pipe
        self._rest = ""

    def write(self, text: str) -> int:
        """Send the lines that are whole by now."""
        *lines, self._rest = (self._rest + text).split("\n")
        for line in lines:
            self._pipe.send(line)
        return len(text)
