"""Training on this machine, through torchx's `local_cwd` scheduler."""

import json
import logging
import os
import signal
import sys
import tempfile
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, cast

from fakesound.orchestration.launch import JobLostError, exit_on_sigterm, until_done
from fakesound.orchestration.process import RUN_PID, show
from fakesound.orchestration.rank_failure import RankFailures, TrainingFailedError
from fakesound.orchestration.training_app import ROLE, TrainingJob, training_app
from fakesound.orchestration.training_bar import training_bar

if TYPE_CHECKING:
    from torchx.runner.api import Runner
    from torchx.schedulers import Scheduler, SchedulerFactory
    from torchx.specs import AppStatus

POLL_S = 0.2


class LocalLauncher:
    """One node: this one. SIGTERM to the launching process lets ranks write a checkpoint first."""

    def run(self, job: TrainingJob) -> None:
        """See `Launcher.run`."""
        os.environ.setdefault(RUN_PID, str(os.getpid()))  # ranks end with the run, or else with this process
        with exit_on_sigterm():
            until_done(lambda: _attempt(job), job.launch.max_resubmits)


def _attempt(job: TrainingJob) -> None:
    from torchx.runner.api import Runner

    logging.getLogger("torchx").setLevel(logging.ERROR)
    factories = {"local_cwd": cast("SchedulerFactory", _create_scheduler)}
    app = training_app(job, python=sys.executable)
    with (
        training_bar(show) as take,
        tempfile.TemporaryDirectory() as logs,
        Runner("fakesound", factories) as runner,
    ):
        handle = runner.run(app, scheduler="local_cwd", cfg={"log_dir": logs})
        try:
            status = _follow(runner, handle, take)
        except BaseException:
            runner.cancel(handle)
            runner.wait(handle, wait_interval=POLL_S)  # torchrun kills ranks that do not end in time
            raise
        if status is None or status.state.name != "SUCCEEDED":
            raise _unspoken_failure(status)


def _create_scheduler(*arguments: Any, **options: Any) -> "Scheduler":
    """torchx's own, which takes SIGTERM and Ctrl-C for itself: they are given back."""
    from torchx.schedulers.local_scheduler import create_scheduler

    if threading.current_thread() is not threading.main_thread():
        return create_scheduler(*arguments, **options)
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        return create_scheduler(*arguments, **options)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _follow(runner: "Runner", handle: str, take: Callable[[str], None]) -> "AppStatus | None":
    failures = RankFailures()
    for line in runner.log_lines(handle, ROLE, k=0, should_tail=True):
        if not failures.take(line):
            take(line.rstrip("\n"))
        elif failures.are_final and failures.cause:
            raise failures.cause.to_exception()
    status = runner.wait(handle, wait_interval=POLL_S)
    if failures.cause and (status is None or status.state.name != "SUCCEEDED"):
        raise failures.cause.to_exception()
    return status


def _unspoken_failure(status: "AppStatus | None") -> Exception:
    """What torch elastic's error file says, for ranks that failed before they could say it themselves."""
    try:
        message = json.loads(status.structured_error_msg if status else "")["message"]
        text = f"{message['message']}\n\n{message['extraInfo']['py_callstack'].rstrip()}"
    except (ValueError, KeyError, TypeError):
        return JobLostError("its processes died without a traceback (killed, or out of memory)")
    return TrainingFailedError(f"a training process failed: {text}")
