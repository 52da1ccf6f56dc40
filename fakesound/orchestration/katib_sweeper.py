"""Searching on a cluster: the experiment file, filled in, is created as a Katib Experiment and watched.

A trial is a Job that runs `fakesound train`. Katib's webhook joins its command and arguments into one line
for `sh -c`, unquoted: all but plain `--set` values reaches it through environment variables.
"""

import json
import signal
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from datetime import datetime
from typing import TYPE_CHECKING, Any, Protocol, Self, TypeVar, cast

from pydantic import ConfigDict
from pydantic.alias_generators import to_camel

from fakesound.core.config import Config
from fakesound.core.errors import UserError
from fakesound.core.progress import say
from fakesound.core.store import Store
from fakesound.orchestration.environment import (
    CONFIG_VARIABLE,
    FEATURES_VARIABLE,
    RUN_VARIABLE,
    STORE_VARIABLE,
)
from fakesound.orchestration.experiment import Experiment, Objective, ParameterValue, load_experiment
from fakesound.orchestration.kube import connect
from fakesound.orchestration.sweep import Best, Search, State, TrialInputs, TrialRecord, say_trial
from fakesound.orchestration.tracking import TRACKING_URI_VARIABLE, tracking_uri

if TYPE_CHECKING:
    from kubernetes.client import CustomObjectsApi

GROUP, VERSION = "kubeflow.org", "v1beta1"
EXPERIMENT_LABEL, TRIAL_LABEL = "katib.kubeflow.org/experiment", "katib.kubeflow.org/trial"
UNAVAILABLE = "unavailable"  # Katib's word for a metric that was never printed

POLL_S = 10.0
MAX_SILENT_POLLS = 30  # five minutes without an answer
_BUSY = (429, 500, 502, 503, 504)

T = TypeVar("T")


class ExperimentsApi(Protocol):
    """What is asked of the cluster, in one namespace."""

    def create(self, experiment: Mapping[str, Any]) -> None:
        """Create an Experiment."""
        ...

    def get(self, name: str) -> dict[str, Any] | None:
        """The Experiment of that name, or None."""
        ...

    def delete(self, name: str) -> None:
        """Delete an Experiment and all that belongs to it, and wait until it is gone."""
        ...

    def trials(self, name: str) -> list[dict[str, Any]]:
        """Trials of an Experiment, in any order."""
        ...


class SilentClusterError(UserError):
    """The cluster did not answer, or answered that it cannot answer now."""


class _Seen(Config):
    """A part of an object that Katib wrote: what is not needed of it is left aside."""

    model_config = ConfigDict(alias_generator=to_camel, extra="ignore", frozen=True)


class _Condition(_Seen):
    type: str
    status: str
    reason: str = ""
    message: str = ""


class _Metric(_Seen):
    name: str
    min: str = UNAVAILABLE
    max: str = UNAVAILABLE
    latest: str = UNAVAILABLE


class _Assignment(_Seen):
    name: str
    value: str


class _Observation(_Seen):
    metrics: tuple[_Metric, ...] | None = ()

    def value(self, objective: Objective) -> float | None:
        """The objective's value, as Katib takes it; None if it was never printed."""
        for metric in self.metrics or ():
            if metric.name == objective.objective_metric_name:
                strategic = getattr(metric, objective.strategy)
                text = metric.latest if strategic == UNAVAILABLE else strategic
                return None if text == UNAVAILABLE else float(text)
        return None


class _Optimum(_Seen):
    best_trial_name: str = ""
    parameter_assignments: tuple[_Assignment, ...] | None = ()
    observation: _Observation = _Observation()


