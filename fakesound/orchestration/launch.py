"""Launching a distributed training: a pure description of the job, and where it runs."""

import json
import logging
import os
import sys
import tempfile
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, cast

from fakesound.core.errors import UserError
from fakesound.core.progress import say
from fakesound.orchestration.process import RUN_PID

if TYPE_CHECKING:
    from torchx.schedulers import SchedulerFactory
    from torchx.specs import AppDef, AppStatus

WORKER_MODULE = "fakesound.orchestration.worker"
ROLE = "trainer"


@dataclass(frozen=True, kw_only=True)
class TrainingJob:
    """One training to launch.

    Attributes:
        name: of the job, a DNS label.
        arguments: of the worker module.
        processes: ranks on the one node.
        threads_per_process: of OpenMP.
        python: interpreter that has fakesound installed.
        image: container image; the local scheduler ignores it.
    """

    name: str
    arguments: tuple[str, ...]
    processes: int
    threads_per_process: int
    python: str
    image: str


class TrainingFailedError(RuntimeError):
    """A training process failed; the message ends with the traceback of the rank that failed first."""


class Launcher(Protocol):
    """Runs a training job to its end."""

    def run(self, job: TrainingJob) -> None:
        """Start the job, show its output, wait for it.

        Raises:
            TrainingFailedError: a rank failed.
            UserError: a rank met something that the user can mend.
        """
        ...


def training_app(job: TrainingJob) -> "AppDef":
    """The torchx application of a job: torchrun on one node, ranks meeting at a free port of their own."""
    from torchx.specs import AppDef, Resource, Role

    role = Role(
        name=ROLE,
        image=job.image,
        entrypoint=job.python,
        args=[
            "-m",
            "torch.distributed.run",
            "--nnodes=1",
            f"--nproc-per-node={job.processes}",
            "--rdzv-backend=c10d",
            "--rdzv-endpoint=127.0.0.1:0",  # port 0: each job finds a free one
            "--local-addr=127.0.0.1",
            "--max-restarts=0",
            "--role=rank",
            "--tee=3",
            "-m",
            WORKER_MODULE,
            *job.arguments,
        ],
        env={
            "OMP_NUM_THREADS": str(job.threads_per_process),
            "NUMBA_NUM_THREADS": str(job.threads_per_process),
            "PYTHONUNBUFFERED": "1",
            "LOGLEVEL": "ERROR",
        },
        resource=Resource(cpu=job.processes * job.threads_per_process, gpu=0, memMB=-1),
        num_replicas=1,
    )
    return AppDef(name=job.name, roles=[role])


class LocalLauncher:
    """Runs on this machine through torchx's `local_cwd` scheduler."""

    def run(self, job: TrainingJob) -> None:
        """See `Launcher.run`."""
        from torchx.runner.api import Runner
        from torchx.schedulers.local_scheduler import create_scheduler

        logging.getLogger("torchx").setLevel(logging.ERROR)
        os.environ.setdefault(RUN_PID, str(os.getpid()))  # ranks end with the run, or else with this process
        app = training_app(job)
        factories = {"local_cwd": cast("SchedulerFactory", create_scheduler)}
        status: AppStatus | None = None
        with tempfile.TemporaryDirectory() as logs, Runner("fakesound", factories) as runner:
            handle = runner.run(app, scheduler="local_cwd", cfg={"log_dir": logs})
            for line in runner.log_lines(handle, ROLE, k=0, should_tail=True):
                _show(line.rstrip("\n"))
            status = runner.wait(handle, wait_interval=0.2)
        if status is None or status.state.name != "SUCCEEDED":
            raise _failure(status)


def _show(line: str) -> None:
    """A rank's own words are progress; the agent's and gloo's are for the complete log."""
    if line.startswith("[rank") and "[Gloo]" not in line:
        say(line)
    else:
        print(line, file=sys.stderr, flush=True)


def _failure(status: "AppStatus | None") -> Exception:
    """What went wrong, in the words of the rank that failed first."""
    structured = status.structured_error_msg if status else ""
    try:
        message = json.loads(structured)["message"]
        text = message if isinstance(message, str) else message["message"]
        trace = "" if isinstance(message, str) else message["extraInfo"]["py_callstack"]
    except (ValueError, KeyError, TypeError):
        return TrainingFailedError("a training process died without a traceback (killed, or out of memory)")
    name, _, rest = text.partition(": ")
    if name == UserError.__name__:  # worker.py sees to the name
        return UserError(rest)
    return TrainingFailedError(f"a training process failed: {text}\n\n{trace.rstrip()}")


def get_launcher(name: str) -> Launcher:
    """The launcher of that name.

    Raises:
        UserError: there is none.
    """
    check_launcher(name)
    return LocalLauncher()


def check_launcher(name: str) -> None:
    """Refuse what `get_launcher` would, without importing anything heavy."""
    if name == "volcano":
        raise UserError("launcher 'volcano' is not available yet: use launcher=local")
    if name != "local":
        raise UserError(f"no launcher {name!r}; known: local, volcano")
