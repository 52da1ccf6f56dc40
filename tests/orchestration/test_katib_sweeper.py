"""Katib's side is played by a fake that keeps objects as the cluster would, with Katib 0.19's statuses."""

import os
import signal
import subprocess
from pathlib import Path

import pytest
import yaml
from kubernetes.client import ApiException
from sweeps import Objective, changed, search_of
from urllib3.exceptions import MaxRetryError

from fakesound.core.errors import UserError
from fakesound.core.store import Pointer, Store
from fakesound.orchestration import katib_sweeper
from fakesound.orchestration.config import RunConfig
from fakesound.orchestration.experiment import load_experiment
from fakesound.orchestration.katib_sweeper import (
    ClusterExperiments,
    KatibSweeper,
    SilentClusterError,
    check_job,
    filled,
)
from fakesound.orchestration.sweep import TrialInputs, get_sweeper, read_trials

GOLDEN = Path(__file__).with_name("katib_experiment.yaml")
NAME = "fakesound-sweep-0123456789abcdef"


@pytest.fixture(autouse=True)
def server(monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://mlflow.fakesound:5000")


@pytest.fixture
def place(tmp_path):
    return Store(str(tmp_path)).place("sweeps", "0123456789abcdef")


def condition(kind, message=""):
    return {"type": kind, "status": "True", "reason": f"{kind}Reason", "message": message}


def point(weight):
    middle = {p.name: p.bounds[0] for p in load_experiment().spec.parameters}
    return middle | {"posWeight": weight, "frequencyMasks": 2}


def assignments(weight):
    return [{"name": name, "value": str(value)} for name, value in point(weight).items()]


def observation(score):
    metric = {"name": "validation_score", "min": "0.1", "max": str(score), "latest": "0.2"}
    return {"metrics": [metric]}


def trial(number, end, *, score=None, minutes=30):
    status = {
        "startTime": "2026-11-24T10:00:00Z",
        "completionTime": f"2026-11-24T10:{minutes:02d}:00Z",
        "conditions": [condition("Created"), condition(end, f"Trial is {end}")],
    }
    if score is not None:
        status["observation"] = observation(score)
    return {
        "metadata": {
            "name": f"{NAME}-{9 - number}abc",
            "creationTimestamp": f"2026-11-24T09:{number:02d}:00Z",
        },
        "spec": {"parameterAssignments": assignments(number + 1)},
        "status": status,
    }


TRIALS = [
    trial(2, "MetricsUnavailable"),
    trial(0, "Succeeded", score=0.5),
    trial(1, "Succeeded", score=0.75),
    trial(3, "EarlyStopped", score=0.3),
    trial(4, "Failed"),
]


def status(end=None, message="", **counts):
    found = {"conditions": [condition("Created"), condition("Running")], **counts}
    if end:
        found["conditions"].append(condition(end, message))
    found["currentOptimalTrial"] = {
        "bestTrialName": f"{NAME}-8abc",
        "parameterAssignments": assignments(2),
        "observation": observation(0.75),
    }
    return found


class Cluster:
    """Experiments by name; each look at one moves it on by one status."""

    def __init__(self, statuses, trials=TRIALS):
        self.statuses, self.listed = list(statuses), trials
        self.experiments, self.created, self.deleted, self.silent = {}, [], [], 0

    def create(self, experiment):
        self.created.append(experiment)
        self.experiments[experiment["metadata"]["name"]] = dict(experiment)

    def get(self, name):
        if self.silent:
            self.silent -= 1
            raise SilentClusterError("cannot read: the cluster answers 503")
        found = self.experiments.get(name)
        if found is not None and self.statuses:
            found["status"] = self.statuses.pop(0) if len(self.statuses) > 1 else self.statuses[0]
        return found

    def delete(self, name):
        self.deleted.append(name)
        self.experiments.pop(name, None)

    def trials(self, name):
        return self.listed


def sweeper(cluster, sleep=lambda seconds: None):
    return KatibSweeper(cluster, "fakesound", "registry.example/fakesound@sha256:0", sleep)


def test_the_experiment_that_is_created_is_the_file_with_image_data_and_budget(place):
    search = search_of(place, max_trials=12, parallel_trials=4, max_trial_hours=6.0)
    made = filled(search, namespace="fakesound", image="registry.example/fakesound@sha256:0")
    assert yaml.safe_load(GOLDEN.read_text()) == made


def test_a_trials_job_has_no_field_that_kubernetes_does_not_know(place):
    job = filled(search_of(place), namespace="n", image="i")["spec"]["trialTemplate"]["trialSpec"]
    check_job(job)
    job["spec"]["template"]["spec"]["containers"][0]["resource"] = {"limits": {"nvidia.com/gpu": "1"}}
    job["spec"]["backOffLimit"] = 0
    with pytest.raises(UserError, match=r"spec\.backOffLimit.*|containers\.0\.resource") as raised:
        check_job(job)
    assert "spec.template.spec.containers.0.resource" in str(raised.value)
    assert "spec.backOffLimit" in str(raised.value)


def test_a_trial_trains_from_its_environment_what_the_configuration_says(place, tmp_path):
    """What the shell of Katib's wrapper makes of the line, and what kubelet makes of the variables."""
    config = RunConfig.load("builtin", ["corpus.group_pattern='$(x)/([^/]+) \"$'"]).to_json()
    pointer = Pointer("s3://bucket/store/features/k", "d" * 64)
    search = search_of(place)
    inputs = TrialInputs("s3://bucket/store", config, pointer, "run-1")
    search = type(search)(search.experiment, search.limits, inputs, place)
    made = filled(search, namespace="n", image="i")
    container = made["spec"]["trialTemplate"]["trialSpec"]["spec"]["template"]["spec"]["containers"][0]
    kubelet = {v["name"]: v["value"].replace("$$", "$") for v in container["env"]}
    assert kubelet["FAKESOUND_CONFIG"] == config
    assert Pointer.read(kubelet["FAKESOUND_FEATURES"]) == pointer
    line = " ".join([*container["command"], *container["args"]])
    for name, value in point(2.5).items():
        line = line.replace(f"${{trialParameters.{name}}}", str(value))
    shell = f"fakesound() {{ printf '%s\\n' \"$@\"; }}; {line}"
    said = subprocess.run(["sh", "-c", shell], capture_output=True, text=True, check=True).stdout.split("\n")
    overrides = [word.removeprefix("--set=") for word in said if word.startswith("--set=")]
    trained = RunConfig.load(kubelet["FAKESOUND_CONFIG"], overrides)
    assert trained.training.loss.pos_weight == 2.5
    assert trained.corpus.group_pattern == RunConfig.load(config).corpus.group_pattern


def test_it_is_watched_to_its_end_and_the_optimum_is_what_the_local_sweeper_would_give(place, capsys):
    running = status(trialsRunning=3, trialsPending=1)
    cluster = Cluster([running, running, status("Succeeded", trialsSucceeded=2, trialsFailed=1)])
    best = sweeper(cluster).run(search_of(place))
    assert (best.value, best.number, best.parameters) == (0.75, 1, point(2))
    assert isinstance(best.parameters["frequencyMasks"], int)
    assert best.overrides == load_experiment().overrides(best.parameters)
    states = [(r.number, r.state, r.value, r.seconds) for r in read_trials(place)]
    assert states == [
        (0, "complete", 0.5, 1800),
        (1, "complete", 0.75, 1800),
        (2, "failed", None, 1800),
        (3, "stopped", 0.3, 1800),
        (4, "failed", None, 1800),
    ]
    assert cluster.deleted == []
    said = capsys.readouterr().out
    assert said.count("3 running") == 1
    assert "Trial is MetricsUnavailable" in said


def test_one_that_is_there_already_is_taken_up(place):
    cluster = Cluster([status(trialsRunning=1), status("Succeeded")])
    cluster.experiments[NAME] = {}
    assert sweeper(cluster).run(search_of(place)).value == 0.75
    assert cluster.created == []


def test_one_that_failed_earlier_is_created_again(place):
    cluster = Cluster([status("Failed"), status("Succeeded")])
    cluster.experiments[NAME] = {}
    assert sweeper(cluster).run(search_of(place)).value == 0.75
    assert (cluster.deleted, len(cluster.created)) == ([NAME], 1)


def test_one_that_fails_says_why(place):
    failing = status("Failed", "Experiment has failed because max failed count has reached", trialsFailed=3)
    cluster = Cluster([failing])
    with pytest.raises(UserError, match=r"max failed count has reached.*3 failed") as raised:
        sweeper(cluster).run(search_of(place))
    assert f"{NAME}-5abc (Trial is Failed)" in str(raised.value)
    assert "kubectl -n fakesound logs" in str(raised.value)
    assert cluster.deleted == []  # it stays, to be looked at


def test_when_the_hours_are_used_up_it_is_deleted_and_the_best_so_far_is_taken(place, capsys):
    cluster = Cluster([status(trialsRunning=1)])
    best = sweeper(cluster).run(search_of(place, max_trial_hours=2.5))
    assert (best.value, best.number) == (0.75, 1)
    assert cluster.deleted == [NAME]
    assert "used up 2.5 hours" in capsys.readouterr().out
    assert len(read_trials(place)) == 5


def test_a_step_that_is_told_to_end_takes_the_experiment_with_it(place):
    cluster = Cluster([status(trialsRunning=1)])
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(SystemExit) as raised:
        sweeper(cluster, sleep=lambda seconds: os.kill(os.getpid(), signal.SIGTERM)).run(search_of(place))
    assert raised.value.code == 128 + signal.SIGTERM
    assert cluster.deleted == [NAME]
    assert signal.getsignal(signal.SIGTERM) is before


def test_a_silent_cluster_is_asked_again_and_given_up_in_the_end(place, capsys):
    class SilentForAWhile(Cluster):
        def create(self, experiment):
            super().create(experiment)
            self.silent = 5

    assert sweeper(SilentForAWhile([status("Succeeded")])).run(search_of(place)).value == 0.75
    assert capsys.readouterr().out.count("asking again") == 5

    class SilentForEver(Cluster):
        def create(self, experiment):
            super().create(experiment)
            self.silent = 10**9

    with pytest.raises(UserError, match="503"):
        sweeper(SilentForEver([status("Succeeded")])).run(search_of(place))


def test_one_that_somebody_deletes_is_no_endless_wait(place):
    cluster = Cluster([status(trialsRunning=1)])
    with pytest.raises(UserError, match="was deleted while it ran"):
        sweeper(cluster, sleep=lambda seconds: cluster.experiments.clear()).run(search_of(place))


def test_no_score_anywhere_is_said(place):
    nothing = {"conditions": [condition("Succeeded")], "currentOptimalTrial": {"bestTrialName": ""}}
    with pytest.raises(UserError, match="no trial of 0 printed a score"):
        sweeper(Cluster([nothing], trials=[])).run(search_of(place))


def test_trials_must_reach_store_and_tracking_server(place, monkeypatch, tmp_path):
    inputs = TrialInputs(str(tmp_path), "{}", Pointer("u", "d"), "")
    search = search_of(place)
    local = type(search)(search.experiment, search.limits, inputs, place)
    with pytest.raises(UserError, match="cannot see the store"):
        filled(local, namespace="n", image="i")

    def mount(spec):
        container = spec["trialTemplate"]["trialSpec"]["spec"]["template"]["spec"]["containers"][0]
        container["volumeMounts"].append({"name": "store", "mountPath": str(tmp_path.parent)})

    filled(type(search)(changed(mount), search.limits, inputs, place), namespace="n", image="i")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "sqlite:///runs.db")
    with pytest.raises(UserError, match="set MLFLOW_TRACKING_URI"):
        filled(search, namespace="n", image="i")


