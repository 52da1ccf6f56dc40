"""The launcher for clusters, against a fake of the Kubernetes API behind the real client."""

import os
import signal
import threading
from pathlib import Path

import pytest
import yaml
from fake_volcano import Attempt, FakeVolcano, Moment, pod

from fakesound.core.errors import UserError
from fakesound.core.store import Store
from fakesound.orchestration import volcano
from fakesound.orchestration.cluster import Cluster
from fakesound.orchestration.launch_config import LaunchConfig
from fakesound.orchestration.rank_failure import RankFailure, TrainingFailedError
from fakesound.orchestration.training_app import TrainingJob
from fakesound.orchestration.vcjob import Owner, Surroundings

NAME = "train-0123456789abcdef"
MANIFEST = Path(__file__).parents[2] / "manifests" / "30-launcher.yaml"
RUNNING = Moment("Running", [pod("Running"), pod("Running")])
DONE = Moment("Completed", [pod("Succeeded", exit_code=0), pod("Succeeded", exit_code=0)])
GOOD = Attempt([Moment("", []), Moment("Pending", [pod("Pending"), None]), RUNNING, DONE])
EVICTED = Moment("Running", [pod("Running"), pod("Failed", exit_code=137, reason="OOMKilled")])
FIRST_GONE = Moment("Running", [pod("Failed", exit_code=1), pod("Running")])


@pytest.fixture(autouse=True)
def at_once(monkeypatch):
    monkeypatch.setattr(volcano, "POLL_S", 0.01)
    monkeypatch.setattr(volcano, "LAST_WORDS_S", 2.0)


def launch(fake, **values):
    job = TrainingJob(
        name=NAME,
        arguments=("s3://bucket/training/0123456789abcdef", "run-id"),
        launch=LaunchConfig.parse({"nodes": 2} | values),
        image="fakesound:0.1.0-cpu",
    )
    volcano.VolcanoLauncher(Cluster("fakesound", fake.client()), Surroundings()).run(job)


def failure(kind="own", message="ValueError: boom", rank=1, restart=0, time_s=1.0):
    told = RankFailure(
        kind=kind, message=message, trace=f"TRACE of {message}", rank=rank, restart=restart, time_s=time_s
    )
    return f"[rank{rank}]:{told.to_line()}"


def test_a_training_is_submitted_followed_and_done(capsys):
    logs = {0: ["[rank0]:epoch 1", "[rank0]:[Gloo] chatter"], 1: ["[rank1]:ready", "an agent's warning"]}
    fake = FakeVolcano(Attempt(GOOD.moments, logs))
    launch(fake)
    (body,) = fake.submitted
    assert body["metadata"]["name"] == NAME
    assert [task["name"] for task in body["spec"]["tasks"]] == ["trainer-0", "trainer-1"]
    out, err = capsys.readouterr()
    assert [out.count(f"{line}\n") for line in ("node 0 [rank0]:epoch 1", "node 1 [rank1]:ready")] == [1, 1]
    assert "chatter" not in out and "node 1 an agent's warning" in err
    assert not [request for request in fake.requests if request[0] == "DELETE"]  # it may be looked at


@pytest.mark.parametrize(
    "moment", [EVICTED, FIRST_GONE, Moment("Failed", [pod("Failed", exit_code=1), None])]
)
def test_a_lost_node_has_the_job_submitted_again_once_the_old_one_is_gone(moment, capsys):
    fake = FakeVolcano(Attempt([RUNNING, moment]), GOOD)
    launch(fake)
    assert len(fake.submitted) == 2
    assert fake.submitted[0] == fake.submitted[1]  # the same run, to go on from its checkpoint
    posts = [index for index, request in enumerate(fake.requests) if request[0] == "POST"]
    deleted = next(index for index, request in enumerate(fake.requests) if request[0] == "DELETE")
    gets = [request[0] for request in fake.requests[deleted : posts[1]]].count("GET")
    assert gets > fake.deletion_takes
    assert "Submitted again" in capsys.readouterr().out