class _Status(_Seen):
    conditions: tuple[_Condition, ...] = ()
    current_optimal_trial: _Optimum = _Optimum()
    trials_running: int = 0
    trials_pending: int = 0
    trials_succeeded: int = 0
    trials_failed: int = 0
    trials_early_stopped: int = 0
    trial_metrics_unavailable: int = 0

    def condition(self, kind: str) -> _Condition | None:
        """The condition of that type, if it is true."""
        return next((c for c in self.conditions if c.type == kind and c.status == "True"), None)

    def summary(self) -> str:
        """How far along the trials are."""
        failed = self.trials_failed + self.trial_metrics_unavailable
        return (
            f"{self.trials_succeeded} trials complete, {self.trials_early_stopped} stopped early, "
            f"{failed} failed, {self.trials_running} running, {self.trials_pending} waiting"
        )


class KatibSweeper:
    """Has Katib run the experiment.

    Args:
        api: the cluster.
        namespace: of the experiment and its trials; empty for the one that the experiment file names.
        image: what trials run in.
        sleep: waits between two looks.
    """

    def __init__(
        self, api: ExperimentsApi, namespace: str, image: str, sleep: Callable[[float], None] = time.sleep
    ) -> None:
        self._api = api
        self._namespace = namespace
        self._image = image
        self._sleep = sleep

    @classmethod
    def connect(cls, image: str) -> Self:
        """For the cluster of this pod, or of the kubeconfig.

        Raises:
            UserError: there is none, or no image was named.
        """
        if not image:
            raise UserError("sweeper=katib needs the image that trials run in: give --image")
        namespace = connect() or load_experiment().metadata.namespace
        return cls(ClusterExperiments(namespace), namespace, image)

    def run(self, search: Search) -> Best:
        """See `Sweeper.run`. An Experiment that already searches this place is taken up, not made again."""
        body = filled(search, namespace=self._namespace, image=self._image)
        check_job(body["spec"]["trialTemplate"]["trialSpec"])
        name = body["metadata"]["name"]
        with _deleted_unless_done(self._api, name):
            self._create(name, body)
            status, trials = self._watch(name, search)
        records = records_of(search.experiment, trials)
        for record in records:
            record.write(search.place)
            say_trial(search.experiment, record)
        return best_of_status(search.experiment, status, records)

    def _create(self, name: str, body: dict[str, Any]) -> None:
        found = self._api.get(name)
        if found is not None and _Status.parse(found.get("status", {})).condition("Failed"):
            say(f"experiment {name} failed earlier: it is deleted and created again")
            self._api.delete(name)
            found = None
        if found is not None:
            say(f"experiment {name} is there already: watching it")
            return
        self._api.create(body)
        say(f"created experiment {name}")

    def _watch(self, name: str, search: Search) -> tuple[_Status, list[dict[str, Any]]]:
        """Status and trials at the end, or when the hours are used up: then the experiment is deleted."""
        said = ""
        while True:
            status = self._look(name)
            if status.summary() != said:
                said = status.summary()
                say(said)
            failed = status.condition("Failed")
            if failed:
                raise UserError(self._explain(name, failed, status))
            trials = self._asked(lambda: self._api.trials(name))
            if status.condition("Succeeded"):
                return status, trials
            if search.is_out_of_time(records_of(search.experiment, trials, now=time.time())):
                say(f"the trials have used up {search.limits.max_trial_hours} hours: deleting the experiment")
                self._api.delete(name)
                return status, trials
            self._sleep(POLL_S)

    def _look(self, name: str) -> _Status:
        found = self._asked(lambda: self._api.get(name))
        if found is None:
            raise UserError(f"experiment {name} was deleted while it ran: the same command starts it again")
        return _Status.parse(found.get("status", {}))

    def _asked(self, question: Callable[[], T]) -> T:
        """The answer, asked again while the cluster is silent."""
        for _ in range(MAX_SILENT_POLLS):
            try:
                return question()
            except SilentClusterError as error:
                say(f"warning: {error}; asking again")
                self._sleep(POLL_S)
        return question()

    def _explain(self, name: str, failed: _Condition, status: _Status) -> str:
        trials = [
            f"{trial['metadata']['name']} ({_last_message(trial)})"
            for trial in self._api.trials(name)
            if _state_of(trial) == "failed"
        ]
        shown = f"; failed trials: {', '.join(trials)}" if trials else ""
        return (
            f"experiment {name} failed: {failed.message or failed.reason} ({status.summary()}{shown}). "
            f"A trial's own words: kubectl -n {self._namespace} logs -l {TRIAL_LABEL}=TRIAL --all-containers"
        )