class Api:
    """Stands in for CustomObjectsApi: answers or raises in turn, and keeps what it was asked."""

    def __init__(self, *answers):
        self.answers, self.asked = list(answers), []

    def __getattr__(self, name):
        def ask(*arguments, **keywords):
            self.asked.append((name, arguments, keywords))
            answer = self.answers.pop(0)
            if isinstance(answer, Exception):
                raise answer
            return answer

        return ask


def refusal(code, body=None):
    error = ApiException(status=code, reason="Reason")
    error.body = body
    return error


def test_the_cluster_is_asked_in_kubernetes_terms():
    api = Api({}, {"status": {}}, refusal(404, "{}"), {"items": [1]}, {}, refusal(404, "{}"))
    cluster = ClusterExperiments("fakesound", api)
    cluster.create({"metadata": {"name": "e"}})
    assert cluster.get("e") == {"status": {}}
    assert cluster.get("e") is None
    assert cluster.trials("e") == [1]
    cluster.delete("e")
    where = ("kubeflow.org", "v1beta1", "fakesound")
    assert [(name, arguments) for name, arguments, _ in api.asked] == [
        ("create_namespaced_custom_object", (*where, "experiments", {"metadata": {"name": "e"}})),
        ("get_namespaced_custom_object", (*where, "experiments", "e")),
        ("get_namespaced_custom_object", (*where, "experiments", "e")),
        ("list_namespaced_custom_object", (*where, "trials")),
        ("delete_namespaced_custom_object", (*where, "experiments", "e")),
        ("get_namespaced_custom_object", (*where, "experiments", "e")),
    ]
    assert api.asked[3][2] == {"label_selector": "katib.kubeflow.org/experiment=e"}