def test_why_a_node_was_lost_is_said(capsys):
    with pytest.raises(
        TrainingFailedError, match=r"node 1 failed .OOMKilled, exit code 137.\. Given up after 1"
    ):
        launch(FakeVolcano(Attempt([RUNNING, EVICTED])), max_resubmits=0)
    assert "node 1 failed (OOMKilled, exit code 137)\n" in capsys.readouterr().out


def test_a_job_that_somebody_deleted_is_submitted_again(capsys):
    fake = FakeVolcano(Attempt([RUNNING]), GOOD)
    polls = 0
    answer = fake._answer

    def delete_at_the_third_poll(method, path, query, body):
        nonlocal polls
        polls += path.endswith("/pods")
        if polls == 3:
            polls += 1
            fake._job = None
        return answer(method, path, query, body)

    fake._answer = delete_at_the_third_poll
    launch(fake)
    assert len(fake.submitted) == 2
    assert "its job was deleted. Submitted again" in capsys.readouterr().out


def test_an_elastic_training_goes_on_without_a_node():
    shrunk = Moment("Completed", [pod("Succeeded", exit_code=0), pod("Failed", exit_code=137)])
    fake = FakeVolcano(Attempt([RUNNING, EVICTED, EVICTED, shrunk]))
    launch(fake, min_nodes=1)
    assert len(fake.submitted) == 1


def test_the_first_failing_ranks_own_traceback_is_the_error():
    logs = {
        0: [failure(kind="peer", message="RuntimeError: Connection closed by peer", rank=0, time_s=0.5)],
        1: [failure(message="ValueError: later", rank=3, time_s=3.0), failure(time_s=2.0)],
    }
    over = Moment("Failed", [pod("Failed", exit_code=1), pod("Failed", exit_code=1)])
    fake = FakeVolcano(Attempt([RUNNING, over], logs))
    with pytest.raises(
        TrainingFailedError, match=r"(?s)failed: ValueError: boom.*TRACE of ValueError: boom$"
    ):
        launch(fake)
    assert len(fake.submitted) == 1 and not fake.is_empty  # over: it may be looked at


def test_a_users_mistake_ends_the_job_at_once():
    fake = FakeVolcano(Attempt([RUNNING], {1: [failure(kind="user", message="mend me")]}))
    with pytest.raises(UserError, match=r"^mend me$"):
        launch(fake)
    assert len(fake.submitted) == 1 and fake.is_empty


def test_a_failure_that_comes_back_after_a_restart_ends_the_job():
    fake = FakeVolcano(Attempt([RUNNING], {1: [failure(), failure(restart=1)]}))
    with pytest.raises(TrainingFailedError, match="ValueError: boom"):
        launch(fake)
    assert fake.is_empty


def test_a_failure_that_a_restart_mends_is_none():
    launch(FakeVolcano(Attempt(GOOD.moments, {1: [failure(), "[rank1]:going on"]})))


def test_past_its_deadline_a_training_is_not_submitted_again():
    late = Moment("Failed", [pod("Failed") | {"reason": "DeadlineExceeded"}, pod("Failed", exit_code=1)])
    fake = FakeVolcano(Attempt([RUNNING, late]))
    with pytest.raises(UserError, match="deadline_s"):
        launch(fake)
    assert len(fake.submitted) == 1


def test_why_a_pod_waits_is_said_once(capsys):
    waiting = Moment("Pending", [pod("Pending", reason="ImagePullBackOff"), None])
    launch(FakeVolcano(Attempt([waiting, waiting, waiting, *GOOD.moments])))
    assert capsys.readouterr().out.count("node 0 pending (ImagePullBackOff)\n") == 1


