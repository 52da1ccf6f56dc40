"""Training on a Kubernetes cluster, as a Volcano job through torchx."""

import os
import time
from collections.abc import Callable
from typing import TypeVar

from fakesound.core.errors import UserError
from fakesound.core.progress import say
from fakesound.core.store import Store
from fakesound.orchestration.cluster import Cluster, ClusterUnreachableError, JobState, Pod
from fakesound.orchestration.kube import connect
from fakesound.orchestration.launch import JobLostError, exit_on_sigterm, until_done
from fakesound.orchestration.launch_config import LaunchConfig
from fakesound.orchestration.pod_logs import PodLogs
from fakesound.orchestration.process import show
from fakesound.orchestration.rank_failure import RankFailures, TrainingFailedError
from fakesound.orchestration.tracking import TRACKING_URI_VARIABLE
from fakesound.orchestration.training_app import TrainingJob
from fakesound.orchestration.vcjob import Owner, Surroundings, volcano_request

# Set in the pods of pipeline steps by Kubeflow Pipelines.
POD_NAME, POD_UID = "KFP_POD_NAME", "KFP_POD_UID"

POLL_S = 2.0
MAX_UNANSWERED = 60  # polls: the API of a managed cluster may be away for a minute or two
LAST_WORDS_S = 20.0
GONE_WITHIN_S = 900.0
PAST_DEADLINE = "DeadlineExceeded"

T = TypeVar("T")


class VolcanoLauncher:
    """Submits a job, shows the log of every pod, waits, and deletes the job when this process has to end.

    A job of the same name that is running already, left behind by a launcher that was killed, is followed.

    Args:
        cluster: where to run.
        around: what the job takes over from this process.
    """

    def __init__(self, cluster: Cluster, around: Surroundings) -> None:
        self._cluster = cluster
        self._around = around

    @classmethod
    def connect(cls, namespace: str, store: Store) -> "VolcanoLauncher":
        """With the credentials of this pod or user.

        Raises:
            UserError: there are none.
        """
        from kubernetes.client import ApiClient

        here = connect()
        return cls(Cluster(namespace, ApiClient()), surroundings(namespace, here, store))

    def run(self, job: TrainingJob) -> None:
        """See `Launcher.run`."""
        with exit_on_sigterm():
            until_done(lambda: self._attempt(job), job.launch.max_resubmits)

    def _attempt(self, job: TrainingJob) -> None:
        try:
            self._start(job)
            self._follow(job)
        except JobLostError:
            self._remove(job.name)
            raise
        except BaseException:
            self._stop(job.name)
            raise

    def _start(self, job: TrainingJob) -> None:
        state = self._asking(lambda: self._cluster.job(job.name))
        if state is not None and not (state.is_going or state.has_succeeded or state.has_failed):
            say(f"job {job.name} runs already and is followed (to start anew: kubectl delete vcjob …)")
            return
        if state is not None:
            self._remove(job.name)
        self._asking(lambda: self._cluster.submit(volcano_request(job, self._around)))
        say(f"submitted job {job.name} to namespace {job.launch.cluster.namespace}")

    def _follow(self, job: TrainingJob) -> None:
        logs, failures, told = PodLogs(self._cluster), RankFailures(), dict[int, str]()
        while True:
            state = self._asking(lambda: self._cluster.job(job.name))
            pods = self._asking(lambda: self._cluster.pods(job.name))
            _tell_changes(pods, told)
            logs.follow(pods)
            is_over = _is_over(state, pods, job.launch)
            for replica, line in logs.rest(pods, LAST_WORDS_S) if is_over else logs.lines(POLL_S):
                if not failures.take(line):
                    show(line, f"node {replica} ")
                elif failures.are_final and failures.cause:
                    raise failures.cause.to_exception()
            if state is not None and state.has_succeeded:
                return
            if is_over:
                raise failures.cause.to_exception() if failures.cause else _loss(pods)

    def _remove(self, name: str) -> None:
        """Delete the job and wait until it is gone, its pods before it: no two may write one training."""
        self._asking(lambda: self._cluster.delete_job(name))
        until_s = time.monotonic() + GONE_WITHIN_S
        while self._asking(lambda: self._cluster.job(name)) is not None:
            if time.monotonic() > until_s:
                raise UserError(
                    f"job {name} does not go away: if one of its pods was on a node that is no more, delete "
                    "the node (kubectl delete node), then run the same command again"
                )
            time.sleep(POLL_S)

    def _stop(self, name: str) -> None:
        """Delete the job unless it is over: then it may be looked at until its time is up."""
        try:
            state = self._cluster.job(name)
            if state is not None and not (state.has_succeeded or state.has_failed):
                self._cluster.delete_job(name)
        except ClusterUnreachableError as error:
            say(f"warning: job {name} may still run ({error}): kubectl delete vcjob {name}")

    def _asking(self, request: Callable[[], T]) -> T:
        """The answer to a request, asked again while the cluster does not answer."""
        for left in reversed(range(MAX_UNANSWERED)):
            try:
                return request()
            except ClusterUnreachableError as error:
                if not left:
                    raise TrainingFailedError(f"the cluster does not answer: {error}") from None
            time.sleep(POLL_S)
        raise AssertionError("a loop of at least one round")


def surroundings(namespace: str, here: str, store: Store) -> Surroundings:
    """What a job in that namespace takes over from this process, which is in the namespace `here`."""
    name, uid = os.environ.get(POD_NAME), os.environ.get(POD_UID)
    uri = os.environ.get(TRACKING_URI_VARIABLE)
    return Surroundings(
        # An owner in another namespace counts as gone: the job would be deleted at once.
        owner=Owner(name=name, uid=uid) if name and uid and here == namespace else None,
        env={TRACKING_URI_VARIABLE: uri} if uri else {},
        store_folder=None if store.local_root is None else str(store.local_root),
    )


def _tell_changes(pods: list[Pod], told: dict[int, str]) -> None:
    for pod in pods:
        if told.get(pod.replica) != pod.describe():
            told[pod.replica] = pod.describe()
            say(pod.describe())


def _is_over(state: JobState | None, pods: list[Pod], launch: LaunchConfig) -> bool:
    """Whether nothing more will come of the job; Volcano may wait for ever for what cannot be."""
    if state is None or state.is_going or state.has_succeeded or state.has_failed:
        return True
    failed = [pod.replica for pod in pods if pod.phase == "Failed"]
    # The first node holds the rendezvous: without it, the others cannot meet again.
    return 0 in failed or launch.nodes - len(failed) < launch.fewest_nodes


def _loss(pods: list[Pod]) -> Exception:
    failed = [pod for pod in pods if pod.phase == "Failed"]
    if any(pod.reason == PAST_DEADLINE for pod in failed):
        return UserError(
            "the training ran past launch.cluster.deadline_s: raise it, and the same command goes on"
        )
    return JobLostError("; ".join(pod.describe() for pod in failed) or "its job was deleted")
