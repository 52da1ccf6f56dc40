"""Launching a distributed training: who can, and what any of them does about a job that was lost."""

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import NoReturn, Protocol

from fakesound.core.errors import UserError
from fakesound.core.progress import say
from fakesound.core.store import Store
from fakesound.orchestration.kube import check_cluster
from fakesound.orchestration.launch_config import LaunchConfig
from fakesound.orchestration.rank_failure import TrainingFailedError
from fakesound.orchestration.training_app import TrainingJob

LOCAL, VOLCANO = "local", "volcano"
TERMINATED_EXIT_CODE = 128 + signal.SIGTERM


class JobLostError(Exception):
    """A job ended early, through nothing a rank reported: preempted, killed, its node gone."""


class Launcher(Protocol):
    """Runs a training job to its end."""

    def run(self, job: TrainingJob) -> None:
        """Start the job, show its output, wait for it; start it again where it was lost.

        Raises:
            TrainingFailedError: a rank failed.
            UserError: a rank met something that the user can mend.
        """
        ...


def get_launcher(name: str, launch: LaunchConfig, store: Store, image: str) -> Launcher:
    """The launcher of that name.

    Raises:
        UserError: as `check_launcher`, and where pods would have no image.
    """
    check_launcher(name, launch, store)
    if name == LOCAL:
        from fakesound.orchestration.local_launcher import LocalLauncher

        return LocalLauncher()
    if not image:
        raise UserError("launcher volcano needs a container image that has fakesound installed: --image NAME")
    from fakesound.orchestration.volcano import VolcanoLauncher

    return VolcanoLauncher.connect(launch.cluster.namespace, store)


def check_launcher(name: str, launch: LaunchConfig, store: Store) -> None:
    """Refuse what cannot be launched, without importing anything heavy.

    Raises:
        UserError: there is no such launcher, or it cannot do what the configuration asks.
    """
    if name == LOCAL:
        if launch.nodes > 1:
            raise UserError(f"launcher local has one node, not {launch.nodes}: launch.nodes=1, or volcano")
    elif name == VOLCANO:
        _check_store(launch.cluster.store_claim, store)
        check_cluster("launcher=volcano")
    else:
        raise UserError(f"no launcher {name!r}; known: {LOCAL}, {VOLCANO}")


def _check_store(claim: str | None, store: Store) -> None:
    if store.local_root is not None and claim is None:
        raise UserError(
            f"launcher volcano: pods do not see the folder {store.url}; use a remote store (s3://…), or name "
            "the volume claim that holds it: launch.cluster.store_claim"
        )
    if store.local_root is None and claim is not None:
        raise UserError(f"launch.cluster.store_claim is for a store in a folder, and {store.url} is remote")


def until_done(attempt: Callable[[], None], max_resubmits: int) -> None:
    """Call `attempt` again whenever it loses its job; each goes on from the last checkpoint.

    Raises:
        TrainingFailedError: it was lost once more than that.
    """
    for left in reversed(range(max_resubmits + 1)):
        try:
            return attempt()
        except JobLostError as lost:
            if not left:
                raise TrainingFailedError(
                    f"the training was lost: {lost}. Given up after {max_resubmits + 1} attempts; the same "
                    "command goes on from the last checkpoint"
                ) from None
            say(f"the training was lost: {lost}. Submitted again ({left - 1} more times if need be)")
    return None


@contextmanager
def exit_on_sigterm() -> Iterator[None]:
    """For the time of the block SIGTERM raises SystemExit: what was launched can be ended in order."""
    if threading.current_thread() is not threading.main_thread():
        yield  # a handler can be set by the main thread alone
        return

    def leave(number: int, frame: FrameType | None) -> NoReturn:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)  # said once; what follows is not to be cut short
        raise SystemExit(TERMINATED_EXIT_CODE)

    before = signal.signal(signal.SIGTERM, leave)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
