"""A Kubernetes API with Volcano, as far as the launcher uses it: it answers the real client's HTTP requests.

Every job that is created plays the next of some `Attempt`s; each look at the job moves it on by a moment.
"""

import io
import json
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

from kubernetes.client import ApiClient, Configuration
from urllib3 import HTTPResponse
from urllib3.exceptions import MaxRetryError

HOST = "http://fake"


class _Body(io.BytesIO):
    """Closed once it is read to its end, as the body of a connection is."""

    def read(self, size: int | None = -1) -> bytes:
        data = super().read(size)
        if not data or self.tell() == len(self.getbuffer()):
            self.close()
        return data


@dataclass
class Moment:
    """What is seen at one moment: Volcano's phase of the job, and of each replica its pod's status."""

    phase: str
    pods: list[dict[str, Any] | None]


@dataclass
class Attempt:
    """What becomes of one submission: its moments, of which the last lasts; each replica's log."""

    moments: list[Moment]
    logs: dict[int, list[str]] = field(default_factory=dict)


def pod(phase: str, *, exit_code: int | None = None, reason: str | None = None) -> dict[str, Any]:
    """A pod's status; `reason` is its container's."""
    state: dict[str, Any] = {}
    if exit_code is not None:
        state["terminated"] = {
            "exitCode": exit_code,
            "reason": reason or ("Error" if exit_code else "Completed"),
        }
    elif phase == "Pending" and reason:
        state["waiting"] = {"reason": reason}
    elif phase == "Running":
        state["running"] = {}
    container = {"name": "c", "image": "i", "imageID": "", "ready": True, "restartCount": 0, "state": state}
    return {"phase": phase, "containerStatuses": [container]}


class FakeVolcano:
    """See the module.

    Args:
        attempts: what becomes of each submission.
        deletion_takes: how often a deleted job is still seen.
    """

    def __init__(self, *attempts: Attempt, deletion_takes: int = 2) -> None:
        self.attempts = list(attempts)
        self.deletion_takes = deletion_takes
        self.requests: list[tuple[str, str, dict[str, str], Any]] = []
        self.submitted: list[dict[str, Any]] = []
        self.unreachable = 0  # of the next requests, this many are not answered
        self.refuse: int | None = None  # a status that every request gets
        self._job: dict[str, Any] | None = None
        self._attempt: Attempt | None = None
        self._moment = -1
        self._going = 0

    def client(self) -> ApiClient:
        """The real client, connected to this."""
        configuration = Configuration()
        configuration.host = HOST
        client = ApiClient(configuration)
        client.rest_client.pool_manager = self
        return client

    def leave_running(self, name: str) -> None:
        """A job of that name is there from before."""
        self._create({"metadata": {"name": name}})

    @property
    def is_empty(self) -> bool:
        """Whether no job is there, or only one that is being deleted."""
        return self._job is None or self._going > 0

    def request(self, method, url, fields=None, body=None, preload_content=True, **_) -> HTTPResponse:
        """One HTTP request, as urllib3's pool takes it."""
        parts = urlsplit(url)
        query = dict(fields or [])
        parsed = json.loads(body) if body else None
        self.requests.append((method, parts.path, query, parsed))
        if self.unreachable:
            self.unreachable -= 1
            raise MaxRetryError(None, url, ConnectionError("no route"))  # type: ignore[arg-type]
        status, answer = (
            (self.refuse, "{}") if self.refuse else self._answer(method, parts.path, query, parsed)
        )
        return HTTPResponse(
            _Body(answer.encode()),
            status=status,
            reason="Forbidden" if status == 403 else "",
            preload_content=preload_content,
        )

    def _answer(self, method, path, query, body) -> tuple[int, str]:
        kind = path.split("/")[-1] if method == "POST" else path.split("/")[-2]
        if method == "POST" and kind == "jobs":
            if self._job is not None:
                return 409, "{}"
            self.submitted.append(body)
            self._create(body)
            return 201, json.dumps(body)
        if path.endswith("/log"):
            return 200, self._log(path.split("/")[-2])
        if path.endswith("/pods"):
            assert self._job is None or query["labelSelector"] == f"volcano.sh/job-name={self._name}"
            return 200, json.dumps({"kind": "PodList", "apiVersion": "v1", "items": self._pods()})
        if method == "DELETE":
            return self._delete(body)
        return self._get()

    @property
    def _name(self) -> str:
        assert self._job is not None
        return self._job["metadata"]["name"]

    def _create(self, body) -> None:
        self._job, self._attempt, self._moment, self._going = body, self.attempts.pop(0), -1, 0

    def _delete(self, body) -> tuple[int, str]:
        if self._job is None:
            return 404, "{}"
        assert body["propagationPolicy"] == "Foreground"
        self._going = self._going or self.deletion_takes
        return 200, "{}"

    def _get(self) -> tuple[int, str]:
        if self._job is None or self._attempt is None:
            return 404, "{}"
        metadata = dict(self._job["metadata"])
        if self._going:
            metadata["deletionTimestamp"] = "2026-11-24T00:00:00Z"
            self._going -= 1
            if not self._going:
                self._job = None
        else:
            self._moment = min(self._moment + 1, len(self._attempt.moments) - 1)
        phase = self._attempt.moments[max(self._moment, 0)].phase
        return 200, json.dumps({"metadata": metadata, "status": {"state": {"phase": phase}} if phase else {}})

    def _pods(self) -> list[dict[str, Any]]:
        if self._job is None or self._attempt is None:
            return []
        found = []
        for replica, status in enumerate(self._attempt.moments[max(self._moment, 0)].pods):
            if status is not None:
                name = f"{self._name}-trainer-{replica}-0"
                labels = {"torchx.pytorch.org/replica-id": str(replica)}
                metadata = {"name": name, "uid": f"{len(self.submitted)}-{replica}", "labels": labels}
                found.append({"metadata": metadata, "status": status})
        return found

    def _log(self, pod_name: str) -> str:
        replica = int(pod_name.split("-")[-2])
        lines = self._attempt.logs.get(replica, []) if self._attempt else []
        return "".join(f"2026-11-24T00:00:00.{k:09d}Z {line}\n" for k, line in enumerate(lines))
