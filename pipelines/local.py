"""Run the DAG on this machine: `python -m pipelines.local --store STORE [--recordings FOLDER]`.

kfp's local runner does the work. What this adds: progress without the executor's noise, the complete log in
{store}/logs/, and, when a step fails, its own words as the last thing on the screen.
"""

import argparse
import builtins
import contextlib
import io
import os
import re
import sys
import tempfile
import textwrap
import time
import warnings
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TextIO

from filelock import FileLock, Timeout
from kfp import local

from fakesound.core.errors import UserError
from fakesound.core.store import Pointer, Store
from fakesound.evaluation.result import EvaluationResult
from fakesound.evaluation.table import render_table
from fakesound.orchestration.config import RunConfig
from fakesound.orchestration.process import FAILURE_MARK, LINE_MARK, RUN_PID, STEP_LINES
from fakesound.orchestration.tracking import open_command
from pipelines.platform import PlatformConfig
from pipelines.unseen_attack import unseen_attack

TITLES = {
    "open-run": "opening the run",
    "corpus": "corpus",
    "plan-features": "features",
    "features-shard": "",
    "finish-features": "",
    "sweep": "sweep",
    "train": "training",
    "evaluate": "evaluation",
    "register": "registration",
    "close-run": "",
}
_COLOURS = re.compile(r"\x1b\[[0-9;]*m")
_TASK_STARTS = re.compile(r"Executing task '([a-z-]+?)(?:-\d+)?'")
_TASK_FAILED = "finished with status FAILURE"
_OF_KFP = re.compile(r"\d\d:\d\d:\d\d\.\d+ - [A-Z]+ - |-{20}")
LAST_LINES = 60
EXIT_FAILED, EXIT_USER, EXIT_INTERRUPTED = 1, 2, 130


