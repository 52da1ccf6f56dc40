"""A pipeline step as a process: how it speaks, how it fails, and that it never outlives the run.

`pipelines.local` sets two environment variables: STEP_LINES asks for marked lines (so that a step's own words
can be told from the executor's), RUN_PID names the process that the step must not outlive.
"""

import os
import sys
import threading
import traceback
from collections.abc import Callable
from typing import ParamSpec, TextIO, TypeVar

from fakesound.core.errors import UserError
from fakesound.core.lifetime import end_with
from fakesound.core.progress import say

STEP_LINES = "FAKESOUND_STEP_LINES"
RUN_PID = "FAKESOUND_RUN_PID"
LINE_MARK = "fakesound| "
FAILURE_MARK = "fakesound! "

P = ParamSpec("P")
T = TypeVar("T")


class _MarkedStream:
    """Writes whole lines, each behind a mark; everything else is the wrapped stream's."""

    def __init__(self, stream: TextIO, mark: str) -> None:
        self._stream = stream
        self._mark = mark
        self._rest = ""
        self._lock = threading.Lock()

    def write(self, text: str) -> int:
        """Write the lines that are whole by now."""
        with self._lock:
            *lines, self._rest = (self._rest + text).split("\n")
            self._stream.write("".join(f"{self._mark}{line}\n" for line in lines))
        return len(text)

    def __getattr__(self, name: str) -> object:
        return getattr(self._stream, name)


def run_step(function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Run a stage as the whole work of this process.

    A UserError ends the process with exit code 2 and its message alone, anything else with exit code 1 and
    the traceback: in both cases the last lines that the process writes.
    """
    end_with_run()
    # An empty mark leaves the text as it is: on a cluster a pod's log belongs to one step anyway.
    marked = os.environ.get(STEP_LINES) == "1"
    out = sys.stdout
    if marked:
        sys.stdout = _MarkedStream(out, LINE_MARK)  # type: ignore[assignment]
    try:
        return function(*args, **kwargs)
    except UserError as error:
        text, code = f"error: {error}", 2
    except Exception:
        text, code = traceback.format_exc(), 1
    finally:
        sys.stdout = out
    mark = FAILURE_MARK if marked else ""
    out.write("".join(f"{mark}{line}\n" for line in text.rstrip().split("\n")))
    out.flush()
    sys.exit(code)


def show(line: str, where: str = "") -> None:
    """A line of a training's log: a rank's own words are progress, the agent's and gloo's a record."""
    if line.startswith("[rank") and "[Gloo]" not in line:
        say(f"{where}{line}")
    else:
        print(f"{where}{line}", file=sys.stderr, flush=True)


def end_with_run() -> None:
    """Die with the process that drives the run, where one is named."""
    pid = os.environ.get(RUN_PID)
    if pid:
        end_with(int(pid))