@pytest.mark.parametrize(
    ("answer", "kind", "complaint"),
    [
        (refusal(403, '{"message": "cannot create"}'), UserError, r"41-sweep-access.yaml.*cannot create"),
        (refusal(404, "404 page not found"), UserError, "is Katib installed"),
        (refusal(400, '{"message": "webhook: bad space"}'), UserError, "refused it. webhook: bad space"),
        (refusal(503), SilentClusterError, "answers 503"),
        (MaxRetryError(None, "/"), SilentClusterError, "does not answer"),
    ],
)
def test_what_the_cluster_refuses_is_a_message(answer, kind, complaint):
    with pytest.raises(UserError, match=complaint) as raised:
        ClusterExperiments("n", Api(answer, answer)).create({})
    assert type(raised.value) is kind


def test_with_a_kubeconfig_the_sweeper_is_katibs(tmp_path, monkeypatch):
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)
    named = [{"name": "c", "cluster": {"server": "https://127.0.0.1:1"}}]
    context = [{"name": "c", "context": {"cluster": "c", "user": "u", "namespace": "team"}}]
    users = [{"name": "u", "user": {}}]
    kubeconfig = {"current-context": "c", "clusters": named, "contexts": context, "users": users}
    path = tmp_path / "kubeconfig"
    path.write_text(yaml.safe_dump(kubeconfig))
    monkeypatch.setenv("KUBECONFIG", str(path))
    monkeypatch.setattr("kubernetes.config.kube_config.KUBE_CONFIG_DEFAULT_LOCATION", str(path))
    made = get_sweeper("katib", objective=Objective(), image="fakesound:1")
    assert isinstance(made, KatibSweeper)


def test_access_is_what_the_sweeper_uses():
    manifest = Path(__file__).parents[2] / "manifests" / "41-sweep-access.yaml"
    role = next(yaml.safe_load_all(manifest.read_text()))
    allowed = {rule["resources"][0]: set(rule["verbs"]) for rule in role["rules"]}
    assert {rule["apiGroups"][0] for rule in role["rules"]} == {katib_sweeper.GROUP}
    assert {"create", "get", "delete"} <= allowed["experiments"]
    assert {"get", "list"} == allowed["trials"]
