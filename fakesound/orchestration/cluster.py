"""The few requests that launching a training makes of a Kubernetes cluster with Volcano.

manifests/30-launcher.yaml grants exactly these.
"""

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from fakesound.core.errors import UserError

if TYPE_CHECKING:
    from kubernetes.client import ApiClient
    from torchx.schedulers.kubernetes_scheduler import KubernetesJob, Opts
    from torchx.specs import AppDryRunInfo

JOBS = {"group": "batch.volcano.sh", "version": "v1alpha1", "plural": "jobs"}
JOB_LABEL = "volcano.sh/job-name"
REPLICA_LABEL = "torchx.pytorch.org/replica-id"
NOT_FOUND, FORBIDDEN, BUSY, BROKEN = 404, 403, 429, 500
TIMEOUT_S = (10, 60)  # to connect, to answer
LOG_TIMEOUT_S = (10, 600)  # a log that says nothing for so long is asked for again


class ClusterUnreachableError(Exception):
    """The cluster's API did not answer, or answered that it could not; it may the next time."""


@dataclass(frozen=True, kw_only=True)
class JobState:
    """Where a Volcano job stands.

    Attributes:
        phase: Volcano's word for it; empty before it has one.
        is_going: whether it has been deleted and is not gone yet.
    """

    phase: str
    is_going: bool

    @property
    def has_succeeded(self) -> bool:
        """Whether it is over, and well."""
        return self.phase == "Completed"

    @property
    def has_failed(self) -> bool:
        """Whether it is over, and not well."""
        return self.phase in ("Failed", "Aborted", "Terminated")


@dataclass(frozen=True, kw_only=True)
class Pod:
    """One replica's pod.

    Attributes:
        name: of the pod; a pod made anew in its place has the same.
        uid: of this very pod.
        replica: number of the node in the training.
        phase: Kubernetes' word: Pending, Running, Succeeded, Failed, Unknown.
        reason: why it waits or ended (`ImagePullBackOff: …`, `OOMKilled`); may be empty.
        exit_code: of its container, once it has one.
    """

    name: str
    uid: str
    replica: int
    phase: str
    reason: str = ""
    exit_code: int | None = None

    @property
    def has_log(self) -> bool:
        """Whether its container has started at some time."""
        return self.phase in ("Running", "Succeeded", "Failed")

    def describe(self) -> str:
        """For a sentence."""
        told = [self.reason] if self.reason else []
        told += [] if self.exit_code is None else [f"exit code {self.exit_code}"]
        return f"node {self.replica} {self.phase.lower()}" + (f" ({', '.join(told)})" if told else "")


class Cluster:
    """One namespace of a cluster.

    Every method raises ClusterUnreachableError where the API does not answer, and UserError where it forbids.

    Args:
        namespace: of all jobs and pods.
        client: of the Kubernetes API.
    """

    def __init__(self, namespace: str, client: "ApiClient") -> None:
        from kubernetes.client import CoreV1Api, CustomObjectsApi

        self._namespace = namespace
        self._client = client
        self._objects = CustomObjectsApi(client)
        self._core = CoreV1Api(client)

    def submit(self, request: "AppDryRunInfo[KubernetesJob, Opts]") -> None:
        """Create the job of a dry run."""
        from torchx.schedulers.kubernetes_scheduler import create_scheduler

        # torchx's ValueError: the job exists. An answer that was lost, and the request came again.
        with suppress(ValueError), _translated():
            create_scheduler("fakesound", client=self._client).schedule(request)

    def job(self, name: str) -> JobState | None:
        """Where the job of that name stands; None if there is none."""
        try:
            with _translated():
                found: Any = self._objects.get_namespaced_custom_object(
                    **JOBS, namespace=self._namespace, name=name, _request_timeout=TIMEOUT_S
                )
        except _NotFoundError:
            return None
        phase = found.get("status", {}).get("state", {}).get("phase", "")
        return JobState(phase=phase, is_going="deletionTimestamp" in found["metadata"])

    def delete_job(self, name: str) -> None:
        """Ask for the job's end, if there is one; it is gone only after its pods are."""
        from kubernetes.client import V1DeleteOptions

        with suppress(_NotFoundError), _translated():
            self._objects.delete_namespaced_custom_object(
                **JOBS,
                namespace=self._namespace,
                name=name,
                body=V1DeleteOptions(propagation_policy="Foreground"),
                _request_timeout=TIMEOUT_S,
            )

    def pods(self, job: str) -> list[Pod]:
        """The pods of a job that are there now, by replica."""
        with _translated():
            found = self._core.list_namespaced_pod(
                self._namespace,
                label_selector=f"{JOB_LABEL}={job}",
                _request_timeout=TIMEOUT_S,
            )
        return sorted(map(_pod, found.items), key=lambda pod: pod.replica)

    def log_lines(self, pod: Pod, since_s: int | None) -> Iterator[str]:
        """A pod's log as it grows, to its end: `TIME TEXT`, a line at a time; nothing if the pod is gone.

        Args:
            pod: that has a log.
            since_s: seconds back from now; None for all of it.
        """
        with suppress(_NotFoundError), _translated():
            response = self._core.read_namespaced_pod_log(
                pod.name,
                self._namespace,
                follow=True,
                timestamps=True,
                **({} if since_s is None else {"since_seconds": since_s}),
                _preload_content=False,
                _request_timeout=LOG_TIMEOUT_S,
            )
            rest = b""
            for chunk in response.stream(amt=None):
                *lines, rest = (rest + chunk).split(b"\n")
                for line in lines:
                    yield line.decode(errors="replace")


def _pod(found: Any) -> Pod:
    metadata, status = found.metadata, found.status
    state = next((c.state for c in status.container_statuses or []), None)
    ended, waiting = (state.terminated, state.waiting) if state else (None, None)
    reason = status.reason or ""
    if ended:
        reason = reason or ("" if ended.reason in ("Completed", "Error") else ended.reason or "")
    elif waiting:
        reason = ": ".join(filter(None, (waiting.reason, waiting.message)))
    elif status.phase == "Pending":
        reason = next(
            (c.message for c in status.conditions or [] if c.status == "False" and c.message), reason
        )
    return Pod(
        name=metadata.name,
        uid=metadata.uid,
        replica=int(metadata.labels[REPLICA_LABEL]),
        phase=status.phase,
        reason=reason,
        exit_code=ended.exit_code if ended else None,
    )


class _NotFoundError(Exception):
    """There is no such object."""


@contextmanager
def _translated() -> Iterator[None]:
    """What the API's refusals mean to a launcher."""
    from kubernetes.client.rest import ApiException
    from urllib3.exceptions import HTTPError

    try:
        yield
    except ApiException as error:
        if error.status == NOT_FOUND:
            raise _NotFoundError from None
        if error.status == FORBIDDEN:
            raise UserError(
                f"the cluster forbids it ({error.reason}): grant what manifests/30-launcher.yaml grants"
            ) from None
        if error.status == BUSY or not error.status or error.status >= BROKEN:
            raise ClusterUnreachableError(f"{error.status} {error.reason}") from None
        raise
    except HTTPError as error:
        raise ClusterUnreachableError(str(error)) from None