class ClusterExperiments:
    """Experiments of one namespace, through the Kubernetes API.

    Args:
        namespace: to work in.
        api: of the `kubernetes` package; by default for the cluster that it is configured for.
        sleep: waits between two looks at what is being deleted.
    """

    PLURAL = "experiments"

    def __init__(
        self,
        namespace: str,
        api: "CustomObjectsApi | None" = None,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        from kubernetes.client import CustomObjectsApi

        self._api = api or CustomObjectsApi()
        self._namespace = namespace
        self._sleep = sleep

    def create(self, experiment: Mapping[str, Any]) -> None:
        """See `ExperimentsApi.create`."""
        with _api_errors("create the experiment"):
            self._api.create_namespaced_custom_object(
                GROUP, VERSION, self._namespace, self.PLURAL, dict(experiment)
            )

    def get(self, name: str) -> dict[str, Any] | None:
        """See `ExperimentsApi.get`."""
        from kubernetes.client import ApiException

        with _api_errors(f"read experiment {name}"):
            try:
                found = self._api.get_namespaced_custom_object(
                    GROUP, VERSION, self._namespace, self.PLURAL, name
                )
                return cast("dict[str, Any]", found)
            except ApiException as error:
                # Without Katib there is no such path at all, which is a 404 as well, but in plain text.
                if error.status == 404 and "page not found" not in (error.body or ""):
                    return None
                raise

    def delete(self, name: str) -> None:
        """See `ExperimentsApi.delete`."""
        from kubernetes.client import ApiException

        with _api_errors(f"delete experiment {name}"):
            try:
                self._api.delete_namespaced_custom_object(GROUP, VERSION, self._namespace, self.PLURAL, name)
            except ApiException as error:
                if error.status != 404:
                    raise
        for _ in range(60):
            if self.get(name) is None:
                return
            self._sleep(1.0)

    def trials(self, name: str) -> list[dict[str, Any]]:
        """See `ExperimentsApi.trials`."""
        with _api_errors(f"list trials of experiment {name}"):
            listed = self._api.list_namespaced_custom_object(
                GROUP, VERSION, self._namespace, "trials", label_selector=f"{EXPERIMENT_LABEL}={name}"
            )
        return cast("dict[str, Any]", listed)["items"]


def filled(search: Search, *, namespace: str, image: str) -> dict[str, Any]:
    """The Experiment to create: the file's, with image, data and budget.

    Raises:
        UserError: trials could not reach the store or the tracking server.
    """
    inputs, limits = search.inputs, search.limits
    experiment = search.experiment.manifest()
    spec = experiment["spec"]
    experiment["metadata"] |= {
        "name": f"{search.experiment.metadata.name}-{search.place.key}",
        "namespace": namespace,
    }
    spec["maxTrialCount"] = search.max_trials
    parallel = min(limits.parallel_trials, search.experiment.spec.parallel_trial_count)
    spec["parallelTrialCount"] = min(parallel, search.max_trials)
    spec["maxFailedTrialCount"] = min(search.experiment.spec.max_failed_trial_count, search.max_trials)
    job = spec["trialTemplate"]["trialSpec"]
    if limits.max_trial_hours is not None:
        job["spec"]["activeDeadlineSeconds"] = max(1, round(3600 * limits.max_trial_hours))
    primary = spec["trialTemplate"]["primaryContainerName"]
    container = next(c for c in job["spec"]["template"]["spec"]["containers"] if c["name"] == primary)
    container["image"] = image
    given = _environment(inputs)
    kept = [variable for variable in container.get("env", []) if variable["name"] not in given]
    container["env"] = kept + [{"name": name, "value": value} for name, value in given.items()]
    _check_store_is_seen(inputs.store_url, container, job["spec"]["template"]["spec"].get("volumes", []))
    return experiment


def check_job(job: Mapping[str, Any]) -> None:
    """Refuse what Kubernetes' Job has no field for: its API server would drop it without a word.

    Raises:
        UserError: names each such field.
    """
    from kubernetes.client import ApiClient

    client = ApiClient()
    response = _Response(json.dumps(job))
    try:
        understood = client.sanitize_for_serialization(client.deserialize(response, "V1Job"))
    except ValueError as error:
        raise UserError(f"the trial's Job is not one: {error}") from None
    if unknown := list(_missing_from(understood, job)):
        raise UserError(f"the trial's Job has fields that a Job does not have: {', '.join(unknown)}")


def records_of(
    experiment: Experiment, trials: list[dict[str, Any]], now: float | None = None
) -> list[TrialRecord]:
    """Trials that ended, in order of creation; with `now` also those under way, for their time until now."""
    records = []
    ordered = sorted(trials, key=lambda t: (t["metadata"]["creationTimestamp"], t["metadata"]["name"]))
    for number, trial in enumerate(ordered):
        state = _state_of(trial)
        if state is None and now is None:
            continue
        status = trial.get("status", {})
        value = _Observation.parse(status.get("observation") or {}).value(experiment.spec.objective)
        records.append(
            TrialRecord(
                number=number,
                parameters=_parameters(experiment, trial["spec"].get("parameterAssignments", [])),
                state=state or "complete",
                value=None if state == "failed" else value,
                seconds=_seconds(status, now),
                error=f"{trial['metadata']['name']}: {_last_message(trial)}" if state == "failed" else "",
            )
        )
    return records


def best_of_status(experiment: Experiment, status: _Status, records: list[TrialRecord]) -> Best:
    """The optimum that Katib found, as the local sweeper gives it.

    Raises:
        UserError: there is none.
    """
    optimum = status.current_optimal_trial
    value = optimum.observation.value(experiment.spec.objective)
    if not optimum.parameter_assignments or value is None:
        raise UserError(f"no trial of {len(records)} printed a score: nothing to choose from")
    parameters = _parameters(experiment, [vars(a) for a in optimum.parameter_assignments])
    number = next((record.number for record in records if record.parameters == parameters), 0)
    return Best(value, number, parameters, experiment.overrides(parameters))


class _Response:
    """What `ApiClient.deserialize` reads from."""

    def __init__(self, data: str) -> None:
        self.data = data


def _environment(inputs: TrialInputs) -> dict[str, str]:
    """What a trial is told. Kubernetes takes `$(NAME)` for another variable, and `$$` for a dollar."""
    uri = tracking_uri(Store(inputs.store_url))
    if not uri.startswith(("http://", "https://")):
        raise UserError(f"trials on a cluster report to an MLflow server: set {TRACKING_URI_VARIABLE}")
    values = {
        STORE_VARIABLE: inputs.store_url,
        CONFIG_VARIABLE: inputs.config,
        FEATURES_VARIABLE: json.dumps(asdict(inputs.features), sort_keys=True),
        RUN_VARIABLE: inputs.run,
        TRACKING_URI_VARIABLE: uri,
    }
    return {name: value.replace("$", "$$") for name, value in values.items()}


def _check_store_is_seen(url: str, container: Mapping[str, Any], volumes: list[Mapping[str, Any]]) -> None:
    root = Store(url).local_root
    if root is None:
        return
    of_the_pod_alone = {volume["name"] for volume in volumes if "emptyDir" in volume}
    shared = [m for m in container.get("volumeMounts", []) if m["name"] not in of_the_pod_alone]
    if not any(root.is_relative_to(mount["mountPath"]) for mount in shared):
        raise UserError(
            f"trials on a cluster cannot see the store {url}: use a remote one (s3://…), or mount it in the "
            "trial template of the experiment file"
        )


def _missing_from(understood: Any, given: Any, path: str = "") -> Iterator[str]:
    """Paths of what `given` has and `understood` has not."""
    if isinstance(given, Mapping):
        for key, value in given.items():
            if not isinstance(understood, Mapping) or key not in understood:
                if value not in ({}, [], None):
                    yield f"{path}{key}"
            else:
                yield from _missing_from(understood[key], value, f"{path}{key}.")
    elif isinstance(given, list):
        for k, value in enumerate(given):
            inner = understood[k] if isinstance(understood, list) and k < len(understood) else None
            yield from _missing_from(inner, value, f"{path}{k}.")


def _parameters(experiment: Experiment, assignments: list[Mapping[str, str]]) -> dict[str, ParameterValue]:
    by_name = {parameter.name: parameter for parameter in experiment.spec.parameters}
    return {given["name"]: by_name[given["name"]].parse_value(given["value"]) for given in assignments}


def _state_of(trial: Mapping[str, Any]) -> State | None:
    """How a trial ended; None while it has not. Katib looks in this order too."""
    true = {c["type"] for c in trial.get("status", {}).get("conditions", []) if c["status"] == "True"}
    if true & {"Killed", "Failed", "MetricsUnavailable"}:
        return "failed"
    if "EarlyStopped" in true:
        return "stopped"
    return "complete" if "Succeeded" in true else None


def _last_message(trial: Mapping[str, Any]) -> str:
    conditions = trial.get("status", {}).get("conditions", [])
    return conditions[-1].get("message") or conditions[-1].get("reason", "") if conditions else ""


def _seconds(status: Mapping[str, Any], now: float | None) -> float:
    start, end = status.get("startTime"), status.get("completionTime")
    if not start or not (end or now):
        return 0.0
    ended = _timestamp(end) if end else now
    assert ended is not None
    return max(0.0, ended - _timestamp(start))


def _timestamp(text: str) -> float:
    return datetime.fromisoformat(text).timestamp()


@contextmanager
def _deleted_unless_done(api: ExperimentsApi, name: str) -> Iterator[None]:
    """If the step is told to end, the experiment goes with it. One that failed stays, to be looked at."""

    def end(number: int, _: object) -> None:
        raise SystemExit(128 + number)

    before = signal.signal(signal.SIGTERM, end)
    try:
        yield
    except (SystemExit, KeyboardInterrupt):
        signal.signal(signal.SIGTERM, signal.SIG_IGN)  # the next thing to be cut short would be the deletion
        say(f"told to end: deleting experiment {name}")
        api.delete(name)
        raise
    finally:
        signal.signal(signal.SIGTERM, before)


@contextmanager
def _api_errors(doing: str) -> Iterator[None]:
    """What the cluster answers, as messages that say what to do."""
    from kubernetes.client import ApiException
    from urllib3.exceptions import HTTPError

    try:
        yield
    except HTTPError as error:
        raise SilentClusterError(f"cannot {doing}: the cluster does not answer ({error})") from None
    except ApiException as error:
        if error.status in _BUSY:
            raise SilentClusterError(f"cannot {doing}: the cluster answers {error.status}") from None
        hints = {
            403: "apply manifests/41-sweep-access.yaml for the service account of the step",
            404: "is Katib installed in the cluster?",
        }
        hint = hints.get(error.status or 0, "Katib refused it")
        raise UserError(
            f"cannot {doing} ({error.status} {error.reason}): {hint}. {_said(error.body)}"
        ) from None


def _said(body: str | None) -> str:
    """The message in an error that the API server sent."""
    try:
        return json.loads(body or "")["message"]
    except (ValueError, KeyError, TypeError):
        return (body or "")[:500]