class StepFailedError(Exception):
    """A step failed; `text` is what it said last: a traceback, or `error: …` for what the user can mend."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.text = text

    @property
    def exit_code(self) -> int:
        """2 when the user can mend it, else 1."""
        return EXIT_USER if self.text.startswith("error: ") else EXIT_FAILED


class RunView(io.TextIOBase):
    """Stands in for stdout while kfp runs: shows what steps say, keeps their last words, logs everything.

    Args:
        screen: where progress goes.
        log: where every line goes.
    """

    def __init__(self, screen: TextIO, log: TextIO) -> None:
        self._screen = screen
        self._log = log
        self._rest = ""
        self._started_s = time.monotonic()
        self._last_lines: deque[str] = deque(maxlen=LAST_LINES)
        self._failure: list[str] = []
        self._cause = ""

    def write(self, text: str) -> int:
        """Take text as it comes; whole lines are acted on."""
        *lines, self._rest = (self._rest + text).split("\n")
        for line in lines:
            self._take(line)
        return len(text)

    def failure(self) -> str:
        """What the first failing step said last."""
        return self._cause or self._last_words()

    def _last_words(self) -> str:
        if self._failure:
            return "\n".join(self._failure)
        said = list(self._last_lines)
        starts = [k for k, line in enumerate(said) if line.lstrip().startswith("Traceback ")]
        if starts:  # it failed before it could speak through `run_step`: on an import, say
            return textwrap.dedent("\n".join(said[starts[-1] :]))
        return "\n".join(["a step died without a traceback; the last lines of its log:", *said])

    def _take(self, raw: str) -> None:
        plain = _COLOURS.sub("", raw)
        line = plain.lstrip(" ")
        self._log.write(f"{plain}\n")
        self._log.flush()
        if line.startswith(LINE_MARK):
            self._show(f"    {line.removeprefix(LINE_MARK)}")
        elif line.startswith(FAILURE_MARK):
            self._failure.append(line.removeprefix(FAILURE_MARK))
        elif starts := _TASK_STARTS.search(line):
            self._heading(starts[1])
        elif _TASK_FAILED in line:
            # The first step to fail is the cause; what the exit handler says after that is not.
            self._cause = self._cause or self._last_words()
        elif line and not _OF_KFP.match(line):
            self._last_lines.append(plain)

    def _heading(self, task: str) -> None:
        title = TITLES.get(task, task)
        if title:
            minutes, seconds = divmod(int(time.monotonic() - self._started_s), 60)
            self._show(f"[{minutes:02d}:{seconds:02d}] {title}")

    def _show(self, text: str) -> None:
        self._screen.write(f"{text}\n")
        self._screen.flush()


def run_locally(
    pipeline: Callable[..., Any], arguments: Mapping[str, str], *, root: Path, log_path: Path
) -> None:
    """Run a pipeline to its end.

    Args:
        pipeline: what `dsl.pipeline` made.
        arguments: of the pipeline.
        root: where kfp puts the pointer files of this run.
        log_path: complete log, written as it happens.

    Raises:
        StepFailedError: a step failed.
    """
    # kfp says that this runner ignores images and display names; both are for the cluster.
    warnings.filterwarnings("ignore", module="kfp")
    os.environ |= {STEP_LINES: "1", RUN_PID: str(os.getpid()), "PYTHONUNBUFFERED": "1"}
    local.init(local.SubprocessRunner(use_venv=False), pipeline_root=str(root))
    log_path.parent.mkdir(parents=True, exist_ok=True)
    with log_path.open("w") as log:
        view = RunView(sys.stdout, log)
        plain_print = builtins.print
        try:
            with contextlib.redirect_stdout(view):
                pipeline(**arguments)
        except RuntimeError as error:
            log.write(f"{error}\n")
            raise StepFailedError(view.failure()) from None
        finally:
            builtins.print = plain_print  # kfp indents it, and with parallel tasks forgets to undo that


def show_result(store: Store, root: Path) -> None:
    """Print the table, where the report is, and how to open MLflow."""
    place = Pointer.read(next(root.glob("*/evaluate/evaluation"))).open()
    result = EvaluationResult.model_validate_json(place.read_bytes("metrics.json"))
    print(f"\n{render_table(result)}\n")
    print(f"report:   {place.uri}/report.html")
    print(f"runs:     {open_command(store)}")


@contextlib.contextmanager
def only_run(store: Store) -> Iterator[None]:
    """Keep a second run away from a local store: both would write the same places.

    Raises:
        UserError: a run is using the store.
    """
    if store.local_root is None:
        yield
        return
    store.local_root.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(store.local_root / ".run.lock", timeout=0):
            yield
    except Timeout:
        raise UserError(
            f"another run is using the store {store.url}: wait for it, or choose another"
        ) from None


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m pipelines.local", description=__doc__)
    parser.add_argument("--store", default="store", help="folder for everything a run makes (default: store)")
    parser.add_argument("--recordings", help="folder of recordings; without it a corpus is generated")
    parser.add_argument("--config", help="preset (builtin, folder, laboratory) or YAML file")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="change one value")
    parser.add_argument("--launcher", default="local", help="how training is launched: local, volcano")
    parser.add_argument("--sweeper", default="optuna", help="who searches hyperparameters: optuna, katib")
    return parser.parse_args(argv)


def _run(options: argparse.Namespace) -> None:
    store = Store(options.store)
    recordings = Path(options.recordings).expanduser().absolute() if options.recordings else None
    if recordings and not recordings.is_dir():
        raise UserError(f"no folder {recordings}")
    preset = options.config or ("folder" if recordings else "builtin")
    config = RunConfig.load(preset, options.set)
    now = datetime.now(UTC).strftime("%Y%m%dT%H%M%SZ")
    log_root = store.local_root or Path(tempfile.gettempdir()) / "fakesound"
    log_path = log_root / "logs" / f"run-{now}.log"
    print(f"complete log: {log_path}", flush=True)
    with only_run(store), tempfile.TemporaryDirectory(prefix="fakesound-run-") as folder:
        platform = PlatformConfig(store=store.url, launcher=options.launcher, sweeper=options.sweeper)
        what = {"config": config.to_json(), "recordings": str(recordings or "")}
        run_locally(unseen_attack, what | platform.arguments(), root=Path(folder), log_path=log_path)
        show_result(store, Path(folder))


def main(argv: Sequence[str] | None = None) -> int:
    """Run, show the result, and return the exit code: 0, 1 (a bug), 2 (the user can mend it)."""
    options = _parse(argv)
    try:
        _run(options)
    except StepFailedError as failure:
        print(f"\n{failure.text}", file=sys.stderr)
        return failure.exit_code
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return EXIT_USER
    except KeyboardInterrupt:
        print("\ninterrupted: the same command goes on from here", file=sys.stderr)
        return EXIT_INTERRUPTED
    return 0


if __name__ == "__main__":
    sys.exit(main())