def test_a_job_that_a_killed_launcher_left_is_followed(capsys):
    fake = FakeVolcano(Attempt([RUNNING, RUNNING, DONE], {0: ["[rank0]:old hand"]}))
    fake.leave_running(NAME)
    launch(fake)
    assert not fake.submitted
    assert "node 0 [rank0]:old hand\n" in capsys.readouterr().out


def test_a_job_that_is_over_makes_room_for_a_new_one():
    fake = FakeVolcano(Attempt([DONE]), GOOD)
    fake.leave_running(NAME)
    launch(fake)
    assert len(fake.submitted) == 1


def test_a_job_that_does_not_go_away_is_not_overtaken(monkeypatch):
    monkeypatch.setattr(volcano, "GONE_WITHIN_S", 0.05)
    fake = FakeVolcano(Attempt([RUNNING, EVICTED]), GOOD, deletion_takes=10**6)
    with pytest.raises(UserError, match="does not go away"):
        launch(fake)
    assert len(fake.submitted) == 1


def test_an_api_that_is_away_for_a_while_is_waited_for(monkeypatch):
    fake = FakeVolcano(GOOD)
    fake.unreachable = 5
    launch(fake)
    assert len(fake.submitted) == 1
    monkeypatch.setattr(volcano, "MAX_UNANSWERED", 3)
    fake = FakeVolcano(GOOD)
    fake.unreachable = 5
    with pytest.raises(TrainingFailedError, match="does not answer"):
        launch(fake)


def test_what_the_cluster_forbids_is_said_with_where_to_look():
    fake = FakeVolcano()
    fake.refuse = 403
    with pytest.raises(UserError, match=r"Forbidden.*30-launcher\.yaml"):
        launch(fake)


def test_sigterm_deletes_the_job():
    fake = FakeVolcano(Attempt([RUNNING]))
    answer = fake._answer
    timers = []

    def terminate_while_it_runs(method, path, query, body):
        if path.endswith("/pods") and not timers:
            timers.append(threading.Timer(0.05, os.kill, (os.getpid(), signal.SIGTERM)))
            timers[0].start()
        return answer(method, path, query, body)

    fake._answer = terminate_while_it_runs
    with pytest.raises(SystemExit) as left:
        launch(fake)
    assert left.value.code == 143
    assert fake.is_empty


def test_the_manifest_grants_what_the_launcher_asks_for_and_no_more():
    fake = FakeVolcano(Attempt([RUNNING, EVICTED], {0: ["[rank0]:a line"]}), GOOD)
    launch(fake)
    asked = set()
    for method, path, _, _ in fake.requests:
        kind, *rest = path.partition("/namespaces/fakesound/")[2].split("/")
        resource = f"{kind}/{rest[1]}" if len(rest) > 1 else kind
        verb = {"POST": "create", "DELETE": "delete"}.get(method, "get" if rest else "list")
        asked.add(("batch.volcano.sh" if path.startswith("/apis/batch.volcano.sh/") else "", resource, verb))
    role, _ = yaml.safe_load_all(MANIFEST.read_text())
    granted = {
        (group, resource, verb)
        for rule in role["rules"]
        for group in rule["apiGroups"]
        for resource in rule["resources"]
        for verb in rule["verbs"]
    }
    assert asked == granted


def test_a_job_takes_over_the_owner_and_the_tracking_server(monkeypatch, tmp_path):
    store = Store(str(tmp_path))
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    assert volcano.surroundings("fakesound", "", store) == Surroundings(store_folder=str(tmp_path))
    for name, value in (
        ("KFP_POD_NAME", "step"),
        ("KFP_POD_UID", "1-2"),
        ("MLFLOW_TRACKING_URI", "http://m"),
    ):
        monkeypatch.setenv(name, value)
    assert volcano.surroundings("fakesound", "kubeflow", store).owner is None
    found = volcano.surroundings("kubeflow", "kubeflow", Store("memory://bucket"))
    assert found == Surroundings(owner=Owner(name="step", uid="1-2"), env={"MLFLOW_TRACKING_URI": "http://m"})
