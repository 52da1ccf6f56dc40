import os
import subprocess
import sys

import pytest

from fakesound.core.errors import UserError
from fakesound.core.store import Store
from fakesound.orchestration.stages.run import close_run, open_run
from fakesound.orchestration.tracking import Tracking, flatten, has_tracking, open_command, tracking_uri


@pytest.fixture(autouse=True)
def no_server(monkeypatch, tmp_path):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "no cluster"))


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return Store(str(tmp_path_factory.mktemp("store")))


def open_it(store, **changes):
    values = {
        "store": store.url,
        "config": "builtin",
        "recordings": "",
        "launcher": "local",
        "sweeper": "optuna",
    }
    return open_run(**values | {"job_id": "job-1"} | changes)


def test_a_run_is_opened_with_its_parameters_and_closed_with_its_outcome(store):
    assert not has_tracking(store)
    run = open_it(store, job_id="good")
    failed = open_it(store, job_id="bad")
    close_run(store=store.url, job_id="good", state="SUCCEEDED")
    close_run(store=store.url, job_id="bad", state="FAILED")
    client = Tracking(store).client
    assert has_tracking(store)
    assert client.get_run(run).info.status == "FINISHED"
    assert client.get_run(failed).info.status == "FAILED"
    data = client.get_run(run).data
    assert data.params["training.schedule.peak_lr"]
    assert data.tags["fakesound.job"] == "good"
    assert data.tags["fakesound.recordings"] == "builtin"


def test_a_run_whose_process_was_killed_is_closed_by_the_next_one(store, monkeypatch):
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    monkeypatch.setenv("FAKESOUND_RUN_PID", str(process.pid))
    killed = open_it(store, job_id="killed")
    tracking = Tracking(store)
    child = tracking.start("trial", "trial", parent=killed)
    bystander = tracking.start("by hand", "training")
    monkeypatch.setenv("FAKESOUND_RUN_PID", str(os.getpid()))
    alive = open_it(store, job_id="alive")
    open_it(store, job_id="next")
    status = {run: tracking.client.get_run(run).info.status for run in (killed, child, bystander, alive)}
    assert status == {killed: "KILLED", child: "KILLED", bystander: "RUNNING", alive: "RUNNING"}


def test_closing_what_was_never_opened_is_no_error(store):
    close_run(store=store.url, job_id="never", state="FAILED")


@pytest.mark.parametrize(
    "changes",
    [{"launcher": "volcano"}, {"sweeper": "katib"}, {"config": "{nonsense: 1}"}, {"job_id": "../up"}],
)
def test_what_cannot_be_run_is_refused_before_any_work(store, changes):
    with pytest.raises(UserError):
        open_it(store, **changes)


def test_children_metrics_and_files(store, tmp_path):
    tracking = Tracking(store)
    parent = tracking.start("p", "pipeline")
    child = tracking.start("c", "trial", parent=parent, params={"a": {"b": 1}, "long": "x" * 900})
    for step in (1, 2):
        tracking.log_metrics(
            child,
            {"loss": 1 / step, "nan": float("nan"), "words": "no", "flag": True, "v": {"x": 2}},
            step=step,
        )
    (tmp_path / "report.html").write_text("<p>")
    tracking.log_file(child, tmp_path / "report.html")
    tracking.finish(child, succeeded=True)
    found = tracking.client.get_run(child)
    assert found.data.tags["mlflow.parentRunId"] == parent
    assert found.data.params["a.b"] == "1"
    assert found.data.metrics == {"loss": 0.5, "v.x": 2.0}
    assert [m.step for m in tracking.client.get_metric_history(child, "loss")] == [1, 2]
    assert store.local_root is not None
    assert list((store.local_root / "mlflow" / "artifacts").rglob("report.html"))


def test_a_remote_store_needs_a_server(monkeypatch):
    remote = Store("memory://bucket/store")
    with pytest.raises(UserError, match="MLFLOW_TRACKING_URI"):
        tracking_uri(remote)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://mlflow:5000")
    assert tracking_uri(remote) == "http://mlflow:5000"
    assert open_command(remote) == "http://mlflow:5000"


def test_nested_names_are_joined():
    assert flatten({"a": {"b": {"c": 1}}, "d": 2}) == {"a.b.c": 1, "d": 2}
